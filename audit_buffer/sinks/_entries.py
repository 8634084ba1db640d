"""
`EntrySink`: batches of the service's entries into `audit_log`, exactly once.

The position is ``max(seq)`` of the buffer in the table itself: one writer commits in FIFO order, so what is committed is
a prefix, and ``UNIQUE (buffer_id, seq)`` is the fence that makes a second delivery fail instead of double.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import Column, Engine, MetaData, Table, false, func, insert, inspect, null, select, text
from sqlalchemy.exc import DBAPIError

from audit_buffer import instrumentation
from audit_buffer.errors import ConfigError
from audit_buffer.schema import audit_log
from audit_buffer.sinks._bulk import COUNTED, ExecuteMany, bulk_for, require_all
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._faults import NO_RIGHT, Action, Fault, classify
from audit_buffer.sinks._integrity import first_difference
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import quarantined_row
from audit_buffer.sinks._timeouts import Timeouts


__all__ = ["EntrySink", "require_table"]


class EntrySink:
    """
    Writes entries to `audit_log`, one transaction a batch.

    Args:
        bulk: How; see `bulk_for()`.
        statement_timeout: Seconds that the database may take over one statement.
    """

    position_is_stored = True
    takes_large_batches = True

    def __init__(self, engine: Engine, bulk: str = "auto", statement_timeout: float = 30.0) -> None:
        self._database = Database(engine, Timeouts(statement_timeout))
        self._bulk = bulk_for(engine, bulk)
        self._portable = ExecuteMany()

    def open(self) -> None:
        """
        Check that the table is there, with its columns.

        Raises:
            ConfigError: It is not; the message has the remedy.
        """
        columns = [column.name for column in audit_log.columns]
        require_table(
            self._database.engine, audit_log.name, columns, "call AuditService.create_schema() first"
        )

    def position(self, buffer_id: UUID) -> int:
        """
        Return the last committed seq of *buffer_id*, 0 if there is none.
        """
        with self._database.transaction() as connection:
            last = connection.scalar(
                select(func.max(audit_log.c.seq)).where(audit_log.c.buffer_id == buffer_id)
            )
            return int(last or 0)

    def write(self, batch: Batch) -> None:
        """
        Insert *batch* in one transaction.
        """
        insert_rows = self._bulk.prepare(batch)
        with self._database.transaction() as connection:
            insert_rows(connection) or self._portable.prepare(batch)(connection)

    def quarantine(self, batch: Batch, error: Exception) -> None:
        """
        Insert the row that says that the one entry of *batch* was refused, and keeps it.
        """
        try:
            self._insert_quarantined(batch, error, plainly=True)
        except Exception as second:
            if classify(second).action is not Action.NARROW:
                raise
            self._insert_quarantined(batch, error, plainly=False)

    def _insert_quarantined(self, batch: Batch, error: Exception, *, plainly: bool) -> None:
        with self._database.transaction() as connection:
            statement = insert(audit_log).execution_options(**COUNTED)
            require_all(
                connection.execute(statement, quarantined_row(batch, error, plainly=plainly)).rowcount, 1
            )

    def first_foreign(self, batch: Batch, sent: int | None) -> int | None:
        """
        Return the first seq of *batch* under which the table has something else, or nothing.
        """
        query = select(audit_log).where(
            audit_log.c.buffer_id == batch.buffer_id,
            audit_log.c.seq > batch.after,
            audit_log.c.seq <= batch.through,
        )
        with self._database.transaction() as connection:
            return first_difference(batch, connection.execute(query).mappings().all())

    def close(self) -> None:
        """
        Give the connection back.
        """
        self._database.close()

    def before_fork(self) -> None:
        """
        Close what a forked child must not inherit; called while nothing is written.
        """
        self._database.before_fork()

    def after_fork(self) -> None:
        """
        Forget the parent's connections; called in a forked child.
        """
        self._database.after_fork()


def require_table(
    engine: Engine, name: str, columns: Iterable[str], remedy: str, schema: str | None = None
) -> None:
    """
    Raise unless the table *name* exists, has *columns*, and lets this user INSERT.

    A database that cannot be reached is no error here: the application must start during an outage, too.

    Raises:
        ConfigError: The database answered, and has no such table or column, or refuses to be written.
    """
    columns = list(columns)
    try:
        inspector = inspect(engine)
        found = inspector.has_table(name, schema=schema)
        # In small letters: not every database tells them apart.
        known = (
            {str(column["name"]).lower() for column in inspector.get_columns(name, schema)}
            if found
            else set()
        )
    except DBAPIError as error:
        instrumentation.emit(instrumentation.SinkUnavailable(buffer_id=None, error=str(error.orig)))
        return
    if not found:
        raise ConfigError("target", name, f"is not a table of {engine.url!r}; {remedy}")
    missing = [column for column in columns if column.lower() not in known]
    if missing:
        raise ConfigError(
            "target",
            name,
            f"has no column {', '.join(missing)} in {engine.url!r}; it is older than what is written: run your migrations "
            "(docs/how-to/alembic.md)",
        )
    _require_right(engine, Table(name, MetaData(), *map(Column, columns), schema=schema))


def _require_right(engine: Engine, table: Table) -> None:
    """
    Raise unless this user may INSERT into *table*, as far as the database says so without a row.

    Raises:
        ConfigError: The database says no.
    """
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                # Not by an INSERT of no rows: a trigger of a statement would run.
                quoted = engine.dialect.identifier_preparer.format_table(table).replace("%%", "%")
                if connection.scalar(select(func.has_any_column_privilege(quoted, "INSERT"))):
                    return
                refused = Fault(Action.STOP, advice=NO_RIGHT)
            elif engine.dialect.name in ("mysql", "mariadb"):
                nothing = select(*[null()] * len(table.columns)).select_from(text("DUAL")).where(false())
                connection.execute(insert(table).from_select(list(table.columns), nothing))
                return
            else:
                return
    except DBAPIError as error:
        refused = classify(error)
    if refused.action is Action.STOP:
        raise ConfigError("target", table.name, f"cannot be written in {engine.url!r}; {refused.advice}")
