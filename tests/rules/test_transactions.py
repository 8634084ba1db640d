"""
A transaction stores a batch or nothing, whatever happens in it, and trouble that passes is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from audit_buffer import AuditBuffer, AuditService, SinkError, TableSink, instrumentation
from audit_buffer._codec import EntryCodec
from audit_buffer.instrumentation import BatchFailed, Event
from audit_buffer.schema import audit_log
from audit_buffer.sinks import Batch
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._entries import EntrySink
from tests.rules.poison import POISON, forbid


SETTINGS: dict[str, Any] = {
    "durability": "memory",
    "flush_interval": 60.0,
    "retry_backoff": 0.001,
    "retry_backoff_max": 0.02,
}
PATIENCE = 30.0
encode = EntryCodec(1 << 20).encode


@pytest.fixture
def events() -> Iterator[list[Event]]:
    seen: list[Event] = []
    instrumentation.set_hooks([seen.append])
    yield seen
    instrumentation.set_hooks([instrumentation.log_event])


@pytest.fixture
def service(any_engine: Engine) -> AuditService:
    service = AuditService(any_engine)
    service.create_schema()
    return service


def batch_of(*actors: str) -> Batch:
    stored = [
        (seq, encode(seq, "fact", actor, None, "success", None, None, None))
        for seq, actor in enumerate(actors, 1)
    ]
    return Batch(buffer_id=uuid4(), after=0, through=len(stored), stored=stored)


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(audit_log)) or 0)


def errors_of(events: list[Event]) -> str:
    return " ".join(event.error for event in events if isinstance(event, BatchFailed))


def until(true: Callable[[], object]) -> None:
    """
    Return once *true* holds.
    """
    deadline, nothing = time.monotonic() + PATIENCE, threading.Event()
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        nothing.wait(0.15)  # InnoDB answers from a cache until nobody has asked for 0.1 s


# Row 24: COMMIT succeeds and stores nothing ---------------------------------------------------------------------------


def test_an_error_that_somebody_swallowed_does_not_pass_for_a_commit(service: AuditService) -> None:
    """
    PostgreSQL answers the COMMIT of an aborted transaction without an error: ours raises. Elsewhere only the statement failed.
    """
    database = Database(service.engine)
    row = {"event_type": "x", "outcome": "y", "recorded_at": sa.func.now(), "occurred_at": sa.func.now()}

    def swallow() -> None:
        with database.transaction() as connection:
            connection.execute(sa.insert(audit_log).values(row))
            with pytest.raises(sa.exc.DBAPIError):
                connection.exec_driver_sql("INSERT INTO no_such_table VALUES (1)")

    if service.engine.dialect.name == "postgresql":
        with pytest.raises(SinkError, match="COMMIT would store nothing"):
            swallow()
        assert count(service.engine) == 0
    else:
        swallow()
        assert count(service.engine) == 1
    database.close()


@pytest.mark.parametrize("bulk", ["auto", "executemany"])
def test_a_trigger_that_swallows_rows_is_noticed(service: AuditService, bulk: str) -> None:
    """
    The database reports success and has stored less: no batch is acknowledged, and flush() says what to do.
    """
    engine = service.engine
    if engine.dialect.name == "mysql":
        pytest.skip("MariaDB's triggers cannot swallow a row")
    statements = (
        [
            "CREATE TRIGGER swallow BEFORE INSERT ON audit_log WHEN NEW.actor = 'b' BEGIN SELECT RAISE(IGNORE); END"
        ]
        if engine.dialect.name == "sqlite"
        else [
            (
                "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN IF NEW.actor = 'b' THEN RETURN NULL; END IF; RETURN NEW; END $$"
            ),
            "CREATE TRIGGER swallow BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION swallow()",
        ]
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    audit = AuditBuffer(service, bulk=bulk, **SETTINGS)
    for actor in ("a", "b", "c"):
        audit.record("fact", actor=actor)
    with pytest.raises(SinkError, match="stored 2 of 3 rows"):
        audit.flush(timeout=PATIENCE)
    assert count(engine) == 0
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "DROP TRIGGER swallow" + (" ON audit_log" if engine.dialect.name == "postgresql" else "")
        )
    audit.close()
    assert [entry.actor for entry in service.entries(buffer_id=audit.buffer_id)] == ["a", "b", "c"]


# Row 25: half a batch is pending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bulk", ["auto", "executemany"])
@pytest.mark.parametrize("place", [0, 150, 299])
def test_an_error_in_the_middle_leaves_nothing_for_the_next_commit(
    service: AuditService, bulk: str, place: int
) -> None:
    """
    Also where a batch takes several statements and the first ones succeeded.
    """
    forbid(service.engine, "audit_log", "actor")
    sink = EntrySink(service.engine, bulk)
    actors = ["me"] * 300
    actors[place] = POISON
    with pytest.raises(sa.exc.DBAPIError, match="poison"):
        sink.write(batch_of(*actors))
    sink.write(batch_of("after"))
    sink.close()
    assert [entry.actor for entry in service.entries()] == ["after"]


@pytest.mark.parametrize("bulk", ["auto", "executemany"])
def test_an_error_of_conversion_in_the_middle_leaves_nothing_either(any_engine: Engine, bulk: str) -> None:
    """
    Raised by the driver's encoder after the first run of rows was executed: rolled back, position and all.
    """
    table = sa.Table(
        "facts",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.String(9)),
        sa.Column("b", sa.LargeBinary(9)),
    )
    table.create(any_engine)
    sink = TableSink(any_engine, table)
    sink.create_schema()
    sink.insert_by(bulk)
    rows = [sink.encode({"a": "x"}), sink.encode({"b": b"y"})]
    batch = Batch(buffer_id=uuid4(), after=0, through=2, stored=list(enumerate(rows, 1)))
    insert, broken = sink._inserts._insert_run, ValueError("cannot be encoded")

    def breaking(connection: sa.Connection, keys: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        if keys == ("b",):
            raise broken
        insert(connection, keys, rows)

    sink._inserts._insert_run = breaking  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="cannot be encoded"):
        sink.write(batch)
    sink._inserts._insert_run = insert  # type: ignore[method-assign]
    assert sink.position(batch.buffer_id) == 0
    sink.write(batch)
    assert sink.position(batch.buffer_id) == 2
    sink.close()
    with any_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 2


# Row 29: trouble that passes --------------------------------------------------------------------------------------------


def hold(connection: Connection, buffer_id: Any) -> None:
    """
    Stand in the way of the writer with a transaction that stays open.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE audit_log IN EXCLUSIVE MODE")
    else:
        row = {"event_type": "x", "outcome": "y", "recorded_at": sa.func.now(), "occurred_at": sa.func.now()}
        connection.execute(sa.insert(audit_log).values(buffer_id=buffer_id, seq=2, **row))


