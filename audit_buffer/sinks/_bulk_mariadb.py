"""
MariaDB: INSERTs with many rows of VALUES each, which PyMySQL makes of executemany by itself, but slowly.

PyMySQL looks at every character of every text. Here only a text that holds a quote or a backslash is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Table

from audit_buffer.schema import audit_log
from audit_buffer.sinks._bulk import InsertRows, in_order, quoted, require_all
from audit_buffer.sinks._columns import ColumnRule
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import COLUMNS, Row, rows_of


__all__ = ["MariaDbValues"]

_DRIVER = "pymysql"
# Bytes of one statement, as PyMySQL bounds it; a packet of MariaDB holds 16 MiB unless it was told otherwise.
_MOST_BYTES = 1_000_000
# "NO_BACKSLASH_ESCAPES" in the status that the server sends with each answer.
_NO_BACKSLASH_ESCAPES = 0x200


class MariaDbValues:
    """
    Multi-row VALUES.
    """

    name = "values"
    _head = f"INSERT INTO {audit_log.name} ({', '.join(COLUMNS)}) VALUES "  # noqa: S608  (names of ours)

    def prepare(self, batch: Batch) -> Callable[[Connection], bool]:
        """
        Decline drivers but PyMySQL, and unusual ways to write text.
        """
        values = in_order(batch, [_entry(row) for row in rows_of(batch.buffer_id, batch.stored)], _entry)

        def insert(connection: Connection) -> bool:
            if not _is_usual(connection):
                return False
            require_all(_execute(connection, self._head, values), len(values))
            return True

        return insert

    def plan(self, dialect: Dialect, table: Table, rules: Sequence[ColumnRule]) -> InsertRows | None:
        """
        Every type will do: what is neither text nor a whole number, PyMySQL writes.
        """
        if dialect.driver != _DRIVER:
            return None
        name, columns = quoted(dialect, table, rules)
        head = f"INSERT INTO {name} ({columns}) VALUES "  # noqa: S608  (quoted)
        processes = [rule.process for rule in rules]

        def insert(connection: Connection, rows: Sequence[Sequence[Any]]) -> int | None:
            if not _is_usual(connection):
                return None
            literal = _literals(connection)
            values = [
                f"({','.join([literal(value if process is None else process(value)) for process, value in zip(processes, row, strict=True)])})"
                for row in rows
            ]
            return _execute(connection, head, values)

        return insert


def _is_usual(connection: Connection) -> bool:
    """
    Tell whether this is PyMySQL, and text is UTF-8 in which a backslash escapes.
    """
    if connection.dialect.driver != _DRIVER:
        return False
    raw: Any = connection.connection.dbapi_connection
    return str(raw.charset).startswith("utf8") and not raw.server_status & _NO_BACKSLASH_ESCAPES


def _text(value: str) -> str:
    """
    Return *value* as MariaDB reads it between single quotes; no other characters mean anything there.
    """
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "'" in value:
        value = value.replace("'", "''")
    return f"'{value}'"


def _entry(row: Row) -> str:
    identity, seq, recorded, occurred, event_type, actor, resource, outcome, correlation_id, details = row
    return (
        f"(X'{identity}',{seq},'{recorded}','{occurred}',{_text(event_type)},{'NULL' if actor is None else _text(actor)},"
        f"{'NULL' if resource is None else _text(resource)},{_text(outcome)},"
        f"{'NULL' if correlation_id is None else _text(correlation_id)},"
        f"{'NULL' if details is None else _text(details)})"
    )


def _literals(connection: Connection) -> Callable[[Any], str]:
    """
    Return what turns a value of the driver's into the text that stands for it in a statement.
    """
    raw: Any = connection.connection.dbapi_connection
    mogrify = raw.cursor().mogrify

    def literal(value: Any) -> str:
        kind = type(value)
        if kind is str:
            return _text(value)
        if kind is int:
            return str(value)
        written: str = "NULL" if value is None else mogrify("%s", (value,))
        return written

    return literal


def _execute(connection: Connection, head: str, values: Iterable[str]) -> int:
    """
    Insert *values*, each a row in parentheses, and return how many rows the database says it stored.
    """
    stored = 0
    for part in _parts(values):
        # Without parameters a "%" is a "%".
        result = connection.exec_driver_sql(head + ",".join(part), execution_options={"no_parameters": True})
        stored += result.rowcount
    return stored


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    """
    Yield *values* in lists that fit into one statement each, or hold one value only.
    """
    part: list[str] = []
    size = 0
    for value in values:
        length = len(value) if value.isascii() else len(value.encode())
        if part and size + length > _MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(value)
        size += length + 1
    if part:
        yield part
