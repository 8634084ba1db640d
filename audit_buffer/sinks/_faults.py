"""
What an exception of a database means for the batch: one table for each database, and `classify()`.

* RETRY: the batch was refused for now (a deadlock, a lock timeout, a full disk, a primary that became read-only). Again.
* RECONNECT: nobody knows what became of it (the connection broke, or the error is not known). The position tells.
* NARROW: something in the batch is refused for good. The batch is narrowed to the entry, and the entry is quarantined.
* STOP: no batch can be written until somebody changes something (a missing table, a missing right). Again after the
  longest pause; who waits in `flush()` hears of it at once, with the advice.

What is in no table is RECONNECT, because that can neither lose nor double anything, and pauses.

Pure: no I/O, any thread.
"""

from __future__ import annotations

import enum

import attrs
import msgspec
from sqlalchemy.exc import DBAPIError, StatementError

from audit_buffer.errors import AuditBufferError
from audit_buffer.schema import FENCE, audit_log


__all__ = ["NO_RIGHT", "Action", "Fault", "classify", "explained"]

_MOST_EXPLAINED = 1000
# How SQLite names the fence, which has a name of its own elsewhere.
_FENCE_COLUMNS = f"{audit_log.name}.buffer_id, {audit_log.name}.seq"


class Action(enum.Enum):
    """
    What the writer does about a batch that failed.
    """

    RETRY = "retry"
    RECONNECT = "reconnect"
    NARROW = "narrow"
    STOP = "stop"


@attrs.frozen
class Fault:
    """
    What one exception means.

    Attributes:
        action: What to do.
        code: The database's own code: SQLSTATE, number, or name. Empty when there is none.
        advice: For STOP, what a person can do.
        may_pass: For NARROW, that the refusal may end by itself: a foreign key whose parent is not committed yet.
    """

    action: Action
    code: str = ""
    advice: str = ""
    may_pass: bool = False


_NO_TABLE = "create the table: create_schema(), or your migrations"
_NO_COLUMN = "the table is another one than this version writes: run your migrations"
NO_RIGHT = "give the database user the right to SELECT and INSERT (own tables: and to UPDATE) there"
_NO_LOGIN = "check user, password and database name in the URL"
_DAMAGED = "the database file is damaged: restore it; the entries wait meanwhile"

# PostgreSQL: by SQLSTATE, the whole or its class (two characters); see "PostgreSQL Error Codes", appendix A of its manual.
POSTGRESQL: dict[str, Action] = {
    "08": Action.RECONNECT,  # connection exceptions
    "22": Action.NARROW,  # data exceptions
    "23": Action.NARROW,  # constraints
    "25006": Action.RETRY,  # read-only transaction: a failover; the next connection finds the new primary
    "28": Action.STOP,  # who are you?
    "3D": Action.STOP,  # no such database
    "3F": Action.STOP,  # no such schema
    "40": Action.RETRY,  # serialization failures and deadlocks
    "40003": Action.RECONNECT,  # nobody knows whether the statement was completed
    "42": Action.STOP,  # missing tables, columns and rights
    "44": Action.NARROW,  # WITH CHECK OPTION
    "53": Action.RETRY,  # disk full, out of memory, too many connections
    "54": Action.NARROW,  # a program limit, such as an index row that is too long
    "55P03": Action.RETRY,  # lock not available
    "55006": Action.RETRY,  # object in use
    "57014": Action.RETRY,  # cancelled, or statement_timeout
    "57P": Action.RECONNECT,  # shutdown, crash, starting up, idle timeout
    "58": Action.RECONNECT,  # system errors
    "P0": Action.NARROW,  # RAISE in a trigger
}
_POSTGRESQL_ADVICE = {
    "28": _NO_LOGIN,
    "3D": _NO_LOGIN,
    "42501": NO_RIGHT,
    "42P01": _NO_TABLE,
    "3F": _NO_TABLE,
    "42": _NO_COLUMN,
}

