Feature: Flushing and closing
  The application can know what is in the log, and never waits for that without an end.

  Background:
    Given an empty audit log
    And a buffer in front of it

  Scenario: After a flush everything is in the log
    When the application records 25 entries
    And the application flushes
    Then the log holds the entries 1 to 25 in this order
    And no entry is pending

  Scenario: Waiting for one entry
    When the application records 3 entries
    And the application waits for entry 2
    Then the log holds at least the entries 1 to 2

  Scenario: Closing writes what is left
    When the application records 25 entries
    And the application closes the buffer
    Then the log holds the entries 1 to 25 in this order

  Scenario: Closing twice changes nothing
    When the application records 5 entries
    And the application closes the buffer
    And the application closes the buffer
    Then the log holds the entries 1 to 5 in this order

  Scenario: After closing nothing is taken any more
    When the application closes the buffer
    And the application tries to record an entry
    Then it is told BufferClosed: "takes no more entries"
    And the log holds nothing

  Scenario: A failing operation still leaves its trail
    When a block that holds a buffer records 3 entries and then fails
    Then the log holds the entries 1 to 3 in this order

  Scenario: A forgotten buffer is told of, and loses nothing
    When the application records 5 entries
    And the application forgets the buffer
    Then a warning says "was never closed"
    And the log holds the entries 1 to 5 in this order

  Scenario: A flush keeps its deadline
    Given the database does not answer
    When the application records 7 entries
    And the application flushes for at most 0.01 seconds
    Then it is told FlushTimeout: "7 entries still wait"
    When the database answers again
    And the application flushes
    Then the log holds the entries 1 to 7 in this order

  Scenario: Closing keeps its deadline, and loses nothing
    Given the database does not answer
    When the application records 7 entries
    And the application closes the buffer within 0.01 seconds
    Then it is told FlushTimeout: "7 entries still wait"
    When the database answers again
    And the application closes the buffer
    Then the log holds the entries 1 to 7 in this order
