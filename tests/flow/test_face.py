"""
The face of the buffer: what it delegates, what it shows, and what it refuses.
"""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from audit_buffer import (
    AuditBuffer,
    AuditService,
    BufferClosed,
    BufferConfig,
    DomainEvent,
    EventBus,
    FlushTimeout,
    open_audit,
)
from audit_buffer.instrumentation import BufferOpened, Event
from audit_buffer.testing import FakeClock, MemorySink
from tests.flow.doubles import PATIENCE, GatedSink, Hurting


@pytest.fixture
def service(sqlite_engine: Engine) -> AuditService:
    service = AuditService(sqlite_engine)
    service.create_schema()
    return service


@pytest.fixture
def audit(service: AuditService) -> Iterator[AuditBuffer]:
    with AuditBuffer(service, durability="memory", flush_interval=1000) as audit:
        yield audit


# Delegation ---------------------------------------------------------------------------------------------------------


def test_a_read_sees_every_record_before_it(audit: AuditBuffer) -> None:
    """
    entries() and count() are the service's, behind a flush.
    """
    for number in range(3):
        audit.record(f"event.{number}")
    assert audit.count() == 3
    assert [entry.event_type for entry in audit.entries()] == ["event.0", "event.1", "event.2"]


def test_without_read_your_writes_a_read_is_the_services_own(service: AuditService) -> None:
    """
    No flush: what is not committed yet is not seen.
    """
    with AuditBuffer(service, durability="memory", flush_interval=1000, read_your_writes=False) as audit:
        audit.record("event")
        assert audit.count() == 0
        audit.flush()
        assert audit.count() == 1


def test_what_is_no_method_is_delegated_as_it_is(audit: AuditBuffer, service: AuditService) -> None:
    """
    Attributes pass without a flush, unknown ones and private ones are AttributeErrors.
    """
    assert audit.engine is service.engine
    with pytest.raises(AttributeError):
        _ = audit.no_such_thing
    for name in ("_codec", "__no_dunder__"):
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(audit, name)


def test_a_delegated_method_keeps_its_name_and_its_documentation(audit: AuditBuffer) -> None:
    """
    help() shows the service's.
    """
    assert audit.entries.__name__ == "entries"
    assert audit.entries.__doc__ == AuditService.entries.__doc__


def test_the_applications_own_methods_are_delegated_too() -> None:
    """
    Any object with record() keeps its other methods; they come after what was recorded before.
    """

    class Log:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def record(self, line: str) -> None:
            self.lines.append(line)

        def last(self) -> str:
            return self.lines[-1]

    with AuditBuffer(Log(), flush_interval=1000) as audit:
        audit.record("one")
        audit.record("two", session=None)
        assert audit.last() == "two"


def test_a_subclass_may_override_record() -> None:
    """
    Its own record() is called, and reaches the buffer through super().
    """

    class Tagged(AuditBuffer):
        def record(self, event_type: str, **facts: Any) -> int:
            return super().record(f"tagged.{event_type}", **facts)

    sink = MemorySink()
    with Tagged(sink) as audit:
        assert audit.record("event", actor="me") == 1
    assert [(entry.event_type, entry.actor) for entry in sink.entries] == [("tagged.event", "me")]


def test_a_session_writes_at_once_and_leaves_the_commit_to_its_owner(
    audit: AuditBuffer, service: AuditService
) -> None:
    """
    session= is the service's, in the caller's transaction.
    """
    with Session(service.engine) as session:
        audit.record("in.the.transaction", session=session)
        session.rollback()
    with Session(service.engine) as session:
        audit.record("committed", session=session)
        session.commit()
    assert [entry.event_type for entry in audit.entries()] == ["committed"]
    assert audit.stats().published == 0


def test_a_session_in_front_of_a_sink_is_a_type_error() -> None:
    """
    A sink has no session to write through.
    """
    with AuditBuffer(MemorySink()) as audit, pytest.raises(TypeError, match="session"):
        audit.record("event", session=object())  # type: ignore[arg-type]


# Not a value --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_buffer_cannot_be_copied_or_pickled(duplicate: Any, audit: AuditBuffer) -> None:
    """
    A clear TypeError; a copy would share the ring and close it when it is collected.
    """
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        duplicate(audit)


def test_an_unfinished_buffer_has_no_attributes_and_no_recursion() -> None:
    """
    Before __init__ (as unpickling and subclasses do it) a look raises AttributeError, and the end is silent.
    """
    unfinished = AuditBuffer.__new__(AuditBuffer)
    with pytest.raises(AttributeError):
        _ = unfinished._channel
    del unfinished
    gc.collect()


# Looking ------------------------------------------------------------------------------------------------------------


def test_stats_are_exact_at_every_moment() -> None:
    """
    Each field, before, during and after a batch.
    """
    sink = GatedSink()
    clock = FakeClock()
    audit = AuditBuffer(sink, clock=clock, on_full="drop_newest", queue_maxsize=3)
    audit._writer.worker.ensure_running = lambda: None  # type: ignore[method-assign]
    assert attrs.asdict(audit.stats()) == {
        "state": "open",
        "published": 0,
        "synced": 0,
        "committed": 0,
        "pending": 0,
        "pending_bytes": 0,
        "oldest_age": 0.0,
        "batches": 0,
        "retries": 0,
        "quarantined": 0,
        "dropped": 0,
        "blocked_seconds": 0.0,
        "last_error": None,
    }
    for _ in range(4):
        audit.record("event")
    clock.advance(2.5)
    stats = audit.stats()
    assert (stats.published, stats.pending, stats.dropped, stats.oldest_age) == (4, 3, 1, 2.5)
    assert stats.pending_bytes == 3 * len(audit._recorder.encode("event"))
    sink.gate.set()
    audit._channel.begin_close()
    while audit._writer.step():
        pass
    stats = audit.stats()
    assert (stats.state, stats.committed, stats.synced, stats.pending, stats.oldest_age) == (
        "closed",
        4,
        4,
        0,
        0.0,
    )
    assert stats.batches == len(sink.batches)


