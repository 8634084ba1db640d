"""
What a writer's connection to a SQLite file needs: to keep what it commits, and to wait for other writers.

Guarantees:
    * What is committed survives a power cut: WAL with ``synchronous=FULL``. (The default journal loses the last acknowledged commit.)
    * A transaction that has begun may write: BEGIN IMMEDIATE. (A deferred BEGIN that turns into a write fails at once beside
      another writer.)

Called by one thread at a time.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import attrs
from sqlalchemy import Connection, CursorResult
from sqlalchemy.exc import OperationalError

from audit_buffer.errors import SinkError


__all__ = ["Patience", "pause_after", "set_durable"]

# Seconds that somebody has waited for the file.
_LATELY = 0.01
_LONG = 1.0


def set_durable(connection: Connection) -> None:
    """
    Have SQLite keep what it has committed through a power cut.

    Raises:
        SinkError: It does something else.
    """
    wal = _unless_locked(connection, "PRAGMA journal_mode=WAL").scalar() == "wal"
    # Where there can be no WAL (a network file system), EXTRA makes the rollback journal as safe.
    level, number = ("FULL", 2) if wal else ("EXTRA", 3)
    connection.exec_driver_sql(f"PRAGMA synchronous={level}")
    found = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    if found != number:
        raise SinkError(f"PRAGMA synchronous is {found} after it was set to {level}")


@attrs.frozen
class Patience:
    """
    How a writer's connection waits for other writers of a SQLite file.

    SQLite's own busy handler looks again after 1, 2, 5, 10 and so on up to 100 ms. Where several processes write all the
    time, they would all be asleep for a good part of it. So it is switched off, and `begin()` looks by itself.

    Attributes:
        milliseconds: The connection's ``busy_timeout``.
        to_commit: Whether a COMMIT may have to wait, too, so that the busy handler is needed inside a transaction.
    """

    milliseconds: int
    to_commit: bool

    @classmethod
    def of(cls, connection: Connection) -> Patience:
        """
        Return that of *connection*, on which nothing has begun yet.
        """
        milliseconds = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        # In WAL nobody is in the way of a transaction that has begun; in other journals readers are in the way of its COMMIT.
        is_wal = connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        databases = [row[1] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] != "temp"]
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        return cls(milliseconds, to_commit=not is_wal or len(databases) > 1)

    def begin(self, connection: Connection) -> None:
        """
        Begin a transaction that may write as soon as nobody else's lies open.
        """
        # Each statement more is a turn of the GIL, which takes 5 ms beside a busy thread.
        if self.to_commit:
            connection.exec_driver_sql("PRAGMA busy_timeout=0")
        # When this raises, the connection is dropped.
        _unless_locked(connection, "BEGIN IMMEDIATE", self.milliseconds / 1000)
        if self.to_commit:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={self.milliseconds}")


def _unless_locked(connection: Connection, statement: str, patience: float = 0.0) -> CursorResult[Any]:
    """
    Execute *statement*, again for *patience* seconds, or one, while SQLite says at once that the database is locked.

    Its busy handler is not asked while another process switches to WAL, or is the last one to leave it; both are over
    soon. See "Sometimes Queries Return SQLITE_BUSY In WAL Mode" in SQLite's documentation.
    """
    started = time.monotonic()
    while True:
        try:
            return connection.exec_driver_sql(statement)
        except OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
            waited = time.monotonic() - started
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or waited >= max(1.0, patience):
                raise
        time.sleep(pause_after(waited))


def pause_after(waited: float) -> float:
    """
    Return how many seconds later to look again whether the file is free, after *waited* seconds.

    Other buffers hold it for some milliseconds, and the gap before the next one of them is as short. So who has come lately looks less
    often than who has waited through a few of them: that one shall be next. Whoever holds it for a second is no buffer, and a look
    costs some 10 µs.
    """
    if waited > _LONG:
        return 0.01
    return 0.002 if waited < _LATELY else 0.0005
