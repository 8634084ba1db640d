Feature: Other places than the audit log
  The application's own table, its own service, or a place of its own: the same promise, as far as the place can keep it.

  Background:
    Given an empty audit log

  Scenario: The application's own table
    Given a buffer in front of the application's own table
    When the application records these payments
      | amount  | state   | note       |
      | 10.50   | paid    | first      |
      | 0.01    | refused |            |
      | 9999.99 | paid    | ein Gruß 🌍 |
    And the application flushes
    Then the own table holds these payments in this order

  Scenario: Defaults are those of the moment
    Given a buffer in front of the application's own table
    And the shift is "early"
    When the application records a payment of 1.00
    And the shift is "late"
    And the application flushes
    Then the own table dates that payment to the "early" shift

  Scenario: A column that is not there
    Given a buffer in front of the application's own table
    When the application tries to record a payment with a column "colour"
    Then it is told TypeError: "unexpected column 'colour'"
    And the own table holds 0 payments

  Scenario: Exactly once, though the answer to a COMMIT is lost
    Given a buffer in front of the application's own table
    And the answer to the next COMMIT is lost
    When the application records 20 payments
    And the application flushes for at most 20 seconds
    Then the own table holds 20 payments in order, each once

  Scenario: What was dropped is told beside the own table
    Given time stands still
    And a buffer in front of the application's own table that does "drop_newest" when it is full
    And the database does not answer
    When the application records 2 payments
    And the writer is stuck
    And the application records 5 payments
    And the database answers again
    And the application flushes
    Then the own table holds 4 payments in order, each once
    And beside the own table it says that 3 payments were dropped

  Scenario: The application's own service
    Given a buffer in front of the application's own service
    When the application calls its service with a date, an amount and a tuple
    And the application flushes
    Then the service was called with the same values of the same types

  Scenario: A place of its own
    Given a buffer in front of a place of its own
    When the application records 40 entries
    And the application flushes
    Then the place was given the entries 1 to 40 in this order
