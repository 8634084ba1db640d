"""
A connection for a writer: made as the engine's pool makes its own, with timeouts, and watched from its first moment.

The engine's arguments, its ``creator`` and its events all take part. But the pool is a copy for this one connection: what is
added to it the application's does not see, and an application that has all its connections in use keeps no writer waiting.

Any thread.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.exc import InvalidRequestError, OperationalError

from audit_buffer.errors import SinkError
from audit_buffer.sinks._timeouts import Timeouts, connect_arguments, protect, socket_of
from audit_buffer.sinks._watchdog import Watchdog


__all__ = ["connect_outside_pool", "require_writable"]

_IS_READ_ONLY = {
    "postgresql": "SHOW transaction_read_only",  # on a standby, too
    "mysql": "SELECT @@read_only",
    "mariadb": "SELECT @@read_only",
}

# The timeouts with which this thread connects a writer; every other connection of the engine is made as ever.
_here = threading.local()

# Those that call `_connect_writer()`. Not `event.contains()`: it goes by the engine's id(), which another engine may have had
# whose dialect is still in use somewhere.
_told: WeakSet[Dialect] = WeakSet()


def connect_outside_pool(engine: Engine, timeouts: Timeouts, watchdog: Watchdog) -> Connection:
    """
    Return a new connection, in a pool of its own; *watchdog* holds its socket.
    """

    def watch(raw: Any, record: object) -> None:
        descriptor = socket_of(raw)
        if descriptor is not None:
            protect(watchdog.hold(descriptor), timeouts)
            watchdog.watch()

    if engine.dialect not in _told:
        event.listen(engine, "do_connect", _connect_writer)
        _told.add(engine.dialect)
    pool = engine.pool.recreate()
    # First: what the engine's own events ask the server may get no answer.
    event.listen(pool, "connect", watch, insert=True)
    _here.timeouts = timeouts
    try:
        connection = Connection(engine, pool.connect())
    except engine.dialect.loaded_dbapi.Error as error:
        # As `Engine.connect()` would.
        raise OperationalError(None, None, error) from error
    finally:
        _here.timeouts = None
        watchdog.rest()
    # SQLAlchemy 2.0 takes no listener for a connection of an engine with execution options; the limit then holds for a
    # transaction as a whole.
    with suppress(InvalidRequestError):
        event.listen(connection, "after_cursor_execute", lambda *_: watchdog.answered())
    return connection


def _connect_writer(dialect: Dialect, record: object, arguments: Any, keywords: dict[str, Any]) -> Any:
    """
    Connect a writer with timeouts; for anybody else return None, and SQLAlchemy goes on.
    """
    timeouts = getattr(_here, "timeouts", None)
    if timeouts is None:
        return None
    return dialect.connect(*arguments, **{**connect_arguments(dialect, timeouts), **keywords})


def require_writable(connection: Connection) -> None:
    """
    Raise unless the server behind *connection* takes writes; it is in no transaction afterwards.

    Raises:
        SinkError: It is read-only: a standby, or a primary that was made one.
    """
    question = _IS_READ_ONLY.get(connection.dialect.name)
    if question is None:
        return
    answer = str(connection.exec_driver_sql(question).scalar()).lower()
    connection.rollback()
    if answer not in ("off", "0"):
        raise SinkError(
            "the server is read-only, so it is not the primary; the next connection may find that"
        )
