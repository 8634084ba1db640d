"""
`AuditBuffer.health()` on real databases, and when there is none.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Column, Engine, Integer, MetaData, NullPool, StaticPool, String, Table

from audit_buffer import AuditBuffer, AuditService, TableSink
from audit_buffer.testing import FlakySink, MemorySink


@pytest.fixture
def black_hole() -> Iterator[str]:
    """
    The URL of a server that accepts connections and never says a word.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    yield f"postgresql+psycopg://me@127.0.0.1:{listener.getsockname()[1]}/app"
    listener.close()


def probing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "audit-health"]


def test_a_buffer_that_works_is_healthy(any_engine: Engine, tmp_path: Path) -> None:
    """
    Everything is alive, reachable and committed, and nothing is an error.
    """
    service = AuditService(any_engine)
    service.create_schema()
    with AuditBuffer(service, ring_dir=tmp_path / "rings") as audit:
        audit.record("plan.updated")
        audit.flush(timeout=10)
        health = audit.health(timeout=30)
        assert health.writer_alive
        assert health.state == "open"
        assert (health.lag_entries, health.lag_seconds) == (0, 0.0)
        assert health.database_reachable
        assert health.database is not None
        assert health.database.kind == any_engine.dialect.name.replace("mysql", "mariadb")
        assert health.durability == "process"
        assert health.ring.path is not None
        assert health.ring.path.parent == tmp_path / "rings"
        assert (health.ring.bytes, health.last_error) == (0, None)
        assert health.ok, health.findings


def test_what_waits_is_shown_with_its_age_and_its_room(tmp_path: Path) -> None:
    """
    Lag and ring usage are those of the entries that are not committed.
    """
    sink = FlakySink([ConnectionError("gone")] * 1000)
    audit = AuditBuffer(
        sink, ring_dir=tmp_path, ring_bytes=1 << 20, max_entry_bytes=1 << 16, retry_backoff=0.001
    )
    for number in range(500):
        audit.record(f"plan.{number}", details={"text": "x" * 1000})
    health = audit.health()
    assert health.lag_entries == 500
    assert health.lag_seconds > 0
    assert 500_000 < health.ring.bytes < health.ring.capacity < 1 << 20
    assert health.ring.fraction == health.ring.bytes / health.ring.capacity
    assert (health.database_reachable, health.database) == (None, None)
    sink.script.clear()
    audit.close()
    assert audit.health().state == "closed"
    assert audit.health().lag_entries == 0


def test_a_full_memory_ring_is_found() -> None:
    """
    In memory the bounds are those of entries and bytes.
    """
    sink = FlakySink([ConnectionError("gone")] * 1000)
    audit = AuditBuffer(sink, durability="memory", queue_maxsize=10, retry_backoff=0.001)
    for _ in range(9):
        audit.record("plan.updated")
    health = audit.health()
    assert health.ring.fraction == 0.9
    assert health.ring.path is None
    assert any("90% of the ring" in finding.what for finding in health.findings)
    sink.script.clear()
    audit.close()


def test_a_database_that_is_silent_holds_nobody_up(black_hole: str) -> None:
    """
    health() returns after its timeout, says "unreachable", and asks a second time only when the first question has ended.
    """
    engine = sqlalchemy.create_engine(black_hole)
    audit = AuditBuffer(MemorySink(), durability="memory")
    audit._checkup._engine = engine
    started = time.monotonic()
    for _ in range(3):
        health = audit.health(timeout=0.1)
        assert health.database_reachable is False
        assert health.database_error == "no answer within 0.1 s"
        assert not health.ok
    assert time.monotonic() - started < 5
    assert len(probing()) == 1
    audit.close()


def test_a_database_that_refuses_is_unreachable_and_says_why(tmp_path: Path) -> None:
    """
    The error of the driver is in the finding; the next call asks again.
    """
    path = tmp_path / "audit.db"
    service = AuditService(f"sqlite:///{path}")
    service.create_schema()
    with AuditBuffer(service, ring_dir=tmp_path / "rings") as audit:
        service.engine.dispose()
        os.rename(path, tmp_path / "away")
        path.mkdir()
        health = audit.health()
        assert health.database_reachable is False
        assert "unable to open database file" in (health.database_error or "")
        path.rmdir()
        os.rename(tmp_path / "away", path)
        assert audit.health().database_reachable
    service.engine.dispose()


def test_a_connection_that_broke_in_the_pool_is_no_outage(postgresql_engine: Engine) -> None:
    """
    After a restart of the server the idle connections of the pool are dead; the database is reachable all the same.
    """
    service = AuditService(postgresql_engine)
    service.create_schema()
    with AuditBuffer(service, durability="memory") as audit:
        with postgresql_engine.connect() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        killer = sqlalchemy.create_engine(postgresql_engine.url, poolclass=NullPool)
        with killer.connect() as connection:
            assert connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)").scalar()
        assert audit.health(timeout=30).database_reachable


def test_a_database_in_memory_is_not_touched() -> None:
    """
    The one connection of a static pool may be in a transaction of the application's, which a look must not end.
    """
    engine = sqlalchemy.create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    service = AuditService(engine)
    service.create_schema()
    with AuditBuffer(service, durability="memory") as audit, engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (x INTEGER)")
        connection.exec_driver_sql("INSERT INTO theirs VALUES (1)")
        health = audit.health()
        assert connection.connection.dbapi_connection.in_transaction  # type: ignore[union-attr]
        connection.rollback()
    assert health.database is not None
    assert any("in memory" in finding.what for finding in health.findings)
    engine.dispose()


def test_the_engine_of_an_own_table_is_looked_at(mariadb_engine: Engine) -> None:
    """
    An own table that knows no transactions is an error, because its rows and the position would part.
    """
    table = Table("own", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(20)))
    with mariadb_engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE own (id INTEGER PRIMARY KEY AUTO_INCREMENT, name VARCHAR(20)) ENGINE=MyISAM"
        )
    sink = TableSink(mariadb_engine, table)
    sink.create_schema()
    with AuditBuffer(sink, durability="memory") as audit:
        assert any("own is MyISAM" in finding.what for finding in audit.health(timeout=30).findings)


def test_a_forked_child_asks_for_itself(sqlite_engine: Engine) -> None:
    """
    In the child there is no thread that would answer the parent's question; the child asks anew.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()
    with AuditBuffer(service) as audit:
        assert audit.health(timeout=30).database_reachable
        pid = os.fork()
        if not pid:
            reachable = False
            try:
                reachable = bool(audit.health(timeout=30).database_reachable)
            finally:
                os._exit(not reachable)
        assert os.waitpid(pid, 0)[1] == 0


def test_where_no_thread_can_be_started_nothing_hangs(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    At the end of the process, or at the limit of threads, the question is not asked, and that is the answer.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with AuditBuffer(service) as audit:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        health = audit.health()
        monkeypatch.undo()
    assert health.database_reachable is False
    assert "can't start new thread" in (health.database_error or "")
