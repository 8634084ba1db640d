"""
Whether the tables in a database are the ones that this library writes, and whether it may write them.

Guarantees:
    * Nothing is left behind: the trial INSERTs are rolled back (numbers of a sequence that they took stay taken).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Engine,
    Inspector,
    String,
    Table,
    UniqueConstraint,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from audit_buffer._assessment import Finding
from audit_buffer._codec import EntryCodec
from audit_buffer.schema import (
    audit_log,
    companion_metadata,
    gap_table,
    metadata,
    position_table,
    quarantine_table,
)
from audit_buffer.sinks._faults import classify, explained
from audit_buffer.sinks._rows import entry_row, now


__all__ = ["check_rights", "check_tables", "differences"]

_MIGRATE = "run your migrations; docs/how-to/alembic.md has the tables"
# What a compiled type may say besides its kind, and MariaDB's display widths.
_DECORATION = re.compile(r" (CHARACTER SET|COLLATE) \S+|(?<=INT)\(\d+\)|(?<=INTEGER)\(\d+\)")


def check_tables(engine: Engine) -> tuple[list[Table], list[Finding]]:
    """
    Return which of our tables are there, and what is wrong with them.

    The companions of an application's own table are asked for only where one of them is there.
    """
    inspector = inspect(engine)
    names = set(inspector.get_table_names())
    present, findings = [], []
    for family, remedy in (
        (metadata, "AuditService.create_schema()"),
        (companion_metadata, "TableSink.create_schema()"),
    ):
        tables = family.sorted_tables
        found = [table for table in tables if table.name in names]
        present += found
        if found:
            findings += [_missing(table.name, remedy) for table in tables if table not in found]
    for table in present:
        findings += differences(table, inspector, engine.dialect)
    if not present:
        findings.append(
            _missing(audit_log.name, "AuditService.create_schema(), or TableSink.create_schema()")
        )
    return present, findings


def _missing(name: str, remedy: str) -> Finding:
    return Finding("error", f"there is no table {name}", f"{remedy}, or {_MIGRATE}")


def differences(table: Table, inspector: Inspector, dialect: Dialect) -> Iterator[Finding]:
    """
    Yield what of *table* is not as this library writes it.
    """
    found: dict[str, Any] = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        name = f"{table.name}.{column.name}"
        if column.name not in found:
            yield Finding("error", f"there is no column {name}", _MIGRATE)
            continue
        there = found.pop(column.name)
        if problem := _type_problem(column, there["type"], dialect):
            yield Finding("error", f"column {name} {problem}", _MIGRATE)
        if column.nullable and not there["nullable"]:
            yield Finding("error", f"column {name} is NOT NULL: entries without it are refused", _MIGRATE)
    for name, there in found.items():
        if not _fills_itself(there):
            yield Finding(
                "error",
                f"column {table.name}.{name} is NOT NULL, has no default and is none of ours: every entry is refused",
                "give it a default, or let it be NULL",
            )
    yield from _missing_keys(table, inspector)


def _fills_itself(column: dict[str, Any]) -> bool:
    generated = column.get("computed") or column.get("identity") or column.get("autoincrement") is True
    return bool(column["nullable"] or column["default"] is not None or generated)


def _type_problem(column: Column[Any], found: Any, dialect: Dialect) -> str | None:
    wanted = column.type.dialect_impl(dialect)
    expected, there = _kind(wanted, dialect), _kind(found, dialect)
    if expected == there:
        return None
    if isinstance(found, String) and isinstance(column.type, String):
        room, need = found.length, column.type.length
        if room is None or (need is not None and room >= need):
            return None
        return f"is {there}: longer texts, up to {need} characters, are refused"
    # SQLite keeps whatever it is given; only the affinity decides how.
    if dialect.name == "sqlite" and found._type_affinity is wanted._type_affinity:  # noqa: SLF001  (SQLAlchemy's own comparison)
        return None
    return f"is {there}, not {expected}: {_meaning(expected, there)}"


def _kind(kind: Any, dialect: Dialect) -> str:
    return _DECORATION.sub("", kind.compile(dialect).upper())


def _meaning(expected: str, there: str) -> str:
    if "DATETIME(6)" in expected:
        return "microseconds are cut off"
    if "TIME ZONE" in expected:
        return "the time zone is lost"
    if there == "JSONB":
        return "details come back rewritten, keys sorted and numbers changed"
    return "values are refused or changed"


def _missing_keys(table: Table, inspector: Inspector) -> Iterator[Finding]:
    """
    Yield each key that keeps rows apart, and with it a second delivery, and is not there.
    """
    unique: list[set[str | None]] = [
        set(key["column_names"]) for key in inspector.get_unique_constraints(table.name)
    ]
    unique += [set(index["column_names"]) for index in inspector.get_indexes(table.name) if index["unique"]]
    unique.append(set(inspector.get_pk_constraint(table.name)["constrained_columns"]))
    wanted = [constraint for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    for key in [table.primary_key, *wanted]:
        names = [column.name for column in key.columns]
        if set(names) not in unique:
            yield Finding(
                "error",
                f"{table.name} has no UNIQUE ({', '.join(names)}): nothing keeps two processes from writing an entry twice",
                _MIGRATE,
            )


def check_rights(engine: Engine, tables: list[Table]) -> list[Finding]:
    """
    Write one row to each of *tables*, take it back, and return what was refused.
    """
    findings = []
    for table in tables:
        try:
            with engine.connect() as connection, connection.begin() as transaction:
                _TRIALS[table.name](connection)
                transaction.rollback()
        except SQLAlchemyError as error:
            fault = classify(error)
            findings.append(
                Finding(
                    "error",
                    f"a row for {table.name} is refused: {explained(error)}",
                    fault.advice
                    or "see what refuses it: rights, triggers, constraints, a read-only server, a full disk",
                )
            )
    return findings


def _try_entry(connection: Connection) -> None:
    payload = EntryCodec(1024).encode(
        time.time_ns() // 1000, "audit_buffer.doctor", None, None, "success", {"trial": True}, None, None
    )
    buffer_id = uuid4()
    connection.execute(insert(audit_log), entry_row(buffer_id, 1, payload))
    connection.execute(select(func.max(audit_log.c.seq)).where(audit_log.c.buffer_id == buffer_id))


def _try_position(connection: Connection) -> None:
    buffer_id = uuid4()
    connection.execute(insert(position_table), {"buffer_id": buffer_id, "last_seq": 1, "updated_at": now()})
    ours = position_table.c.buffer_id == buffer_id
    connection.execute(update(position_table).where(ours).values(last_seq=2))
    connection.execute(select(position_table.c.last_seq).where(ours))


def _try_gap(connection: Connection) -> None:
    row = {"buffer_id": uuid4(), "last_seq": 1, "first_seq": 1, "dropped": 1, "policy": "trial"}
    connection.execute(insert(gap_table), row | {"recorded_at": now()})


def _try_quarantine(connection: Connection) -> None:
    row = {"buffer_id": uuid4(), "seq": 1, "payload": b"trial", "error": "trial"}
    connection.execute(insert(quarantine_table), row | {"recorded_at": now()})


_TRIALS = {
    audit_log.name: _try_entry,
    position_table.name: _try_position,
    gap_table.name: _try_gap,
    quarantine_table.name: _try_quarantine,
}
