"""
Recording from a signal handler or a finalizer while this very thread is inside the buffer (hazard 6).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_buffer import AuditBuffer, BufferFull, FlushTimeout
from audit_buffer._ring import MemoryRing, Payload, Stored
from audit_buffer._ring_file import RingFile
from audit_buffer._timing import Deadline
from audit_buffer.testing import MemorySink
from tests.flow.doubles import PATIENCE, Flow, Threads, seqs_of


class InterruptedRing(MemoryRing):
    """
    A ring in which something happens inside `put()`: *before* or *after* the entry is stored, one call per put.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Callable[[], Any]] = []
        self.after: list[Callable[[], Any]] = []

    def put(self, seq: int, payload: Payload) -> bool:
        if self.before:
            self.before.pop(0)()
        stored = super().put(seq, payload)
        if self.after:
            self.after.pop(0)()
        return stored


class InterruptedRingFile(RingFile):
    """
    The same in a file.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.before: list[Callable[[], Any]] = []
        self.after: list[Callable[[], Any]] = []

    def put(self, seq: int, payload: bytes) -> bool:
        if self.before:
            self.before.pop(0)()
        stored = super().put(seq, payload)
        if self.after:
            self.after.pop(0)()
        return stored


def written(flow: Flow) -> list[Stored]:
    flow.channel.begin_close()
    flow.step_to_the_end()
    return [stored for batch in flow.sink.batches for stored in batch.stored]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_entry_recorded_inside_another_record_comes_right_behind_it(moment: str) -> None:
    """
    The inner call gets the next seq, and its entry is stored under it when the outer call goes on.
    """
    ring = InterruptedRing()
    flow = Flow(ring=ring)
    got: list[int] = []
    getattr(ring, moment).append(lambda: got.extend([flow.record(b"inner 1"), flow.record(b"inner 2")]))
    assert flow.record(b"outer") == 1
    assert got == [2, 3]
    assert flow.record(b"next") == 4
    assert written(flow) == [(1, b"outer"), (2, b"inner 1"), (3, b"inner 2"), (4, b"next")]


def test_what_interrupts_the_storing_of_what_interrupted_keeps_its_place_too() -> None:
    """
    However deep: each call's seq is the one its entry is stored under, and the order is that of the seqs.
    """
    ring = InterruptedRing()
    flow = Flow(ring=ring)
    got: list[int] = []

    def nested(name: bytes) -> Callable[[], None]:
        return lambda: got.append(flow.record(name))

    ring.before += [nested(b"2"), nested(b"3"), nested(b"4")]
    ring.after += [nested(b"5"), nested(b"6")]
    assert flow.record(b"1") == 1
    entries = written(flow)
    assert [seq for seq, _ in entries] == [1, 2, 3, 4, 5, 6]
    assert sorted(got) == [2, 3, 4, 5, 6]
    assert entries[0] == (1, b"1")
    assert flow.channel.snapshot().dropped == 0


def test_an_interrupted_call_that_finds_no_room_leaves_its_number_to_a_gap() -> None:
    """
    The inner entry keeps the seq it was promised, so the outer one's stays empty, and a gap row says so.
    """

    class Refusing(InterruptedRing):
        def put(self, seq: int, payload: Payload) -> bool:
            return super().put(seq, payload) if payload != b"outer" else bool(self.before.pop(0)())

    ring = Refusing()
    flow = Flow(ring=ring, on_full="raise")
    got: list[int] = []
    ring.before.append(lambda: got.append(flow.record(b"inner")))  # append() returns None: no room
    with pytest.raises(BufferFull):
        flow.record(b"outer")
    assert got == [2]
    assert written(flow) == [(2, b"inner")]
    assert seqs_of(flow.sink) == [1, 2]
    assert flow.channel.snapshot().dropped == 1


def test_a_promised_entry_for_which_the_ring_has_no_room_becomes_a_gap() -> None:
    """
    A ring smaller than the channel's bounds: the seq is accounted for.
    """

    class Refusing(InterruptedRing):
        def put(self, seq: int, payload: Payload) -> bool:
            return super().put(seq, payload) and payload != b"inner" if payload != b"inner" else False

    ring = Refusing()
    flow = Flow(ring=ring)
    ring.before.append(lambda: flow.record(b"inner"))
    assert flow.record(b"outer") == 1
    assert written(flow) == [(1, b"outer")]
    assert seqs_of(flow.sink) == [1, 2]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("size", [1, 100, 700])
def test_what_a_full_ring_file_cannot_hold_is_not_promised(tmp_path: Path, moment: str, size: int) -> None:
    """
    The file is full before any bound of the channel is reached: the inner call raises, and whatever has a seq is stored.
    """
    ring = InterruptedRingFile.create(tmp_path, label="flow", size=1 << 14)
    flow = Flow(ring=ring, on_full="raise", flush_interval=0.0)
    kept: dict[int, bytes] = {}
    refused = 0

    def record(name: bytes) -> None:
        nonlocal refused
        payload = name.ljust(size, b"x")
        try:
            kept[flow.record(payload)] = payload
        except BufferFull:
            refused += 1

    for lap in range(5):
        refused = 0
        while not refused:
            getattr(ring, moment)[:] = [lambda: record(b"inner 1"), lambda: record(b"inner 2")]
            record(b"outer")
            ring.before.clear()
            ring.after.clear()
        assert len(kept) > lap
        flow.writer.step()
    assert dict(written(flow)) == kept
    assert flow.channel.snapshot().dropped == 0


@pytest.mark.parametrize("policy", ["block", "raise", "write_through"])
def test_an_interrupting_record_never_waits(policy: str) -> None:
    """
    Without room it raises BufferFull: a wait would open the lock in the middle of the interrupted call.
    """
    ring = InterruptedRing()
    flow = Flow(ring=ring, queue_maxsize=1, on_full=policy)

    def interrupt() -> None:
        before = flow.clock.monotonic()
        with pytest.raises(BufferFull, match="cannot wait"):
            flow.record(b"inner")
        assert flow.clock.monotonic() == before

    ring.before.append(interrupt)
    assert flow.record(b"outer") == 1
    assert written(flow) == [(1, b"outer")]


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_an_interrupting_record_without_room_is_dropped_behind_the_interrupted_one(policy: str) -> None:
    """
    Under a dropping policy it uses up its own seq, not that of the call it interrupts.
    """
    ring = InterruptedRing()
    flow = Flow(ring=ring, queue_maxsize=1, on_full=policy)
    got: list[int] = []
    ring.before.append(lambda: got.append(flow.record(b"inner")))
    assert flow.record(b"outer") == 1
    assert got == [2]
    assert (flow.channel.snapshot().pending, flow.channel.snapshot().dropped) == (1, 1)
    assert written(flow) == [(1, b"outer")]
    assert seqs_of(flow.sink) == [1, 2]


def test_a_barrier_inside_the_channel_raises_instead_of_opening_the_lock() -> None:
    """
    flush() in a signal handler that interrupts record() raises FlushTimeout at once.
    """
    audit = AuditBuffer(MemorySink(), flush_interval=1000)
    ring = InterruptedRing()
    audit._channel.ring = ring
    caught: list[BaseException] = []

    def interrupt() -> None:
        try:
            audit.flush()
        except FlushTimeout as error:
            caught.append(error)

    audit.record("first")
    ring.before.append(interrupt)
    audit.record("second")
    assert len(caught) == 1
    audit.close(timeout=PATIENCE)


def test_what_an_exception_left_behind_is_stored_before_the_next_record() -> None:
    """
    KeyboardInterrupt while the promised entries are stored: the next call of any thread does the rest first.
    """
    ring = InterruptedRing()
    flow = Flow(ring=ring)

    def interrupt() -> None:
        raise KeyboardInterrupt

    ring.before += [lambda: (flow.record(b"2"), flow.record(b"3")), lambda: None, interrupt]
    with pytest.raises(KeyboardInterrupt):
        flow.record(b"1")
    with Threads() as threads:
        threads.start(flow.record, b"4")
    assert written(flow) == [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")]


def test_a_drop_after_an_interruption_settles_the_promises_first() -> None:
    """
    As above, for a seq that is used up without an entry.
    """
    ring = InterruptedRing()
    flow = Flow(ring=ring, queue_maxsize=10, on_full="drop_newest")

    def interrupt() -> None:
        raise KeyboardInterrupt

    ring.before += [lambda: flow.record(b"2"), interrupt]
    with pytest.raises(KeyboardInterrupt):
        flow.record(b"1")
    assert flow.channel.drop_newest() == 3
    assert written(flow) == [(1, b"1"), (2, b"2")]
    assert seqs_of(flow.sink) == [1, 2, 3]


def test_starting_the_writer_may_be_interrupted_by_a_record_that_starts_the_writer() -> None:
    """
    A signal while the thread is being started asks for it again: one thread, no deadlock.
    """
    flow = Flow(flush_interval=1000)
    worker = flow.writer.worker
    worker._starting.acquire()
    worker.ensure_running()
    assert worker._thread is None
    worker._starting.release()
    worker.ensure_running()
    thread = worker._thread
    worker.ensure_running()
    assert worker._thread is thread
    flow.channel.begin_close()
    worker.join(PATIENCE)


# The real thing -----------------------------------------------------------------------------------------------------


def under_fire(records: int, timeout: float) -> None:
    """
    Run `tests.flow.under_fire` as a process of its own, with a watchdog and without coverage.

    Coverage takes a lock in its tracer, and would deadlock where a signal handler is traced meanwhile.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.flow.under_fire", str(records)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_timer_signal_and_finalizers_record_while_the_thread_records() -> None:
    """
    No deadlock, no entry lost or twice, each under its seq.
    """
    under_fire(200_000, timeout=100)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_million_records_under_fire(full: bool) -> None:
    """
    The same with a million records at full numbers, 300,000 otherwise.
    """
    under_fire(1_000_000 if full else 300_000, timeout=1700)


