Feature: Switching the buffer off, and going around it
  The same calls work with and without the buffer. A caller who brings a transaction of his own gets the entry in that transaction.

  Background:
    Given an empty audit log

  Scenario Outline: The same calls work both ways
    Given the audit log is opened with asynchronous <switch>
    When the application records 3 entries
    And the application asks for the entries by "agent-7"
    Then it sees the entries 1 to 3

    Examples:
      | switch |
      | on     |
      | off    |

  Scenario: Switched off, an entry is in the log when its call returns
    Given the audit log is opened with asynchronous off
    When the application records 1 entry
    Then the log holds 1 entry without a number

  Scenario: The buffer does not wait to be asked
    Given a buffer in front of it
    When the application records an entry in a transaction of its own, and commits it
    Then the log holds 1 entry without a number

  Scenario: An entry goes with the transaction it was recorded in
    Given a buffer in front of it
    When the application records an entry in a transaction of its own, and rolls it back
    And the application records 2 entries
    And the application flushes
    Then the log holds 2 entries

  Scenario: Bringing a transaction to a log that cannot take part
    Given a buffer in front of a place of its own
    When the application tries to record an entry in a transaction of its own
    Then it is told TypeError: "session= needs an AuditService or a TableSink"
