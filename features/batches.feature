Feature: When entries are brought to the log
  Entries travel together. What is ready, large or old enough goes at once; an application that is silent costs nothing.

  Background:
    Given an empty audit log
    And time stands still

  Scenario: As soon as there are enough entries
    Given a buffer in front of it that writes 10 entries at a time
    When the application records 9 entries
    Then the log holds nothing
    When the application records 1 entry
    Then the log gets 10 entries in one transaction

  Scenario: As soon as there is enough to carry
    Given a buffer in front of it that writes 1000 bytes at a time
    When the application records 2 entries of 400 bytes
    Then the log holds nothing
    When the application records 1 entry of 400 bytes
    Then the log gets the first entry at once

  Scenario: As soon as the oldest entry is old enough
    Given a buffer in front of it that lets an entry wait for 2 seconds
    When the application records 1 entry
    And 1.5 seconds pass
    Then the log holds nothing
    When the application records 2 entries
    And 0.5 seconds pass
    Then the log holds the entries 1 to 3 in this order

  Scenario: A backlog is taken in full batches
    Given a buffer in front of it that writes 100 entries at a time
    And the database does not answer
    When the application records 1000 entries
    And the database answers again
    And the application flushes
    Then the log got 10 transactions of 100 entries

  Scenario: A silent application costs nothing
    Given a buffer in front of it that lets an entry wait for 2 seconds
    When the application records 1 entry
    And 2 seconds pass
    Then the writer sleeps until something is recorded