def test_a_deadline_outside_the_channel_is_as_given() -> None:
    """
    Nothing is cut short for whoever is not inside.
    """
    with AuditBuffer(MemorySink()) as audit:
        assert audit._deadline(5.0).timeout == 5.0
        assert isinstance(audit._deadline(None), Deadline)


def test_an_exception_before_the_store_leaves_nothing_and_one_behind_it_leaves_the_entry() -> None:
    """
    KeyboardInterrupt inside the ring: published says what is stored, and the next record gets the next seq.
    """

    def interrupt() -> None:
        raise KeyboardInterrupt

    ring = InterruptedRing()
    flow = Flow(ring=ring)
    ring.before.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        flow.record(b"nothing")
    assert flow.channel.snapshot().published == 0
    ring.after.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        flow.record(b"stored")
    assert (flow.channel.snapshot().published, flow.channel.snapshot().pending_bytes) == (1, 6)
    assert flow.record(b"next") == 2
    assert written(flow) == [(1, b"stored"), (2, b"next")]


def test_a_finalizer_that_records_while_only_gaps_are_taken_is_not_taken_for_a_gap() -> None:
    """
    What is stored after the writer looked into an empty ring comes with the next batch.
    """

    class LookedInto(MemoryRing):
        during: list[Callable[[], Any]] = []  # noqa: RUF012

        def take(self, max_entries: int, max_bytes: int) -> list[Stored]:
            taken = super().take(max_entries, max_bytes)
            if not taken and self.during:
                self.during.pop()()
            return taken

    ring = LookedInto()
    flow = Flow(ring=ring, queue_maxsize=1, on_full="drop_newest")
    ring.during.append(lambda: flow.record(b"3"))
    flow.record(b"1")
    flow.channel.request_flush()
    taken = flow.channel.take()
    assert taken is not None
    assert flow.record(b"2") == 2
    flow.sink._positions[flow.ring.buffer_id] = 1
    flow.channel.committed(taken)
    flow.writer.step()
    assert written(flow) == [(3, b"3")]
    assert [(gap.first_seq, gap.last_seq) for gap in flow.sink.gaps] == [(2, 2)]
    assert flow.channel.snapshot().pending == 0
