"""
SQLite: INSERTs with many rows of VALUES each.

Faster than executemany of ready-made tuples when nothing else runs, and far ahead of it beside a busy thread, because the
GIL is handed over once per statement and not once per row. (``json_each`` took about twice as long at 1.2 kB a row.)

SQLite takes longer to prepare such a statement than to execute it, so that there are only a few, which the driver keeps
prepared: each takes up to so many rows, is filled up with zeros, and says by LIMIT how many rows are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from sqlite3 import SQLITE_LIMIT_VARIABLE_NUMBER
from typing import Any

from sqlalchemy import Connection, Dialect, Table

from audit_buffer.schema import audit_log
from audit_buffer.sinks._bulk import InsertRows, in_order, quoted, require_all
from audit_buffer.sinks._columns import ColumnRule
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import COLUMNS, rows_of


__all__ = ["SqliteValues"]

_DRIVER = "pysqlite"
# Rows that the statements have room for. More than the last of them gained nothing.
_ROOMS = (8, 32, 128, 512, 1024)
# What a statement takes in SQLite before 3.32, or under a driver that does not say.
_FEWEST_PARAMETERS = 999


class SqliteValues:
    """
    INSERT … SELECT from multi-row VALUES.
    """

    name = "values"

    def __init__(self) -> None:
        self._entries = _Inserts(audit_log.name, ", ".join(COLUMNS), len(COLUMNS))

    def prepare(self, batch: Batch) -> Callable[[Connection], bool]:
        """
        Decline drivers but sqlite3.
        """
        rows = in_order(batch, rows_of(batch.buffer_id, batch.stored), lambda row: row)

        def insert(connection: Connection) -> bool:
            if connection.dialect.driver != _DRIVER:
                return False
            require_all(self._entries.insert(connection, rows), len(rows))
            return True

        return insert

    def plan(self, dialect: Dialect, table: Table, rules: Sequence[ColumnRule]) -> InsertRows | None:
        """
        Every type will do: the driver gets the values that executemany would give it.
        """
        if dialect.driver != _DRIVER:
            return None
        inserts = _Inserts(*quoted(dialect, table, rules), len(rules))
        processes = [rule.process for rule in rules]

        def insert(connection: Connection, rows: Sequence[Sequence[Any]]) -> int:
            columns = [
                column if process is None else map(process, column)
                for process, column in zip(processes, zip(*rows, strict=True), strict=True)
            ]
            return inserts.insert(connection, list(zip(*columns, strict=True)))

        return insert


class _Inserts:
    """
    The statements for one table and one list of columns.

    Args:
        table: Its name, quoted.
        columns: Their names, quoted, with commas between.
        width: How many they are.
    """

    def __init__(self, table: str, columns: str, width: int) -> None:
        self._head = f"INSERT INTO {table} ({columns}) SELECT * FROM (VALUES "  # noqa: S608  (quoted)
        self._width = width
        self._places = f"(?{',?' * (width - 1)})"
        self._statements: dict[int, str] = {}

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """
        Insert *rows* in their order, and return how many the database says it stored.
        """
        rooms = self._rooms(connection)
        stored, start = 0, 0
        while start < len(rows):
            part = rows[start : start + rooms[-1]]
            room = next(room for room in rooms if room >= len(part))
            filling = (0,) * (self._width * (room - len(part)))
            values = (*chain.from_iterable(part), *filling, len(part))
            stored += connection.exec_driver_sql(self._statement(room), values).rowcount
            start += len(part)
        return stored

    def _rooms(self, connection: Connection) -> list[int]:
        limit_of = getattr(connection.connection.dbapi_connection, "getlimit", None)
        limit = _FEWEST_PARAMETERS if limit_of is None else limit_of(SQLITE_LIMIT_VARIABLE_NUMBER)
        most = (limit - 1) // self._width
        return [room for room in _ROOMS if room <= most] or [max(1, most)]

    def _statement(self, room: int) -> str:
        known = self._statements.get(room)
        if known is None:
            places = ",".join([self._places] * room)
            known = self._statements[room] = f"{self._head}{places}) LIMIT ?"
        return known
