Feature: Settings
  What an operator sets is what happens; what cannot work is refused where it is set, with the remedy.

  Scenario: From the environment
    Given the environment
      | variable            | value  |
      | AUDIT_ASYNC         | 0      |
      | AUDIT_QUEUE_MAXSIZE | 10000  |
      | AUDIT_BATCH_SIZE    | 200    |
      | AUDIT_RING_BYTES    | 64 MiB |
      | AUDIT_ON_FULL       | raise  |
      | PATH                | /bin   |
    When the settings are read from the environment
    Then the settings are
      | name            | value     |
      | asynchronous    | False     |
      | queue_maxsize   | 10000     |
      | batch_size      | 200       |
      | ring_bytes      | 67108864  |
      | on_full         | 'raise'   |
      | flush_interval  | 0.1       |

  Scenario: From a file
    Given the file "settings.toml"
      """
      [audit_buffer]
      batch_size = 200
      flush_interval = 0.25
      on_full = "drop_oldest"
      handle_signals = ["SIGTERM"]
      """
    When the settings are read from "settings.toml"
    Then the settings are
      | name           | value         |
      | batch_size     | 200           |
      | flush_interval | 0.25          |
      | on_full        | 'drop_oldest' |

  Scenario: Under the names that the application always had
    Given the file "settings.toml"
      """
      audit_async = false
      audit_queue_maxsize = 10000
      """
    When the settings are read from "settings.toml"
    Then the settings are
      | name          | value |
      | asynchronous  | False |
      | queue_maxsize | 10000 |

  Scenario Outline: A setting that cannot work
    Given the environment
      | variable   | value   |
      | <variable> | <value> |
    When the settings are read from the environment
    Then it is told ConfigError: "<variable>"
    And it is told ConfigError: "<value>"
    And it is told ConfigError: "<allowed>"

    Examples:
      | variable            | value | allowed                     |
      | AUDIT_ASYNC         | maybe | must be one of 1, true      |
      | AUDIT_BATCH_SIZE    | many  | must be a whole number      |
      | AUDIT_CLOSE_TIMEOUT | soon  | must be a number of seconds |

  Scenario: A setting that is misspelt
    Given the environment
      | variable           | value |
      | AUDIT_QUEUE_MAXSIZ | 10    |
    When the settings are read from the environment
    Then it is told ConfigError: "AUDIT_QUEUE_MAXSIZ"
    And it is told ConfigError: "did you mean queue_maxsize"

  Scenario Outline: A value that is out of bounds
    When a buffer is to be opened with <name> = <value>
    Then it is told ConfigError: "<name>"
    And it is told ConfigError: "<allowed>"

    Examples:
      | name           | value     | allowed                                                  |
      | batch_size     | 0         | at least 1                                               |
      | flush_interval | -1        | at least 0                                               |
      | on_full        | "explode" | block, raise, write_through, drop_newest, drop_oldest    |
      | durability     | "eternal" | memory, process, periodic, sync                          |
      | handle_signals | ["SIGFOO"] | must be signals                                         |

  Scenario: A log without its table
    Given a database without an audit log
    When a buffer is to be opened with batch_size = 10
    Then it is told ConfigError: "call AuditService.create_schema() first"

  Scenario: A file that is none
    Given the file "settings.toml"
      """
      batch_size = = 200
      """
    When the settings are read from "settings.toml"
    Then it is told ConfigError: "must be a readable TOML file"
