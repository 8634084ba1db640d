Feature: The database goes away and comes back
  An entry is kept until it is in the log; it gets there once, in its place, and whoever asks is told the truth meanwhile.

  Background:
    Given an empty audit log
    And a buffer in front of it

  Scenario: An outage between two transactions
    When the application records 50 entries
    And the application flushes
    And the database goes away
    And the application records 50 entries
    And the application tries to flush
    Then it is told SinkError: "the database is away"
    And the log holds the entries 1 to 50 in this order
    When the database answers again
    And the application records 50 entries
    And the application flushes
    Then the log holds the entries 1 to 150 in this order

  Scenario: The answer to a COMMIT is lost
    Given the answer to the next COMMIT is lost
    When the application records 20 entries
    And the application flushes for at most 20 seconds
    Then the log holds the entries 1 to 20 in this order
    When the application records 20 entries
    And the application flushes
    Then the log holds the entries 1 to 40 in this order

  Scenario: A flush with a deadline outlasts a short outage
    Given the database refuses the next 3 transactions
    When the application records 10 entries
    And the application flushes for at most 20 seconds
    Then the log holds the entries 1 to 10 in this order
    And the application was told of 3 failures

  Scenario: Starting during an outage
    Given the database goes away
    When the application opens a buffer
    And the application records 10 entries
    Then the operator was warned that the database cannot be reached
    When the database answers again
    And the application flushes
    Then the log holds the entries 1 to 10 in this order

  Scenario: Giving up is loud
    Given time stands still
    And a buffer in front of it that gives up after 60 seconds
    And the database goes away
    When the application records 5 entries
    And the application tries to flush
    And 60 seconds pass
    And the application tries to record an entry
    Then it is told BufferClosed: "the buffer is failed"
    And the buffer still counts 5 pending entries

  Scenario Outline: The server drops every connection
    Given an empty audit log in <database>
    And a buffer in front of it
    When the application records 100 entries
    And the application flushes
    And the server drops every connection
    And the application records 100 entries
    And the application flushes for at most 20 seconds
    Then the log holds the entries 1 to 200 in this order

    @postgresql
    Examples: PostgreSQL
      | database   |
      | PostgreSQL |

    @mariadb
    Examples: MariaDB
      | database |
      | MariaDB  |