def test_repr_shows_state_and_numbers(audit: AuditBuffer) -> None:
    """
    Enough for a log line: what it is in front of, and where it stands.
    """
    audit.record("event")
    assert repr(audit).startswith("<AuditBuffer open of <AuditService")
    assert repr(audit).endswith(": published 1, committed 0, pending 1>")


def test_opening_is_an_event(events: list[Event]) -> None:
    """
    One event says what is written to, and how durable record() is.
    """
    with AuditBuffer(MemorySink()) as audit:
        (opened,) = [event for event in events if isinstance(event, BufferOpened)]
        assert opened.buffer_id == audit.buffer_id
        assert opened.durability == audit.durability == "memory"


def test_wait_is_a_barrier_for_one_entry() -> None:
    """
    It returns when the entry is committed, and refuses a seq that nobody has been given.
    """
    sink = GatedSink()
    with AuditBuffer(sink, flush_interval=1000, batch_size=1) as audit:
        seq = audit.record("event")
        with pytest.raises(FlushTimeout) as caught:
            audit.wait(seq, timeout=0.0)
        assert caught.value.remaining == 1
        sink.gate.set()
        audit.wait(seq, timeout=PATIENCE)
        audit.wait(seq, until="synced", timeout=PATIENCE)
        with pytest.raises(ValueError, match="last seq given out is 1"):
            audit.wait(seq + 1)
        with pytest.raises(ValueError, match="until"):
            audit.wait(seq, until="written")  # type: ignore[arg-type]


# Events -------------------------------------------------------------------------------------------------------------


def test_on_event_records_objects_mappings_and_what_has_the_names() -> None:
    """
    A handler for the bus: attributes that are arguments of record() are recorded, others are not.
    """

    class Sparse:
        event_type = "sparse"
        unrelated = object()

    sink, bus = MemorySink(), EventBus()
    with AuditBuffer(sink) as audit:
        unsubscribe = bus.subscribe(None, audit.on_event)
        bus.emit(DomainEvent(event_type="domain", actor="a", details={"n": 1}))
        bus.emit(Sparse())
        audit.on_event({"event_type": "mapping", "resource": "r"})
        unsubscribe()
        bus.emit(Sparse())
    assert [(e.event_type, e.actor, e.resource, e.details) for e in sink.entries] == [
        ("domain", "a", None, {"n": 1}),
        ("sparse", None, None, None),
        ("mapping", None, "r", None),
    ]


# Opening and closing ------------------------------------------------------------------------------------------------


def test_open_audit_is_the_service_or_the_buffer_around_it(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One setting switches; the table is there either way, and None means the environment.
    """
    off = open_audit(sqlite_engine, BufferConfig(asynchronous=False))
    assert isinstance(off, AuditService)
    off.record("sync")
    on = open_audit(sqlite_engine, BufferConfig(durability="memory"))
    assert isinstance(on, AuditBuffer)
    on.record("buffered")
    assert on.count() == 2
    on.close()
    monkeypatch.setenv("AUDIT_ASYNC", "0")
    assert isinstance(open_audit(sqlite_engine), AuditService)


def test_leaving_the_block_closes_and_record_raises_afterwards() -> None:
    """
    with commits everything, also when the block raises.
    """
    sink = MemorySink()
    audit = AuditBuffer(sink, flush_interval=1000)

    def fail_in_the_block() -> None:
        with audit:
            audit.record("event")
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_block()
    assert sink.seqs == [1]
    with pytest.raises(BufferClosed):
        audit.record("late")
    audit.flush()
    audit.close()


def test_a_forgotten_buffer_warns_and_writes() -> None:
    """
    The warning names the remedy; the writer, which nobody forgot, delivers.
    """
    sink = GatedSink()
    sink.gate.set()
    audit = AuditBuffer(sink, flush_interval=1000)
    audit.record("event")
    worker = audit._writer.worker
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del audit
        gc.collect()
    (warning,) = [w for w in caught if w.category is ResourceWarning]
    assert "was never closed" in str(warning.message)
    worker.join(PATIENCE)
    assert sink.seqs == [1]


def test_a_closed_buffer_may_be_forgotten() -> None:
    """
    No warning.
    """
    audit = AuditBuffer(MemorySink())
    audit.close()
    del audit
    gc.collect()


def test_a_target_that_cannot_be_opened_leaves_no_buffer_behind() -> None:
    """
    What the sink's open() raises is raised, and nothing warns afterwards.
    """

    class Broken(Hurting):
        def open(self) -> None:
            raise LookupError("no such table")

    with pytest.raises(LookupError):
        AuditBuffer(Broken())
    gc.collect()


def test_nothing_is_started_by_a_buffer_that_is_never_used() -> None:
    """
    Reading through it, flushing it and looking at it start no thread.
    """
    audit = AuditBuffer(Hurting())
    audit.flush()
    audit.stats()
    assert audit._writer.worker._thread is None
    audit.close()
