"""
Rows that an own table swallows without an error: the database says how many it stored, and that is counted.

(The service's table: test_transactions.) MariaDB has nothing that swallows a row: its triggers and views can only refuse.
"""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, SinkError, TableSink
from audit_buffer.schema import position_table, quarantine_table
from tests.rules.poison import POISON, forbid


SETTINGS: dict[str, Any] = {
    "durability": "memory",
    "flush_interval": 60.0,
    "retry_backoff": 0.001,
    "retry_backoff_max": 0.01,
}
TRAIL = sa.Table(
    "trail", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.String(60))
)
_FUNCTION = (
    "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN IF {condition} THEN RETURN NULL; END IF; RETURN NEW; END $$"
)
# How to have *table* swallow the rows that fulfil a condition, and how to have it stop that.
WAYS = {
    "sqlite trigger": (
        ["CREATE TRIGGER swallow BEFORE INSERT ON {table} WHEN {condition} BEGIN SELECT RAISE(IGNORE); END"],
        "DROP TRIGGER swallow",
    ),
    "postgresql trigger": (
        [
            _FUNCTION,
            "CREATE TRIGGER swallow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION swallow()",
        ],
        "DROP TRIGGER swallow ON {table}",
    ),
    "postgresql rule": (
        ["CREATE RULE swallow AS ON INSERT TO {table} WHERE {condition} DO INSTEAD NOTHING"],
        "DROP RULE swallow ON {table}",
    ),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(way: str, request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(f"{way.split(maxsplit=1)[0]}_engine")
    TRAIL.create(engine)
    TableSink(engine, TRAIL).create_schema()
    return engine


def swallow(engine: Engine, way: str, table: str, condition: str) -> None:
    with engine.begin() as connection:
        for statement in WAYS[way][0]:
            connection.exec_driver_sql(statement.format(table=table, condition=condition))


def stop(engine: Engine, way: str, table: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(WAYS[way][1].format(table=table))


def whats(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(TRAIL.c.what).order_by(TRAIL.c.id)))


@pytest.mark.parametrize("others", [["a", "c"], []], ids=["in a batch", "alone"])
def test_a_row_that_is_swallowed_is_noticed(engine: Engine, way: str, others: list[str]) -> None:
    """
    In a batch and alone: nothing is acknowledged, flush() names the table and the remedy, and then every row is there.
    """
    swallow(engine, way, "trail", "NEW.what = 'b'")
    audit = AuditBuffer(TableSink(engine, TRAIL), **SETTINGS)
    written = sorted([*others, "b"])
    for what in written:
        audit.record(what=what)
    with pytest.raises(
        SinkError, match=rf"stored {len(others)} of {len(written)} rows.*swallows rows of trail"
    ):
        audit.flush(timeout=60)
    assert whats(engine) == []
    with engine.connect() as connection:
        assert connection.scalars(sa.select(position_table.c.last_seq)).all() == []
    stop(engine, way, "trail")
    audit.close()
    assert whats(engine) == written


def test_a_quarantine_row_that_is_swallowed_is_noticed(engine: Engine, way: str) -> None:
    """
    What the own table refuses must be kept; the position does not move past an entry that is nowhere.
    """
    forbid(engine, "trail", "what")
    swallow(engine, way, quarantine_table.name, "NEW.seq > 0")
    audit = AuditBuffer(TableSink(engine, TRAIL), **SETTINGS)
    audit.record(what=POISON)
    with pytest.raises(SinkError, match="swallows rows of audit_buffer_quarantine"):
        audit.flush(timeout=60)
    stop(engine, way, quarantine_table.name)
    audit.close()
    with engine.connect() as connection:
        assert connection.scalars(sa.select(quarantine_table.c.seq)).all() == [1]
    assert whats(engine) == []


def test_what_leaves_quarantine_is_counted_too(engine: Engine, way: str) -> None:
    """
    A row that its table swallows now stays in quarantine.
    """
    forbid(engine, "trail", "what")
    sink = TableSink(engine, TRAIL)
    with AuditBuffer(sink, **SETTINGS) as audit:
        audit.record(what=POISON)
    with engine.begin() as connection:
        sqlite = engine.dialect.name == "sqlite"
        connection.exec_driver_sql(
            "DROP TRIGGER no_poison" if sqlite else "ALTER TABLE trail DROP CONSTRAINT no_poison"
        )
    swallow(engine, way, "trail", "NEW.what = 'poison'")
    own = TableSink(engine, TRAIL)
    with pytest.raises(SinkError, match="swallows rows of trail"):
        own.retry_quarantined(audit.buffer_id, 1)
    stop(engine, way, "trail")
    own.retry_quarantined(audit.buffer_id, 1)
    own.close()
    assert whats(engine) == [POISON]
