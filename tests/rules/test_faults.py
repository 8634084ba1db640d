"""
What each error of each database means for the batch.
"""

from __future__ import annotations

import sqlite3
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditService, SinkError
from audit_buffer.errors import ConfigError, EntryRejected
from audit_buffer.sinks._faults import MARIADB, POSTGRESQL, SQLITE, Action, classify, explained


POSTGRESQL_CODES = {
    Action.RETRY: "40001 40P01 55P03 57014 53100 53200 53300 25006 55006",
    Action.RECONNECT: "08000 08003 08006 08007 57P01 57P02 57P03 57P05 58030 40003 XX000 25P02",
    Action.NARROW: "22001 22003 22021 22P02 22P05 23502 23503 23505 23514 23P01 44000 54000 P0001",
    Action.STOP: "42P01 42703 42501 42804 28P01 3D000 3F000",
}
MARIADB_CODES = {
    Action.RETRY: "1205 1213 1114 1021 1040 1290 1792 1836 1317 1969 3024 1020",
    Action.RECONNECT: "2006 2013 1053 1927 2002 2003 2055 1158 1180 9999",
    Action.NARROW: "1406 1366 1264 1048 1062 1452 4025 3819 1644 1153",
    Action.STOP: "1146 1054 1142 1044 1045 1049 1143",
}
SQLITE_CODES = {
    Action.RETRY: "SQLITE_BUSY SQLITE_BUSY_SNAPSHOT SQLITE_LOCKED SQLITE_FULL SQLITE_NOMEM SQLITE_SCHEMA",
    Action.RECONNECT: "SQLITE_IOERR SQLITE_IOERR_FSYNC SQLITE_CANTOPEN SQLITE_INTERNAL",
    Action.NARROW: "SQLITE_CONSTRAINT SQLITE_CONSTRAINT_CHECK SQLITE_CONSTRAINT_TRIGGER SQLITE_TOOBIG SQLITE_MISMATCH",
    Action.STOP: "SQLITE_READONLY SQLITE_READONLY_DBMOVED SQLITE_CORRUPT SQLITE_NOTADB SQLITE_PERM SQLITE_AUTH",
}


def pairs(table: dict[Action, str]) -> list[tuple[str, Action]]:
    return [(code, action) for action, codes in table.items() for code in codes.split()]


def wrapped(orig: Exception) -> Exception:
    """
    Return *orig* as SQLAlchemy hands it on.
    """
    return sa.exc.DBAPIError("INSERT …", {}, orig)


@pytest.mark.parametrize(("code", "action"), pairs(POSTGRESQL_CODES))
def test_postgresql(code: str, action: Action) -> None:
    """
    By SQLSTATE; COPY hands the driver's error on as it is, everything else wraps it.
    """

    class Stated(psycopg.DatabaseError):
        sqlstate = code

    for error in (Stated("message"), wrapped(Stated("message"))):
        assert classify(error).action is action
        assert bool(classify(error).advice) == (action is Action.STOP)


@pytest.mark.parametrize(("code", "action"), pairs(MARIADB_CODES))
def test_mariadb(code: str, action: Action) -> None:
    """
    By number, whatever SQLSTATE PyMySQL adds.
    """
    error = wrapped(pymysql.err.OperationalError(int(code), "message"))
    error.orig.sqlstate = "23000"  # type: ignore[attr-defined]
    assert classify(error).action is action
    assert bool(classify(error).advice) == (action is Action.STOP)


