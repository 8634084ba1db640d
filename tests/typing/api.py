"""
Typical uses of the public API: `mypy --strict` checks this file, and nobody runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from audit_buffer import (
    AuditBuffer,
    AuditEntry,
    AuditService,
    Batch,
    BufferConfig,
    BufferFull,
    BufferStats,
    DomainEvent,
    EntryRejected,
    EventBus,
    Finding,
    FlushTimeout,
    Gap,
    Health,
    Sink,
    TableSink,
    open_audit,
)
from audit_buffer.instrumentation import BatchCommitted, Event, set_hooks
from audit_buffer.testing import FakeClock, FlakySink, MemorySink


engine = sa.create_engine("sqlite:///audit.db")


def use_the_service() -> None:
    service = AuditService(engine)
    AuditService("sqlite:///audit.db")
    AuditService(sa.make_url("sqlite:///audit.db"))
    AuditService(orm.sessionmaker(engine), BufferConfig(max_entry_bytes=1024))
    service.create_schema()
    assert_type(service.record("plan.updated"), int)
    assert_type(
        service.entries(event_type="plan.updated", since=datetime.now(UTC), limit=5), list[AuditEntry]
    )
    assert_type(service.latest(5, after_id=7), list[AuditEntry])
    assert_type(service.count(actor="agent-7"), int)
    assert_type(AuditService.metadata, sa.MetaData)
    assert_type(AuditService.table, sa.Table)


def use_a_buffer() -> None:
    with AuditBuffer(AuditService(engine), batch_size=200) as audit:
        assert_type(audit, AuditBuffer)
        seq = audit.record(
            "plan.updated",
            actor="agent-7",
            resource="plan/42",
            outcome="success",
            details={"from": "draft", "to": ["ready"]},
            correlation_id="c-1",
            occurred_at=datetime.now(UTC),
        )
        assert_type(seq, int)
        audit.flush(timeout=5)
        audit.wait(seq, until="committed", timeout=1.5)
        assert_type(audit.stats(), BufferStats)
        assert_type(audit.stats().oldest_age, float)
        assert_type(audit.health(timeout=0.5), Health)
        assert_type(audit.health().findings, tuple[Finding, ...])
        assert_type(audit.health().database_reachable, bool | None)
        with orm.Session(engine) as session:
            audit.record("plan.updated", session=session)
    audit.close(timeout=1)


async def use_a_buffer_in_a_loop() -> None:
    async with AuditBuffer(AuditService(engine)) as audit:
        assert_type(await audit.arecord("plan.updated", actor="agent-7"), int)
        await audit.aflush(timeout=5)
        await audit.aclose()


class Base(orm.DeclarativeBase):
    pass


class Fact(Base):
    __tablename__ = "fact"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    who: orm.Mapped[str | None]


def use_a_table() -> None:
    sink = TableSink(engine, Fact)
    TableSink("sqlite:///audit.db", sa.Table("facts", sa.MetaData(), sa.Column("a", sa.Integer)))
    sink.create_schema()
    assert_type(TableSink.companion_metadata, sa.MetaData)
    AuditBuffer(sink, BufferConfig(on_full="drop_oldest"))


class Printer:
    """
    A sink of one's own.
    """

    def open(self) -> None:
        print("open")

    def position(self, buffer_id: UUID) -> int:
        return 0

    def write(self, batch: Batch) -> None:
        for entry in batch.entries():
            assert_type(entry, AuditEntry)
            assert_type(entry.seq, int | None)
        assert_type(batch.gaps, list[Gap])

    def close(self) -> None:
        print("closed")


def use_a_sink() -> None:
    sink: Sink = Printer()
    AuditBuffer(sink)


def use_the_configuration() -> None:
    def redact(details: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**details, "password": "***"}

    config = BufferConfig(
        queue_maxsize=10_000,
        ring_dir=Path("/var/lib/app"),
        handle_signals=["SIGTERM"],
        redact=redact,
        on_error=print,
    )
    assert_type(config.evolve(batch_size=5), BufferConfig)
    assert_type(BufferConfig.from_env(), BufferConfig)
    assert_type(BufferConfig.from_env("APP_AUDIT_", {"APP_AUDIT_ASYNC": "0"}), BufferConfig)
    assert_type(BufferConfig.from_toml("settings.toml"), BufferConfig)
    assert_type(BufferConfig.from_mapping({"audit_async": False}), BufferConfig)
    audit = open_audit(engine, config)
    assert_type(audit, AuditService | AuditBuffer)
    audit.record("plan.updated")


def use_the_bus(audit: AuditBuffer) -> None:
    bus = EventBus()
    unsubscribe = bus.subscribe(None, audit.on_event)
    bus.emit(DomainEvent(event_type="plan.updated", actor="agent-7"))
    unsubscribe()


def use_the_errors(audit: AuditBuffer) -> None:
    try:
        audit.record("plan.updated")
        audit.flush(timeout=1)
    except BufferFull as error:
        assert_type(error.depth, int)
        assert_type(error.oldest_age, float)
        assert_type(error.last_error, BaseException | None)
    except FlushTimeout as error:
        assert_type(error.remaining, int)
    except EntryRejected as error:
        assert_type(error.field, str | None)


def use_a_hook() -> None:
    def count(event: Event) -> None:
        if isinstance(event, BatchCommitted):
            assert_type(event.entries, int)
        assert_type(event.name, str)

    set_hooks([count])


def use_the_doubles() -> None:
    clock = FakeClock()
    sink = FlakySink([OSError("down"), (OSError("lost answer"),), None])
    AuditBuffer(sink, clock=clock)
    clock.advance(0.5)
    assert_type(MemorySink().entries, list[AuditEntry])
