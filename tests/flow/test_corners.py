"""
Corners of channel and writer that a run meets by chance only, met here on purpose.
"""

from __future__ import annotations

import threading
from threading import Condition, Event
from uuid import uuid4

import pytest

from audit_buffer import AuditBuffer, FlushTimeout
from audit_buffer._adoption import Adoption
from audit_buffer._ring import MemoryRing
from audit_buffer._state import State
from audit_buffer._timing import Deadline, SystemClock
from audit_buffer._writer import Writer
from audit_buffer.testing import MemorySink
from tests.flow.doubles import PATIENCE


class WatchedClock(SystemClock):
    """
    The real clock; it tells when somebody begins to wait.
    """

    def __init__(self) -> None:
        self.waits = Event()

    def wait(self, condition: Condition, timeout: float | None) -> None:  # type: ignore[override]
        self.waits.set()
        condition.wait(timeout)


class SlowDisk(MemoryRing):
    """
    A ring whose sync takes until it is told to end, or raises what it is told to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.gate = Event(), Event()
        self.raises: BaseException | None = None

    def sync(self) -> None:
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.raises is not None:
            raise self.raises


def slow_buffer() -> tuple[AuditBuffer, SlowDisk, WatchedClock]:
    """
    A buffer with one entry in a ring whose disk is slow, and with a writer that has no reason to write.
    """
    clock = WatchedClock()
    audit = AuditBuffer(MemorySink(), clock=clock, durability="memory", flush_interval=3600)
    ring = SlowDisk()
    audit._channel.ring = ring
    audit.record("one")
    return audit, ring, clock


def test_a_change_of_the_buffer_id_waits_for_the_sync_under_way() -> None:
    """
    The ring is not replaced under the feet of a thread that syncs it.
    """
    audit, ring, clock = slow_buffer()
    channel, new = audit._channel, uuid4()
    syncing = threading.Thread(target=channel.sync_through, args=(None, Deadline(clock, None)))
    syncing.start()
    assert ring.entered.wait(PATIENCE)
    changing = threading.Thread(target=channel.go_on_as, args=(new, 0))
    with channel._lock:
        clock.waits.clear()
        changing.start()
    assert clock.waits.wait(PATIENCE)
    assert audit.buffer_id != new
    ring.gate.set()
    syncing.join(PATIENCE)
    changing.join(PATIENCE)
    assert audit.buffer_id == new
    audit.close(timeout=PATIENCE)


def test_a_wait_for_somebody_elses_sync_keeps_its_deadline() -> None:
    """
    A disk that takes its time holds nobody longer than he asked for, and what waits is counted.
    """
    audit, ring, clock = slow_buffer()
    syncing = threading.Thread(target=audit._channel.sync_through, args=(None, Deadline(clock, None)))
    syncing.start()
    assert ring.entered.wait(PATIENCE)
    with pytest.raises(FlushTimeout) as caught:
        audit._channel.sync_through(1, Deadline(clock, 0.01))
    assert caught.value.remaining == 1
    ring.gate.set()
    syncing.join(PATIENCE)
    audit.close(timeout=PATIENCE)


def test_an_interrupted_sync_promises_nothing_and_may_be_repeated() -> None:
    """
    Ctrl-C in fdatasync: nothing counts as synced, and the next sync is not kept waiting.
    """
    audit, ring, clock = slow_buffer()
    ring.gate.set()
    ring.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        audit._channel.sync_through(1, Deadline(clock, None))
    assert audit.stats().synced == 0
    ring.raises = None
    assert audit._channel.sync_through(1, Deadline(clock, None)) is None
    assert audit.stats().synced == 1
    audit.close(timeout=PATIENCE)


def test_where_no_thread_starts_the_writer_does_not_enter_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A record() by what the writer calls asks for a thread, gets none, and does not write in the middle of a write.
    """

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    audit = AuditBuffer(MemorySink(), flush_interval=3600)
    assert audit._writer.hold_still(PATIENCE)
    monkeypatch.setattr(audit._writer.worker, "ensure_running", refuse)
    audit.record("one")
    assert audit.stats().committed == 0
    monkeypatch.undo()
    audit._writer.go_on()
    audit.close(timeout=PATIENCE)


def beside_orphans(audit: AuditBuffer) -> tuple[Writer, Adoption]:
    """
    A writer that has orphans to look for, and finds none.
    """
    adoption = Adoption(iter(()), audit._writer.sink, audit.config, print)
    return Writer(audit._channel, audit._writer.sink, SystemClock(), adoption), adoption


def test_a_buffer_that_gave_up_looks_for_no_orphans() -> None:
    """
    They are left, closed, to the next start.
    """
    audit = AuditBuffer(MemorySink(), flush_interval=3600)
    writer, adoption = beside_orphans(audit)
    audit._channel.fail(RuntimeError("gave up"))
    assert not writer.step()
    assert adoption.done
    assert audit._channel.state is State.FAILED


def test_an_exit_leaves_orphans_to_the_next_start() -> None:
    """
    Told to leave them, the writer's next step lets them go, and goes on with its own entries.
    """
    audit = AuditBuffer(MemorySink(), flush_interval=3600)
    writer, adoption = beside_orphans(audit)
    writer.leave_orphans()
    assert writer.step()
    assert adoption.done
    audit.close(timeout=PATIENCE)
