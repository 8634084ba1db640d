"""
PostgreSQL: COPY, the whole batch in one piece.

The server reads COPY's text format faster than anything else, and the GIL is handed over a few times a batch. (One INSERT
… SELECT … FROM json_array_elements() needs no work per row in Python, but took twice as long with details of 1.2 kB: each
``->`` reads the text of the entry again.)

COPY is no INSERT: rules do not apply to it, row-level security forbids it, and a trigger that runs after a row or for a
statement finds all rows of it in the table. A table with any of these gets its rows by executemany.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.exc import DBAPIError

from audit_buffer._ring import Stored
from audit_buffer.schema import audit_log
from audit_buffer.sinks._bulk import InsertRows, in_order, quoted, require_all
from audit_buffer.sinks._columns import ColumnRule
from audit_buffer.sinks._copy_text import NULL, Declined, escaped, text_for
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import COLUMNS, Row, rows_of


__all__ = ["PostgresCopy"]

_DRIVER = "psycopg"
# Rows that are sent at a time.
_PIECE = 128
# Whether COPY into a table, and into all its partitions, does what INSERT does: by the kind of relation, rules, row-level
# security, and the bits of a trigger's type: 1 row, 2 before, 4 insert.
_COPY_IS_INSERT = """
WITH RECURSIVE part (oid) AS (
    SELECT to_regclass(%s)::oid
    UNION ALL
    SELECT inhrelid FROM pg_catalog.pg_inherits JOIN part ON inhparent = part.oid
)
SELECT bool_and(
    relkind IN ('r', 'p') AND NOT relhasrules AND NOT row_security_active(pg_class.oid)
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger
        WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgtype & 4 <> 0 AND tgtype & 3 <> 3
    )
)
FROM part JOIN pg_catalog.pg_class ON pg_class.oid = part.oid
"""


class PostgresCopy:
    """
    COPY … FROM STDIN.
    """

    name = "copy"

    def __init__(self) -> None:
        self._entries = _Copy(audit_log.name, ", ".join(COLUMNS))

    def prepare(self, batch: Batch) -> Callable[[Connection], bool]:
        """
        Decline drivers but psycopg, and a table for which COPY is something else; the rows are made while the server reads.
        """

        def insert(connection: Connection) -> bool:
            if connection.dialect.driver != _DRIVER or not self._entries.is_insert(connection):
                return False
            require_all(self._entries.send(connection, _pieces(batch)), len(batch) + len(batch.gaps))
            return True

        return insert

    def plan(self, dialect: Dialect, table: Table, rules: Sequence[ColumnRule]) -> InsertRows | None:
        """
        Decline unless every column is of a type that `_copy_text` knows.
        """
        makers = [text_for(rule, dialect) for rule in rules]
        if dialect.driver != _DRIVER or None in makers:
            return None
        copy = _Copy(*quoted(dialect, table, rules))

        def insert(connection: Connection, rows: Sequence[Sequence[Any]]) -> int | None:
            if not copy.is_insert(connection):
                return None
            raw = connection.connection.dbapi_connection
            columns = [
                map(make(raw), column)
                for make, column in zip(makers, zip(*rows, strict=True), strict=True)
                if make is not None
            ]
            try:
                lines = ["\t".join(texts) + "\n" for texts in zip(*columns, strict=True)]
            except Declined:
                return None
            return copy.send(connection, [lines])

        return insert


class _Copy:
    """
    COPY into the *columns* of one *table*, both quoted.
    """

    def __init__(self, table: str, columns: str) -> None:
        self._table = table
        self._statement = f"COPY {table} ({columns}) FROM STDIN"

    def is_insert(self, connection: Connection) -> bool:
        """
        Tell whether COPY does what INSERT does; asked once per connection.
        """
        known: dict[str, bool] = connection.info.setdefault("audit_buffer_copy", {})
        if self._table not in known:
            answer = connection.exec_driver_sql(_COPY_IS_INSERT, (self._table,)).scalar()
            known[self._table] = bool(answer)
        return known[self._table]

    def send(self, connection: Connection, pieces: Iterable[list[str]]) -> int:
        """
        Send *pieces*, lists of rows in COPY's text format, and return how many rows the database says it stored.
        """
        raw: Any = connection.connection.dbapi_connection
        errors = connection.dialect.loaded_dbapi.Error
        try:
            with raw.cursor() as cursor:
                with cursor.copy(self._statement) as copy:
                    for lines in pieces:
                        copy.write("".join(lines))
                stored: int = cursor.rowcount
        except errors as error:
            # As SQLAlchemy raises it for any other statement.
            raise DBAPIError.instance(
                self._statement, None, error, errors, dialect=connection.dialect
            ) from error
        return stored


def _pieces(batch: Batch) -> Iterator[list[str]]:
    """
    Yield the lines of *batch*: a few at a time, so that the server reads some while the next ones are made.
    """
    if batch.gaps:
        yield in_order(batch, _lines(batch, batch.stored), lambda row: _line(row, is_plain=False))
        return
    for start in range(0, len(batch), _PIECE):
        yield _lines(batch, batch.stored[start : start + _PIECE])


def _lines(batch: Batch, stored: Sequence[Stored]) -> list[str]:
    # A payload is JSON: without a backslash in it there is no character in any text that COPY would have escaped.
    return [
        _line(row, is_plain=b"\\" not in payload)
        for row, (_, payload) in zip(rows_of(batch.buffer_id, stored), stored, strict=True)
    ]


def _line(row: Row, *, is_plain: bool) -> str:
    identity, seq, recorded, occurred, event_type, actor, resource, outcome, correlation_id, details = row
    if not is_plain:
        event_type, outcome = escaped(event_type), escaped(outcome)
        actor = None if actor is None else escaped(actor)
        resource = None if resource is None else escaped(resource)
        correlation_id = None if correlation_id is None else escaped(correlation_id)
        # JSON text has its control characters escaped already.
        details = None if details is None else details.replace("\\", "\\\\")
    return (
        f"{identity}\t{seq}\t{recorded}+00\t{occurred}+00\t{event_type}\t{NULL if actor is None else actor}\t"
        f"{NULL if resource is None else resource}\t{outcome}\t"
        f"{NULL if correlation_id is None else correlation_id}\t{NULL if details is None else details}\n"
    )
