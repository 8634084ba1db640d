"""
`TableSink`: batches into the application's own table, exactly once and without touching that table.

The position stands in `audit_buffer_position`, in the same database, and moves in the batch's transaction. Its UPDATE
names the position it moves from, so that a batch that is already in the table cannot be written a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import URL, Connection, Engine, Table, delete, insert, select
from sqlalchemy import inspect as inspect_mapped

from audit_buffer._values import decode_values, encode_values
from audit_buffer.errors import ConfigError, EntryRejected
from audit_buffer.schema import (
    companion_metadata,
    create_tables,
    gap_table,
    position_table,
    quarantine_table,
)
from audit_buffer.sinks._bulk import COUNTED, require_all
from audit_buffer.sinks._columns import ColumnRule, is_generated
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._engines import engine_of
from audit_buffer.sinks._entries import require_table
from audit_buffer.sinks._faults import explained
from audit_buffer.sinks._own_rows import OwnRows
from audit_buffer.sinks._positions import Positions
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import now
from audit_buffer.sinks._timeouts import Timeouts


if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


__all__ = ["TableSink"]


class TableSink:
    """
    An application's own audit table as the target of an `AuditBuffer`.

    Args:
        bind: An `Engine`, a `sessionmaker` that has one, or a database URL.
        table: A `Table` or a mapped class.
    """

    companion_metadata = companion_metadata
    position_is_stored = True
    takes_large_batches = True

    def __init__(self, bind: Engine | sessionmaker[Session] | URL | str, table: Table | type[Any]) -> None:
        engine = engine_of(bind)
        self.table, columns = _columns_of(table)
        self.engine = engine
        self._rules = {
            name: ColumnRule(name, column, engine.dialect)
            for name, column in columns.items()
            if not is_generated(column)
        }
        self._required = [name for name, rule in self._rules.items() if rule.required]
        self._defaults = {
            name: rule.default for name, rule in self._rules.items() if rule.default is not None
        }
        self._database = Database(engine)
        self._positions = Positions()
        self.insert_by("auto")

    def __repr__(self) -> str:
        return f"<TableSink {self.table.fullname} {self.engine.url!r}>"

    def create_schema(self) -> None:
        """
        Create the companion tables (position, gaps, quarantine) unless they exist; the own table is the application's to create.
        """
        create_tables(self.engine, companion_metadata)

    # At the call ------------------------------------------------------------------------------------------------

    def prepare(self, columns: dict[str, Any]) -> dict[str, Any]:
        """
        Return the row for *columns*: checked, converted by the columns' types, with the client-side defaults in place.

        Raises:
            TypeError: A column is unknown.
            EntryRejected: A value is missing or cannot be stored.
        """
        rules = self._rules
        row: dict[str, Any] = {}
        for name, value in columns.items():
            if name not in rules:
                raise TypeError(
                    f"record() got an unexpected column {name!r}; {self.table.fullname} has {list(rules)}"
                )
            row[name] = rules[name].prepare(value)
        if not self._defaults.keys() <= row.keys():
            self._add_defaults(row, columns)
        for name in self._required:
            if name not in row:
                raise EntryRejected(
                    f"{name} is missing: the column is NOT NULL and has no default", field=name
                )
        return row

    def _add_defaults(self, row: dict[str, Any], columns: dict[str, Any]) -> None:
        """
        Evaluate the client-side defaults of the columns that were not given, each seeing those before it.
        """
        rules = self._rules
        so_far = {rules[name].column.key: value for name, value in columns.items()}
        for name, default in self._defaults.items():
            if name not in row:
                value = so_far[rules[name].column.key] = default(so_far)
                row[name] = rules[name].prepare(value)

    def encode(self, columns: dict[str, Any]) -> bytes:
        """
        Return the row for *columns* as bytes; raises as `prepare()` does.
        """
        return encode_values(self.prepare(columns))

    def record_in(self, session: Session, columns: dict[str, Any]) -> int:
        """
        Insert one row through *session*, whose owner commits, and return its first primary key if that is a number.
        """
        statement, parameters = self._inserts.statement_for(self.prepare(columns))
        result: Any = session.execute(statement, parameters)
        key = (result.inserted_primary_key or (0,))[0]
        return key if isinstance(key, int) else 0

    # As a sink --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """
        Check that the tables are there, with the columns that are written.

        Raises:
            ConfigError: One is not; the message has the remedy.
        """
        columns = [str(rule.column.name) for rule in self._rules.values()]
        require_table(self.engine, self.table.name, columns, "create it first", self.table.schema)
        for companion in (position_table, gap_table, quarantine_table):
            columns = [column.name for column in companion.columns]
            require_table(self.engine, companion.name, columns, "call TableSink.create_schema() first")

    def limit(self, statement_timeout: float) -> None:
        """
        Let the database take at most so many seconds over one statement.
        """
        self._database.limit(Timeouts(statement_timeout))

    def insert_by(self, bulk: str) -> None:
        """
        Insert rows by the strategy *bulk*; see `bulk_for()`. What it cannot carry faithfully goes by executemany.

        Raises:
            ConfigError: The database has none of that name.
        """
        self._inserts = OwnRows(self.engine, self.table, self._rules, bulk)

    def position(self, buffer_id: UUID) -> int:
        """
        Return the last committed seq of *buffer_id*, 0 if there is none.
        """
        with self._database.transaction() as connection:
            link = self._positions.read(connection, buffer_id)
        return 0 if link is None else link.last_seq

    def write(self, batch: Batch) -> None:
        """
        Insert *batch* and move the position in one transaction.
        """
        rows = [decode_values(payload)[1] for _, payload in batch.stored]
        with self._database.transaction() as connection:
            self._positions.move(connection, batch)
            self._inserts.insert(connection, rows)
            self._write_gaps(connection, batch)

    def quarantine(self, batch: Batch, error: Exception) -> None:
        """
        Keep the one entry of *batch*, which the table refused, in `audit_buffer_quarantine`, and move the position.
        """
        ((seq, payload),) = batch.stored
        row = {
            "buffer_id": batch.buffer_id,
            "seq": seq,
            "payload": payload,
            "error": explained(error),
            "recorded_at": now(),
        }
        with self._database.transaction() as connection:
            self._positions.move(connection, batch)
            stored = connection.execute(insert(quarantine_table), [row], execution_options=COUNTED)
            require_all(stored.rowcount, 1, str(quarantine_table.name))

    def retry_quarantined(self, buffer_id: UUID, seq: int) -> None:
        """
        Insert the row that stands in `audit_buffer_quarantine` under *seq*, and take it out of there, in one transaction.

        What the table still refuses stays in quarantine, and the database's error is raised. Call it from one thread, with a
        `TableSink` that no buffer uses.

        Raises:
            LookupError: It is not in quarantine.
        """
        place = (quarantine_table.c.buffer_id == buffer_id) & (quarantine_table.c.seq == seq)
        with self._database.transaction() as connection:
            payload = connection.scalar(select(quarantine_table.c.payload).where(place))
            if payload is None or connection.execute(delete(quarantine_table).where(place)).rowcount != 1:
                raise LookupError(f"entry {seq} of buffer {buffer_id.hex} is not in quarantine")
            self._inserts.insert(connection, [decode_values(bytes(payload))[1]])

    def first_foreign(self, batch: Batch, sent: int | None) -> int | None:
        """
        Return the first seq of *batch* that belongs to a transaction of somebody else, as far as the position's row tells.

        The own table does not say which row has which seq. But its position has a checksum of all entries before it, and one of
        those before its last transaction; both were read with it. What this process sent itself (*sent* is not None) it knows
        again; of an orphan it knows what follows from *batch* and the batches before.
        """
        history = self._positions.history(batch.buffer_id)
        if not history.is_read:
            self.position(batch.buffer_id)
        return None if history.link is None else history.first_foreign(history.link, batch, sent)

    def begin(self, buffer_id: UUID, after: int) -> None:
        """
        Set the position of a buffer_id that continues another one; it may be there already.
        """
        if after == 0:
            return  # as a buffer_id that continues nothing
        with self._database.transaction() as connection:
            self._positions.begin(connection, buffer_id, after)

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

    @staticmethod
    def _write_gaps(connection: Connection, batch: Batch) -> None:
        rows = [
            {
                "buffer_id": batch.buffer_id,
                "first_seq": gap.first_seq,
                "last_seq": gap.last_seq,
                "dropped": gap.dropped,
                "policy": batch.policy,
                "recorded_at": now(),
            }
            for gap in batch.gaps
        ]
        if rows:
            connection.execute(insert(gap_table), rows)


def _columns_of(table: Table | type[Any]) -> tuple[Table, dict[str, Any]]:
    if isinstance(table, Table):
        # A key may be a subclass of str (quoted_name), which no row could carry.
        return table, {str(column.key): column for column in table.columns}
    mapper = inspect_mapped(table, raiseerr=False)
    if not getattr(mapper, "is_mapper", False) or not isinstance(mapper.local_table, Table):
        raise ConfigError("table", table, "must be a Table or a mapped class")
    own = mapper.local_table
    if len(mapper.tables) > 1:
        names = ", ".join(part.name for part in mapper.tables)
        raise ConfigError("table", table, f"is mapped to more than one table ({names}); a row goes into one")
    return own, {attr.key: attr.columns[0] for attr in mapper.column_attrs if attr.columns[0].table is own}
