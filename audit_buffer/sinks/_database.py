"""
One writing connection, and what a transaction is on each database.

Guarantees:
    * Whatever goes wrong inside a transaction, it is rolled back and the connection is dropped: an error may have left
      half a batch pending, and the next statement must not commit it. Only where the database did no more than refuse a value is the
      connection kept, once the ROLLBACK has succeeded.
    * The connection is the writer's own, outside the pool; only a static pool's is shared. A server that is read-only when it is
      made is no primary: nothing is read there, because a position that is behind would look like a loss.
    * Nothing on it takes for ever: see `_timeouts`. A server that does not answer is cut off.
    * MariaDB: strict mode, so that nothing is cut short without an error.
    * SQLite: in WAL with ``synchronous=FULL``, and BEGIN IMMEDIATE; see `_sqlite`.

Called by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, StaticPool

from audit_buffer.errors import ConfigError, SinkError
from audit_buffer.sinks._connecting import connect_outside_pool, require_writable
from audit_buffer.sinks._engines import is_private_memory
from audit_buffer.sinks._rollback import is_clean_after, refuse_aborted
from audit_buffer.sinks._sqlite import Patience, set_durable
from audit_buffer.sinks._timeouts import Timeouts, set_limits
from audit_buffer.sinks._watchdog import Watchdog


__all__ = ["Database"]


# What a forked child inherited and must never close.
_parents_connections: list[Connection] = []


class Database:
    """
    Transactions of one writer on one engine.

    Args:
        timeouts: For the connections to come.
    """

    def __init__(self, engine: Engine, timeouts: Timeouts | None = None) -> None:
        if is_private_memory(engine):
            raise ConfigError(
                "target",
                str(engine.url),
                "each connection has an in-memory SQLite database of its own; create the engine with "
                "poolclass=StaticPool and connect_args={'check_same_thread': False}, or use a file",
            )
        self.engine = engine
        self._connection: Connection | None = None
        self._sqlite = engine.dialect.name == "sqlite"
        # The one connection of a static pool is the application's, too: borrow it per transaction, change nothing.
        self._shared = isinstance(engine.pool, StaticPool)
        self._immediate = self._sqlite and not self._shared
        self._patience: Patience | None = None
        self.limit(timeouts or Timeouts())

    def limit(self, timeouts: Timeouts) -> None:
        """
        Bound with *timeouts* what is done on the connections to come.
        """
        self._timeouts = timeouts
        self._watchdog = Watchdog(timeouts.hang)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """
        Yield a connection inside a transaction; commit at the end, roll back and drop the connection on any exception.
        """
        if self._shared and self._sqlite and self._is_in_use():
            raise SinkError(
                "the application has a transaction open on the only connection of its static pool, and a COMMIT here would "
                "be a COMMIT of that; end it first, or use a file"
            )
        connection = self._connection or self._connect(to_write=True)
        with self._dropped_on_error(), self._watchdog:
            if self._immediate:
                self._patience = self._patience or Patience.of(connection)
                self._patience.begin(connection)
                yield connection
                connection.exec_driver_sql("COMMIT")
            else:
                with connection.begin():
                    yield connection
                    refuse_aborted(connection)
        if self._shared:
            self.close()

    def _is_in_use(self) -> bool:
        """
        Tell whether the application has a transaction open on the only connection of its static pool.

        Not by borrowing it: giving it back would roll back that transaction.
        """
        pool: Any = self.engine.pool
        raw = pool.connection.dbapi_connection
        return raw is not None and bool(raw.in_transaction)

    @contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        """
        Drop the connection on any exception, and say so where the watchdog was the cause.
        """
        try:
            yield
        except BaseException as error:
            cut_off = self._watchdog.has_bitten
            connection = self._connection
            if cut_off or self._shared or connection is None or not is_clean_after(error, connection):
                self.discard()
            if cut_off and isinstance(error, Exception):
                limit = self._watchdog.limit
                message = f"the database did not answer for {limit:g} s; its connection was cut"
                raise SinkError(message) from error
            raise

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """
        Yield a connection that is set up as the writer's, only to read from it; drop it afterwards.
        """
        connection = self._connection or self._connect()
        try:
            with self._watchdog:
                yield connection
        finally:
            self.discard()

    def _connect(self, *, to_write: bool = False) -> Connection:
        if self._shared:
            self._connection = self.engine.connect()
            return self._connection
        self._patience = None
        with self._dropped_on_error():
            connection = self._connection = connect_outside_pool(self.engine, self._timeouts, self._watchdog)
            with self._watchdog:
                self._set_up(connection)
                if to_write:
                    require_writable(connection)
        return connection

    def _set_up(self, connection: Connection) -> None:
        """
        Set *connection* up for a writer; its settings reach nobody else.
        """
        if self._sqlite:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            set_durable(connection)
        elif self.engine.dialect.name in ("mysql", "mariadb"):
            _set_strict(connection)
        set_limits(connection, self._timeouts)
        connection.detach()

    def discard(self) -> None:
        """
        Drop the connection, whatever state it is in; the server rolls back what it left open.
        """
        connection, self._connection = self._connection, None
        try:
            with self._watchdog:
                self._drop(connection)
        finally:
            self._watchdog.let_go()

    def _drop(self, connection: Connection | None) -> None:
        if connection is None or connection.closed:
            return
        if self._shared or connection.invalidated:
            connection.close()
            return
        dialect = self.engine.dialect
        raw = _raw(connection)
        # First, because close() would roll back, and so wait for a server that may not answer any more.
        connection.invalidate()
        connection.close()
        try:
            dialect.do_terminate(raw)
        except (dialect.loaded_dbapi.Error, OSError):
            # It was closed, or broken, already.
            return

    def before_fork(self) -> None:
        """
        SQLite: close the writer's connection and those that lie idle in the pool.

        SQLite keeps its file locks in tables of the process, which a child inherits without the locks. It would
        wait for ever for the parent's transaction, and write into a WAL that the parent may delete meanwhile.
        """
        if self._immediate:
            self.close()
            self.engine.dispose()

    def after_fork(self) -> None:
        """
        Forget the parent's connections, open as they are.

        Closing one, or letting it be collected, would say goodbye on the parent's socket, or roll back its transaction.
        """
        connection, self._connection = self._connection, None
        # Its thread is the parent's, and perhaps its lock.
        self._watchdog.abandon()
        self._watchdog = Watchdog(self._timeouts.hang)
        if connection is not None:
            _parents_connections.append(connection)
        if not (self._shared and self._sqlite):
            # A database in memory was copied by the fork, and a new connection would find an empty one.
            self.engine.dispose(close=False)

    def close(self) -> None:
        """
        Give the connection up; a shared one goes back to its pool.
        """
        connection, self._connection = self._connection, None
        try:
            with self._watchdog:
                if connection is not None:
                    connection.close()
        finally:
            self._watchdog.let_go()


def _raw(connection: Connection) -> Any:
    """
    Return the driver's connection.
    """
    return connection.connection.dbapi_connection


def _set_strict(connection: Connection) -> None:
    """
    Have MariaDB refuse what does not fit, where it would otherwise cut it short.

    Raises:
        SinkError: It does something else.
    """
    if not _is_strict(connection):
        connection.exec_driver_sql("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')")
        if not _is_strict(connection):
            raise SinkError("sql_mode is not strict after it was set to STRICT_ALL_TABLES")
    # Reading began a transaction.
    connection.rollback()


def _is_strict(connection: Connection) -> bool:
    return "STRICT_" in str(connection.exec_driver_sql("SELECT @@sql_mode").scalar())
