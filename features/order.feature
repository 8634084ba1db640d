Feature: The order of the log
  The log tells a story: each buffer's entries stand in the order in which they were recorded, numbered without a hole.

  Background:
    Given an empty audit log

  Scenario: Entries of one thread
    Given a buffer in front of it that writes 7 entries at a time
    When the application records 500 entries
    And the application flushes
    Then the log holds the entries 1 to 500 in this order

  Scenario: Entries of many threads
    Given a buffer in front of it that writes 64 entries at a time
    When 8 threads record 400 entries each at the same time
    And the application flushes
    Then the log is numbered from 1 to 3200 without a hole
    And each thread's entries stand in the order in which it recorded them

  Scenario: A burst that has to wait for room
    Given a buffer in front of it with room for 16 entries
    When 4 threads record 250 entries each at the same time
    And the application flushes
    Then the log is numbered from 1 to 1000 without a hole
    And each thread's entries stand in the order in which it recorded them

  Scenario: Two buffers of one log
    Given a buffer in front of it
    And another buffer in front of it
    When the application records 50 entries by turns
    And the application closes both
    Then the log has 2 stories of 25 entries, each in order

  Scenario: The clock is set back
    Given time stands still
    And a buffer in front of it
    When the application records 3 entries
    And the administrator sets the clock back by an hour
    And the application records 3 entries
    And the application flushes
    Then the log holds the entries 1 to 6 in this order
    And entry 4 is dated an hour before entry 3
