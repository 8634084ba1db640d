Feature: Reading the log through the buffer
  Who records something and looks for it finds it.

  Background:
    Given an empty audit log

  Scenario: What was recorded can be read at once
    Given a buffer in front of it
    When the application records 3 entries
    And the application asks for the entries by "agent-7"
    Then it sees the entries 1 to 3

  Scenario: Only what was asked for
    Given a buffer in front of it
    When the application records 2 entries by "maria"
    And the application records 3 entries by "agent-7"
    Then it counts 2 entries by "maria"

  Scenario: Reading without waiting, where that matters more
    Given a buffer in front of it that does not flush for readers
    And the database does not answer
    When the application records 3 entries
    And the application asks for the entries by "agent-7"
    Then it sees nothing

  Scenario: Reading during an outage is an error and not an old answer
    Given a buffer in front of it
    And the database goes away
    When the application records 3 entries
    And the application tries to count the entries
    Then it is told SinkError: "the database is away"