def test_a_lock_that_somebody_holds_is_waited_for(service: AuditService, events: list[Event]) -> None:
    """
    SQLITE_BUSY, 55P03, 1205: the same batch again, in order, each entry once; nothing of it is taken for poison.
    """
    audit = AuditBuffer(service, statement_timeout=4.0, **SETTINGS)
    with service.engine.connect() as other:
        hold(other, audit.buffer_id)
        for number in range(5):
            audit.record(str(number))
        with pytest.raises(SinkError):
            audit.flush()
        other.rollback()
    audit.record("5")
    audit.close(timeout=PATIENCE)
    assert [entry.event_type for entry in service.entries(buffer_id=audit.buffer_id)] == list("012345")
    assert audit.stats().quarantined == 0
    assert any(words in errors_of(events) for words in ("locked", "lock timeout", "1205"))


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_a_deadlock_costs_a_second_attempt(
    name: str, request: pytest.FixtureRequest, events: list[Event]
) -> None:
    """
    40P01, 1213: the database rolls our transaction back to let the other one go on; ours is made again.
    """
    engine: Engine = request.getfixturevalue(f"{name}_engine")
    table = sa.Table(
        "facts",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("k", sa.Integer, unique=True),
        sa.Column("w", sa.Integer),
    )
    table.create(engine)
    sink = TableSink(engine, table)
    sink.create_schema()
    audit = AuditBuffer(sink, **SETTINGS)
    with engine.connect() as other:
        if name == "postgresql":
            other.exec_driver_sql("SET deadlock_timeout = 20000")  # the one that looks first is the victim
        # MariaDB rolls back the one that has changed less.
        other.execute(
            sa.insert(table), [{"k": 2, "w": 1}] + [{"k": 100 + number, "w": 1} for number in range(50)]
        )
        audit.record(k=1, w=0)
        audit.record(k=2, w=0)
        audit._channel.request_flush()
        until(lambda: is_waiting(engine))
        other.execute(sa.insert(table), {"k": 1, "w": 1})
        until(lambda: audit.stats().retries)
        other.rollback()
    audit.close(timeout=PATIENCE)
    with engine.connect() as connection:
        assert connection.execute(sa.select(table.c.k, table.c.w).order_by(table.c.id)).all() == [
            (1, 0),
            (2, 0),
        ]
    assert audit.stats().quarantined == 0
    assert any(code in errors_of(events) for code in ("deadlock detected", "1213"))


def is_waiting(engine: Engine) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        if engine.dialect.name == "postgresql"
        # A statement that takes so long waits. (innodb_trx is not renewed while anybody on the server keeps reading it.)
        else "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() "
        "AND command = 'Query' AND time_ms > 50"
    )
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(query).scalar())