# MariaDB and MySQL: by number; see "MariaDB Error Code Reference".
_MARIADB_NUMBERS: dict[Action, tuple[int, ...]] = {
    Action.RETRY: (
        *(1020, 1205, 1213, 1614),  # changed since last read, lock timeout, deadlock, XA deadlock
        *(
            1021,
            1026,
            1030,
            1037,
            1038,
            1041,
            1114,
            1135,
        ),  # no room on disk or in memory, "error 28 from engine"
        *(1040, 1203, 1226),  # too many connections
        *(1290, 1792, 1836),  # --read-only, as after a failover
        *(1317, 1969, 3024),  # interrupted, max_statement_time
        *(1412, 1615),  # the table is being altered
    ),
    Action.RECONNECT: (
        *(1053, 1077, 1079, 1080, 1927),  # shutdown, killed
        *(1152, 1158, 1159, 1160, 1161, 1184),  # the network
        *(
            1180,
            2002,
            2003,
            2005,
            2006,
            2012,
            2013,
            2014,
            2055,
        ),  # error during COMMIT, gone away, lost connection
    ),
    Action.NARROW: (
        *(1048, 1364, 1138, 1263),  # NULL, no value
        *(1062, 1169, 1586, 1761, 1762),  # duplicate keys
        *(1216, 1217, 1451, 1452),  # foreign keys
        *(1264, 1265, 1292, 1366, 1367, 1406, 1411, 1416, 1441, 1690),  # out of range, wrong, too long
        *(1118, 1153, 1162),  # row or packet too large
        *(1369, 1644, 3140, 3141, 3819, 4025),  # CHECK OPTION, SIGNAL in a trigger, JSON, CHECK
    ),
    Action.STOP: (
        *(1044, 1045, 1049, 1698, 1820, 1862),  # who are you? no such database
        *(1054, 1136, 1142, 1143, 1146, 1227, 1370, 1471),  # missing columns, rights and tables
    ),
}
MARIADB: dict[int, Action] = {
    number: action for action, numbers in _MARIADB_NUMBERS.items() for number in numbers
}
_MARIADB_ADVICE = {
    **dict.fromkeys((1044, 1045, 1049, 1698, 1820, 1862), _NO_LOGIN),
    **dict.fromkeys((1142, 1143, 1227, 1370, 1471), NO_RIGHT),
    **dict.fromkeys((1054, 1136), _NO_COLUMN),
    1146: _NO_TABLE,
}

# SQLite: by primary result code, the low byte; see "Result and Error Codes" in its documentation.
SQLITE: dict[int, Action] = {
    3: Action.STOP,  # PERM
    5: Action.RETRY,  # BUSY
    6: Action.RETRY,  # LOCKED
    7: Action.RETRY,  # NOMEM
    8: Action.STOP,  # READONLY
    9: Action.RETRY,  # INTERRUPT
    10: Action.RECONNECT,  # IOERR
    11: Action.STOP,  # CORRUPT
    13: Action.RETRY,  # FULL
    14: Action.RECONNECT,  # CANTOPEN
    15: Action.RETRY,  # PROTOCOL
    17: Action.RETRY,  # SCHEMA
    18: Action.NARROW,  # TOOBIG
    19: Action.NARROW,  # CONSTRAINT
    20: Action.NARROW,  # MISMATCH
    23: Action.STOP,  # AUTH
    26: Action.STOP,  # NOTADB
}
_READONLY = "let this process write to the database file and its folder"
_SQLITE_ADVICE = {3: _READONLY, 8: _READONLY, 11: _DAMAGED, 23: NO_RIGHT, 26: _DAMAGED}
# SQLITE_ERROR (1) stands for many things; only the text tells them apart.
_SQLITE_TEXTS = {
    "no such table": _NO_TABLE,
    "no such column": _NO_COLUMN,
    "has no column": _NO_COLUMN,
    "values for": _NO_COLUMN,
}

# A foreign key may be satisfied once the transaction that writes the parent is committed.
_FOREIGN_KEYS = frozenset({"23503", "1216", "1452", "SQLITE_CONSTRAINT_FOREIGNKEY"})
_ROW_SECURITY = "row-level security"

# Raised before anything reaches the database, while values are converted.
_OF_CONVERSION = (ValueError, TypeError, ArithmeticError, msgspec.MsgspecError)
_DRIVERS_ENCODING = ("cannot adapt", "Error binding parameter")


