Feature: Recording does not wait for the database
  A domain operation goes on as soon as its entry is recorded; the writer brings the entry to the log.

  Background:
    Given an empty audit log
    And a buffer in front of it

  Scenario: The database does not answer
    Given the database does not answer
    When the application records 1000 entries
    Then the calls returned the numbers 1 to 1000
    And the log holds nothing
    When the database answers again
    And the application flushes
    Then the log holds the entries 1 to 1000 in this order

  Scenario: A domain operation is not held up by the event it emits
    Given the event bus tells the audit log first, and the warehouse second
    And the database does not answer
    When the domain emits "order.paid" by "maria" on "order/17"
    Then the warehouse has heard of it
    When the database answers again
    And the application flushes
    Then the log says that "maria" did "order.paid" on "order/17"

  Scenario: The thread that records never speaks to the database
    When the application records 10 entries
    And the application flushes
    Then only the writer spoke to the database
    And the log holds the entries 1 to 10 in this order

  Scenario: An entry stays what it was when it was recorded
    Given the database does not answer
    When the application records a note saying "draft"
    And the application changes the note to "final"
    And the database answers again
    And the application flushes
    Then the log holds the note "draft"
