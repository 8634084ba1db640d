Feature: What an entry can say
  A value comes back equal, or is refused while the caller can still do something about it.

  Scenario Outline: Values that are kept
    Given an empty audit log in <database>
    And a buffer in front of it
    When the application records each of these values
      | value                                                 |
      | "plain"                                               |
      | "Gruß, 你好, שלום, 🧑‍🚀, e\u0301"                       |
      | "quote ' \" and \\ and \n and \t and % and :name"     |
      | "abc"                                                 |
      | "ABC"                                                 |
      | "trailing blank "                                     |
      | ""                                                    |
      | 0                                                     |
      | -9007199254740993                                     |
      | 9223372036854775807                                   |
      | 0.1                                                   |
      | 1e300                                                 |
      | True                                                  |
      | None                                                  |
      | [1, [2, {"deep": [None, False]}]]                     |
      | {"": 1, "b": 2, "a": 3}                               |
    And the application flushes
    Then the log gives each of them back equal

    Examples:
      | database |
      | SQLite   |

    @postgresql
    Examples:
      | database   |
      | PostgreSQL |

    @mariadb
    Examples:
      | database |
      | MariaDB  |

  Scenario Outline: Values that are refused
    Given an empty audit log
    And a buffer in front of it
    When the application tries to record <value> under "details"
    Then it is told EntryRejected: "<reason>"
    And nothing is left behind

    Examples:
      | value                        | reason                        |
      | float("nan")                 | which JSON does not have      |
      | float("inf")                 | which JSON does not have      |
      | UUID(int=7)                  | convert it first              |
      | b"bytes"                     | convert it first              |
      | {1, 2}                       | convert it first              |
      | {1: "one"}                   | JSON keys are text            |
      | "\ud800"                     | cannot be encoded             |
      | "x" * 2_000_000              | more than max_entry_bytes     |

  Scenario Outline: Arguments that are refused
    Given an empty audit log
    And a buffer in front of it
    When the application tries to record <value> as its "<argument>"
    Then it is told EntryRejected: "<reason>"
    And nothing is left behind

    Examples:
      | argument    | value                | reason           |
      | event_type  | ""                   | is empty         |
      | actor       | 7                    | must be text     |
      | actor       | "a" * 769            | more than 768    |
      | resource    | "nul \0"             | NUL              |
      | occurred_at | datetime(2026, 1, 1) | has no time zone |

  Scenario: Secrets never leave the call
    Given an empty audit log
    And a buffer in front of it that hides what is called "password"
    When the application records that "password" was "hunter2"
    And the application flushes
    Then the log says that "password" was "***"