def classify(error: BaseException) -> Fault:
    """
    Tell what *error*, raised by writing a batch, means for it.
    """
    own = _own_error(error)
    if isinstance(own, AuditBufferError):
        advice = getattr(own, "advice", "")
        return Fault(Action.STOP, advice=advice) if advice else Fault(Action.RECONNECT)
    if FENCE in str(own) or _FENCE_COLUMNS in str(own):
        # Rows under our seqs, by us or by somebody else: the position and what is stored there tell.
        return Fault(Action.RECONNECT, _code(own))
    return _by_code(own) or _by_kind(error, own)


def explained(error: BaseException, *, briefly: bool = False) -> str:
    """
    Return what *error* says, as text that every database keeps: ASCII, no NUL, at most 1,000 characters.

    Args:
        briefly: Only its class and code, because a message may quote the row.
    """
    own = _own_error(error)
    parts = (type(own).__name__, _code(own), "" if briefly else _text(own))
    words = ": ".join(part for part in parts if part)
    plain = words.encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")
    return plain if len(plain) <= _MOST_EXPLAINED else plain[:_MOST_EXPLAINED] + "..."


def _own_error(error: BaseException) -> BaseException:
    """
    Return the driver's error, or what was raised while values were converted.
    """
    orig = getattr(error, "orig", None)
    return orig if isinstance(error, StatementError) and orig is not None else error


def _code(own: BaseException) -> str:
    """
    Return the code that the driver gives, in the database's own words.
    """
    if _is_mysql(own):  # first, because PyMySQL knows an SQLSTATE as well, which says less
        number = own.args[0] if own.args else None
        return str(number) if isinstance(number, int) else ""
    for name in ("sqlstate", "sqlite_errorname"):
        code = getattr(own, name, None)
        if isinstance(code, str):
            return code
    return ""


def _text(own: BaseException) -> str:
    return str(own.args[-1] if _is_mysql(own) and own.args else own)


def _is_mysql(own: BaseException) -> bool:
    return type(own).__module__.partition(".")[0] in ("pymysql", "MySQLdb", "mariadb", "mysql")


def _by_code(own: BaseException) -> Fault | None:
    code = _code(own)
    may_pass = code in _FOREIGN_KEYS
    sqlite_code = getattr(own, "sqlite_errorcode", None)
    if isinstance(sqlite_code, int):
        return _sqlite(sqlite_code & 0xFF, code, str(own), may_pass)
    if not code:
        return None
    if _is_mysql(own):
        action = MARIADB.get(int(code))
        return None if action is None else Fault(action, code, _MARIADB_ADVICE.get(int(code), ""), may_pass)
    if code == "42501" and _ROW_SECURITY in str(own):
        return Fault(Action.NARROW, code)
    for length in (5, 3, 2):
        action = POSTGRESQL.get(code[:length])
        if action is not None:
            return Fault(action, code, _postgresql_advice(code) if action is Action.STOP else "", may_pass)
    return None


def _postgresql_advice(code: str) -> str:
    return _POSTGRESQL_ADVICE.get(code) or _POSTGRESQL_ADVICE.get(code[:2], "")


def _sqlite(primary: int, name: str, text: str, may_pass: bool) -> Fault | None:
    action = SQLITE.get(primary)
    if action is not None:
        return Fault(action, name, _SQLITE_ADVICE.get(primary, ""), may_pass)
    for words, advice in _SQLITE_TEXTS.items():
        if words in text:
            return Fault(Action.STOP, name, advice)
    return None


def _by_kind(error: BaseException, own: BaseException) -> Fault:
    """
    Judge an error without a code that is known: by its class as PEP 249 names it, and by where it comes from.
    """
    kinds = {kind.__name__ for kind in type(own).__mro__}
    from_driver = isinstance(error, DBAPIError) or "DatabaseError" in kinds or "InterfaceError" in kinds
    if from_driver:
        refused = kinds & {"DataError", "IntegrityError"} or any(
            words in str(own) for words in _DRIVERS_ENCODING
        )
    else:
        refused = isinstance(own, _OF_CONVERSION) or isinstance(error, StatementError)
    return Fault(Action.NARROW if refused else Action.RECONNECT, _code(own))