@pytest.mark.parametrize(("code", "action"), pairs(SQLITE_CODES))
def test_sqlite(code: str, action: Action) -> None:
    """
    By result code; an extended one counts as its primary one.
    """
    orig = sqlite3.OperationalError("message")
    orig.sqlite_errorcode, orig.sqlite_errorname = getattr(sqlite3, code), code
    assert classify(wrapped(orig)).action is action
    assert bool(classify(wrapped(orig)).advice) == (action is Action.STOP)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (psycopg.OperationalError("the connection is closed"), Action.RECONNECT),
        (psycopg.InterfaceError("closed"), Action.RECONNECT),
        (psycopg.DataError("cannot contain NUL"), Action.NARROW),
        (psycopg.ProgrammingError("cannot adapt type 'x'"), Action.NARROW),
        (pymysql.err.InterfaceError(0, ""), Action.RECONNECT),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), Action.RECONNECT),
        (sqlite3.ProgrammingError("Error binding parameter 1: type 'x' is not supported"), Action.NARROW),
        (sa.exc.StatementError("bind", "INSERT", {}, ValueError("no")), Action.NARROW),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), Action.NARROW),
        (OverflowError("too large"), Action.NARROW),
        (TypeError("dict"), Action.NARROW),
        (msgspec.ValidationError("not an entry"), Action.NARROW),
        (ConnectionResetError("gone"), Action.RECONNECT),
        (TimeoutError("slow"), Action.RECONNECT),
        (RuntimeError("never seen"), Action.RECONNECT),
        (MemoryError(), Action.RECONNECT),
        (SinkError("the position is no longer 5"), Action.RECONNECT),
        (SinkError("stuck", advice="do something"), Action.STOP),
        (ConfigError("a", 1, "wrong"), Action.RECONNECT),
        (EntryRejected("ours"), Action.RECONNECT),
    ],
    ids=repr,
)
def test_what_has_no_code(error: Exception, action: Action) -> None:
    """
    What cannot be told is never poison, and our own errors are not the entry's.
    """
    assert classify(error).action is action


def test_the_fence_is_no_poison(any_engine: Engine) -> None:
    """
    A row under our seq may be ours: the position and what is stored there tell.
    """
    AuditService(any_engine).create_schema()
    row = {
        "seq": 1,
        "event_type": "x",
        "outcome": "y",
        "recorded_at": sa.func.now(),
        "occurred_at": sa.func.now(),
    }
    statement = sa.insert(AuditService.table).values(buffer_id=UUID(int=1), **row)
    with any_engine.begin() as connection:
        connection.execute(statement)
    with pytest.raises(sa.exc.IntegrityError) as caught, any_engine.begin() as connection:
        connection.execute(statement)
    assert classify(caught.value).action is Action.RECONNECT


def test_row_level_security_is_about_the_row() -> None:
    """
    42501 is a missing right, or a policy that refuses this row.
    """
    denied, policy = (
        psycopg.errors.InsufficientPrivilege(text)
        for text in ("permission denied", "violates row-level security policy")
    )
    assert classify(denied).action is Action.STOP
    assert classify(policy).action is Action.NARROW


def test_only_a_foreign_key_may_pass() -> None:
    """
    Its parent may be in a transaction that is still open.
    """
    assert classify(psycopg.errors.ForeignKeyViolation("x")).may_pass
    assert classify(wrapped(pymysql.err.IntegrityError(1452, "x"))).may_pass
    assert not classify(psycopg.errors.CheckViolation("x")).may_pass


def test_an_explanation_is_plain_text_of_bounded_length() -> None:
    """
    Whatever the message quotes: every database can keep it.
    """
    text = explained(ValueError("\0 \ud800 ü 😀" + "x" * 5000))
    assert text.isascii()
    assert "\0" not in text
    assert len(text) <= 1003
    assert explained(psycopg.errors.CheckViolation("row (secret)"), briefly=True) == "CheckViolation: 23514"


def test_the_tables_hold_actions_only() -> None:
    """
    One place for each database.
    """
    for table in (POSTGRESQL, MARIADB, SQLITE):
        assert set(table.values()) == set(Action)  # type: ignore[attr-defined]


# STOP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["table", "column"])
def test_a_flush_fails_at_once_with_the_remedy_and_what_waits_is_written_after_it(
    any_engine: Engine, trouble: str
) -> None:
    """
    With a long deadline, too: nothing but a person can help. The next flush() tries at once, however long the pause.
    """
    service = AuditService(any_engine)
    service.create_schema()
    audit = AuditBuffer(
        service, durability="memory", flush_interval=60.0, retry_backoff=0.001, retry_backoff_max=300.0
    )
    away, back = {
        "table": ("ALTER TABLE audit_log RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO audit_log"),
        "column": (
            "ALTER TABLE audit_log RENAME COLUMN actor TO agent",
            "ALTER TABLE audit_log RENAME COLUMN agent TO actor",
        ),
    }[trouble]
    execute(any_engine, away)
    audit.record("a")
    with pytest.raises(SinkError) as caught:
        audit.flush(timeout=250)
    assert caught.value.advice
    assert caught.value.advice in str(caught.value)
    with pytest.raises(SinkError):
        audit.flush(timeout=250)
    execute(any_engine, back)
    audit.flush(timeout=250)
    audit.close()
    assert service.count() == 1
    assert audit.stats().quarantined == 0


def execute(engine: Engine, statement: str) -> Any:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
