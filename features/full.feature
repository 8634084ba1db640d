Feature: The buffer is full
  The room of a buffer is bounded. What happens at the bound is the operator's choice, and the order holds under each choice.

  Background:
    Given an empty audit log
    And time stands still

  Scenario: Wait for room
    Given a buffer in front of it that does "block" when it is full
    And the database does not answer, and the buffer is full
    When another thread records an entry
    Then that thread waits
    When the database answers again
    Then that thread has recorded entry 5
    And after a flush the log holds the entries 1 to 5 in this order

  Scenario: Wait for room, but not for ever
    Given a buffer in front of it that does "block" when it is full
    And the database does not answer, and the buffer is full
    When another thread records an entry
    Then that thread waits
    When 2 seconds pass
    Then that thread is told BufferFull: "the ring stayed full for block_timeout = 2 s"
    When the database answers again
    Then after a flush the log holds the entries 1 to 4 in this order

  Scenario: Refuse
    Given a buffer in front of it that does "raise" when it is full
    And the database does not answer, and the buffer is full
    When the application tries to record an entry
    Then it is told BufferFull: "4 entries"
    When the database answers again
    And the application flushes
    And the application records 1 entry
    Then after a flush the log holds the entries 1 to 4 and 6 in this order
    And the log is numbered from 1 to 5 without a hole

  Scenario: Write it yourself
    Given a buffer in front of it that does "write_through" when it is full
    And the database does not answer, and the buffer is full
    When another thread records an entry and looks into the log at once
    And the database answers again
    Then that thread saw its entry in the log
    And the log holds the entries 1 to 5 in this order

  Scenario: Drop the newest
    Given a buffer in front of it that does "drop_newest" when it is full
    And the database does not answer, and the buffer is full
    When the application records 3 entries
    And the database answers again
    And the application flushes
    And the application records 1 entry
    Then after a flush the log holds the entries 1 to 4 and 8 in this order
    And the log says that 3 entries from number 5 to number 7 were dropped by "drop_newest"
    And the buffer counts 3 dropped entries

  Scenario: Drop the oldest
    Given a buffer in front of it that does "drop_oldest" when it is full
    And the database does not answer, and the buffer is full
    When the application records 3 entries
    And the database answers again
    Then after a flush the log holds the entries 1 to 2 and 6 to 7 in this order
    And the log says that 3 entries from number 3 to number 5 were dropped by "drop_oldest"
    And the buffer counts 3 dropped entries

  Scenario: The operator is warned before
    Given a buffer in front of it with room for 10 entries
    And the database does not answer
    When the application records 7 entries
    Then the operator was warned 0 times that the buffer is nearly full
    When the application records 3 entries
    Then the operator was warned 1 time that the buffer is nearly full

  Scenario: An event loop is not stalled
    Given a buffer in front of it that does "block" when it is full
    And the database does not answer, and the buffer is full
    When an event loop records an entry
    Then it is told BufferFull: "must not stall the event loop"

  Scenario: An event loop can wait politely
    Given a buffer in front of it that does "block" when it is full
    And the database does not answer, and the buffer is full
    When an event loop awaits the recording of an entry, and the database answers again
    Then the loop went on meanwhile
    And after a flush the log holds the entries 1 to 5 in this order
