"""
How the rows of a batch get into a table: one strategy per database, and one that works everywhere.

``executemany`` gives up the GIL at every row, and beside a busy thread gets it back 5 ms later: 1,500 to 2,000 µs a row
(SQLite, CPython 3.11). So each known database has a strategy that hands a batch over in few statements, and that is the
default there, for `audit_log` and for an application's own table alike. A strategy declines what it cannot carry
faithfully; then the portable one takes over.

Called inside a transaction, by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, Dialect, Engine, Table, insert

from audit_buffer.errors import ConfigError, SinkError
from audit_buffer.schema import audit_log
from audit_buffer.sinks._columns import ColumnRule
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import Row, entry_row, gap_row


__all__ = [
    "COUNTED",
    "Bulk",
    "ExecuteMany",
    "InsertRows",
    "bulk_for",
    "in_order",
    "quoted",
    "require_all",
]

# SQLAlchemy does not ask the driver how many rows an INSERT stored unless it is told to.
COUNTED = {"preserve_rowcount": True}

# Inserts rows, each a sequence of values in the order of the columns, and returns how many the database says it stored; or
# None, having done nothing, to decline them.
InsertRows = Callable[[Connection, Sequence[Sequence[Any]]], int | None]

_Made = TypeVar("_Made")


class Bulk(Protocol):
    """
    A way to insert a batch.
    """

    name: str

    def prepare(self, batch: Batch) -> Callable[[Connection], bool]:
        """
        Return what inserts the rows of *batch* into `audit_log`, or returns False, having done nothing, to decline.

        Called before the transaction begins, which keeps other writers out of a SQLite file.
        """
        ...

    def plan(self, dialect: Dialect, table: Table, rules: Sequence[ColumnRule]) -> InsertRows | None:
        """
        Return what inserts rows of an own table that have values for the columns of *rules*; None to decline them all.

        Only for columns whose values go into the statement as they are, without SQL around them.
        """
        ...


class ExecuteMany:
    """
    SQLAlchemy's executemany: works everywhere, one round of the driver per row.
    """

    name = "executemany"
    _insert = insert(audit_log).execution_options(**COUNTED)

    def prepare(self, batch: Batch) -> Callable[[Connection], bool]:
        """
        Never decline; entries and gap rows go in seq order.
        """
        rows = [entry_row(batch.buffer_id, seq, payload) for seq, payload in batch.stored]
        rows += [gap_row(batch, gap) for gap in batch.gaps]
        rows.sort(key=lambda row: int(row["seq"]))

        def insert(connection: Connection) -> bool:
            require_all(connection.execute(self._insert, rows).rowcount, len(rows))
            return True

        return insert

    def plan(self, dialect: Dialect, table: Table, rules: Sequence[ColumnRule]) -> InsertRows | None:
        """
        Decline: `TableSink` does by itself what works everywhere.
        """
        return None


def bulk_for(engine: Engine, choice: str) -> Bulk:
    """
    Return the strategy for a database.

    Args:
        choice: "auto", or the name of a strategy that this database has.

    Raises:
        ConfigError: It has none of that name.
    """
    # Here, because each of them needs what stands above.
    from audit_buffer.sinks._bulk_mariadb import MariaDbValues  # noqa: PLC0415
    from audit_buffer.sinks._bulk_postgresql import PostgresCopy  # noqa: PLC0415
    from audit_buffer.sinks._bulk_sqlite import SqliteValues  # noqa: PLC0415

    dialect = engine.dialect
    known: dict[str, Any] = {
        "sqlite": SqliteValues,
        "postgresql": PostgresCopy,
        "mysql": MariaDbValues,
        "mariadb": MariaDbValues,
    }
    found = [made for made in (known.get(dialect.name), ExecuteMany) if made is not None]
    if choice == "auto" and engine.get_execution_options().get("schema_translate_map"):
        return ExecuteMany()  # only SQLAlchemy knows what the table is called
    for strategy in found:
        if choice in ("auto", strategy.name):
            made: Bulk = strategy()
            return made
    names = ", ".join(["auto", *(strategy.name for strategy in found)])
    raise ConfigError("bulk", choice, f"must be one of {names} with {dialect.name}")


def quoted(dialect: Dialect, table: Table, rules: Sequence[ColumnRule]) -> tuple[str, str]:
    """
    Return the name of *table*, and those of the columns with commas between, as they stand in a statement without parameters.
    """
    preparer = dialect.identifier_preparer
    names = [preparer.format_table(table), ", ".join(preparer.format_column(rule.column) for rule in rules)]
    if dialect.paramstyle in ("format", "pyformat"):
        # SQLAlchemy doubles what such a driver would take for a parameter.
        names = [name.replace("%%", "%") for name in names]
    return names[0], names[1]


def require_all(stored: int, given: int, table: str = audit_log.name) -> None:
    """
    Raise unless the database says that it stored all rows; -1 means that the driver does not know.

    Raises:
        SinkError: A trigger or a rule swallowed some.
    """
    if stored not in (given, -1):
        raise SinkError(
            f"the database stored {stored} of {given} rows and reported no error",
            advice=f"remove the trigger or rule that swallows rows of {table}",
        )


def in_order(batch: Batch, entries: list[_Made], make: Callable[[Row], _Made]) -> list[_Made]:
    """
    Return *entries*, one for each entry of *batch*, with what *make* makes of its gap rows among them, in seq order.
    """
    gaps = batch.gaps
    if not gaps:
        return entries
    placed = list(zip((seq for seq, _ in batch.stored), entries, strict=True))
    placed += [(gap.last_seq, make(_gap_values(gap_row(batch, gap)))) for gap in gaps]
    return [made for _, made in sorted(placed, key=itemgetter(0))]


def _gap_values(row: dict[str, Any]) -> Row:
    at = row["recorded_at"].replace(tzinfo=None).isoformat(" ", "microseconds")
    details = msgspec.json.encode(row["details"]).decode()
    return (
        row["buffer_id"].hex,
        row["seq"],
        at,
        at,
        row["event_type"],
        None,
        None,
        row["outcome"],
        None,
        details,
    )
