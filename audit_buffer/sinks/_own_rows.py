"""
INSERTs into an application's own table: by a bulk strategy where it stores what executemany would store, else by that.

Which of the two is decided once for each set of columns. It is executemany where an INSERT is more than its columns and
values: a type that wraps SQL around its value, a default that the statement has to evaluate, no columns at all, a name that
only SQLAlchemy knows. So it is where a table refers to itself: a statement with many rows checks such a foreign key at its
end on some databases, and takes what a row of its own would not have been taken.

Called inside a transaction, by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, Insert, Table, bindparam, insert

from audit_buffer.sinks._bulk import COUNTED, InsertRows, bulk_for, require_all
from audit_buffer.sinks._columns import ColumnRule


__all__ = ["OwnRows"]

Keys = tuple[str, ...]


class OwnRows:
    """
    Inserts rows into one table.

    Args:
        rules: The columns that a row may have, by the names it has them under.
        bulk: How; see `bulk_for()`.
    """

    def __init__(
        self, engine: Engine, table: Table, rules: Mapping[str, ColumnRule], bulk: str = "auto"
    ) -> None:
        self._engine = engine
        self._table = table
        self._rules = rules
        self._bulk = bulk_for(engine, bulk)
        self._statements: dict[Keys, Insert] = {}
        self._plans: dict[Keys, InsertRows | None] = {}

    def insert(self, connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
        """
        Insert *rows* in their order.

        Raises:
            SinkError: The database says that it stored fewer.
        """
        # A statement has its columns from the first row, so rows of differing keys go in runs.
        for keys, run in groupby(rows, key=_keys):
            self._insert_run(connection, keys, list(run))

    def _insert_run(self, connection: Connection, keys: Keys, rows: list[dict[str, Any]]) -> None:
        if keys not in self._plans:
            self._plans[keys] = self._plan(keys)
        insert_rows, stored = self._plans[keys], None
        if insert_rows is not None:
            stored = insert_rows(connection, [[row[name] for name in keys] for row in rows])
        if stored is None:
            stored = self._insert_many(connection, keys, rows)
        require_all(stored, len(rows), self._table.fullname)

    def statement_for(self, row: dict[str, Any]) -> tuple[Insert, dict[str, Any]]:
        """
        Return the statement that inserts *row* alone, and its parameters.
        """
        keys = _keys(row)
        return self._statement(keys), _parameters(keys, row)

    def _insert_many(self, connection: Connection, keys: Keys, rows: list[dict[str, Any]]) -> int:
        # Inline: nobody asks for the keys, and PostgreSQL cannot return them from a table that has a rule.
        statement = self._statement(keys).inline()
        parameters = [_parameters(keys, row) for row in rows]
        return connection.execute(statement, parameters, execution_options=COUNTED).rowcount

    def _statement(self, keys: Keys) -> Insert:
        statement = self._statements.get(keys)
        if statement is None:
            values = {
                self._rules[name].column: bindparam(f"p{position}", type_=self._rules[name].bind_type)
                for position, name in enumerate(keys)
            }
            statement = self._statements[keys] = insert(self._table).values(values)
        return statement

    def _plan(self, keys: Keys) -> InsertRows | None:
        rules = [self._rules[name] for name in keys]
        given = {rule.column.name for rule in rules}
        table, dialect = self._table, self._engine.dialect
        if (
            not rules
            or self._engine.get_execution_options().get("schema_translate_map")
            or any(column.default is not None for column in table.columns if column.name not in given)
            or any(_wraps(rule, dialect) for rule in rules)
            or any(key.target_fullname.rpartition(".")[0] == table.fullname for key in table.foreign_keys)
        ):
            return None
        return self._bulk.plan(dialect, table, rules)


def _keys(row: dict[str, Any]) -> Keys:
    """
    Return the keys of *row*, sorted, so that the order of a caller's keyword arguments does not split a run.
    """
    return tuple(sorted(row))


def _parameters(keys: Keys, row: dict[str, Any]) -> dict[str, Any]:
    return {f"p{position}": row[name] for position, name in enumerate(keys)}


def _wraps(rule: ColumnRule, dialect: Dialect) -> bool:
    """
    Tell whether the column's type puts SQL around its value.
    """
    kind = rule.bind_type
    value = bindparam("value", type_=kind)
    return any(found.bind_expression(value) is not None for found in (kind, kind.dialect_impl(dialect)))
