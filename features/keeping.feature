Feature: What survives while the log cannot be reached
  How much an entry survives before it is in the log is the operator's choice; the buffer says which level is in force.

  Background:
    Given an empty audit log

  Scenario Outline: The level that is in force
    Given a buffer in front of it with durability <asked>
    Then the level in force is "<level>"

    Examples:
      | asked    | level    |
      | unsaid   | process  |
      | memory   | memory   |
      | periodic | periodic |

  Scenario: At the highest level an entry survives a power cut when its call returns
    Given a buffer in front of it with durability sync
    And the database does not answer
    When the application records 20 entries
    Then the entries up to 20 survive a power cut
    And the log holds nothing

  Scenario: At a lower level the application can wait for that
    Given a buffer in front of it with durability process
    And the database does not answer
    When the application records 20 entries
    And the application waits until entry 20 survives a power cut
    Then the entries up to 20 survive a power cut
    And the log holds nothing

  Scenario: A level without a place to keep it
    When a buffer in front of a place of its own is to be opened with durability sync
    Then it is told ConfigError: "set ring_dir"

  Scenario: Nothing is left behind when all is in the log
    Given a buffer in front of it
    When the application records 20 entries
    And the application closes the buffer
    Then the log holds the entries 1 to 20 in this order
    And no file but the log is left
