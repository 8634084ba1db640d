Feature: The end of the process
  An application that ends without closing its buffer leaves its trail all the same.

  Background:
    Given an empty audit log

  Scenario Outline: An application that forgets to close
    When an application records 200 entries and ends by <end>
    Then its exit code is <code>
    And the log holds the entries 1 to 200 in this order

    Examples:
      | end                | code |
      | reaching its end   | 0    |
      | an error           | 1    |
      | asking for code 3  | 3    |

  Scenario: A last entry, recorded while the application ends
    When an application records 200 entries and ends by a last entry of its exit hook
    Then its exit code is 0
    And the log holds the entries 1 to 201 in this order

  Scenario: The database cannot be reached at the end, and nothing but memory was asked for
    When an application records 200 entries and ends by losing its database
    Then its exit code is 0
    And it says "audit_buffer: 200 entries are lost"
    And the log holds nothing
