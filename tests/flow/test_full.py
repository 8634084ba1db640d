"""
What `record()` does when the ring is full: five policies, each strict in order and exact in its numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from audit_buffer import AuditBuffer, AuditService, BufferClosed, BufferFull, SinkError
from audit_buffer._gaps import Gaps
from audit_buffer.instrumentation import EntriesDropped, Event, RingNearlyFull
from audit_buffer.sinks import Batch
from audit_buffer.testing import MemorySink
from tests.flow.doubles import (
    PATIENCE,
    ActingClock,
    Flow,
    GatedSink,
    Hurting,
    Threads,
    full_ring_file,
    seqs_of,
)


AWAY = ConnectionError("the database is away")


@pytest.mark.parametrize("most", [*range(1, 12), 100])
@pytest.mark.parametrize("bound", ["queue_maxsize", "queue_max_bytes"])
def test_there_is_room_up_to_the_bound_and_no_further(bound: str, most: int) -> None:
    """
    To the entry and to the byte, again after each commit, while the writer is busy and nobody asks to be told.
    """
    flow = Flow(**{bound: most})
    flow.record()
    for _ in range(5):
        flow.channel.request_flush()
        taken = flow.channel.take()
        assert taken is not None
        while flow.channel.publish(b"x"):
            assert flow.channel.snapshot().pending <= most
        assert flow.channel.snapshot().pending == most
        flow.channel.committed(taken)
        assert flow.channel.publish(b"x")


def test_an_entry_with_room_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the writer is busy, one comparison lets entries through: up to nearly full, and again after a commit.
    """
    flow = Flow(queue_maxsize=100)
    flow.record()
    flow.channel.request_flush()
    taken = flow.channel.take()
    assert taken is not None
    flow.record()  # the last one that starts the writer
    for _ in range(90):
        flow.record()
    flow.channel.committed(taken)
    flow.channel.take()
    monkeypatch.setattr(flow.channel._ledger, "has_room", None)
    for _ in range(9):
        flow.record()
    monkeypatch.undo()
    assert flow.channel.snapshot().pending == 100


@pytest.mark.parametrize("end", ["begin_close", "fail"])
def test_nothing_is_published_from_the_end_on(end: str) -> None:
    """
    Not one more entry, though there is room and the writer has not looked yet.
    """
    flow = Flow()
    flow.record()
    flow.channel.request_flush()
    flow.channel.take()
    assert flow.record() == 2
    assert flow.record() == 3  # nothing asks for attention now
    getattr(flow.channel, end)(*([AWAY] if end == "fail" else []))
    assert flow.channel.publish(b"x") == 0
    assert flow.channel.snapshot().published == 3


def test_nothing_is_published_behind_a_close_that_woke_the_writer() -> None:
    """
    The writer slept, and looked at the thresholds again as it woke.
    """
    clock = ActingClock()
    flow = Flow(clock=clock)
    flow.record()
    clock.acts.append(flow.channel.begin_close)
    assert flow.channel.wait_for_work()
    flow.channel.take()
    assert flow.channel.publish(b"x") == 0


def test_block_waits_for_room_and_counts_the_time() -> None:
    """
    record() goes on when a batch is committed, and blocked_seconds says how long it waited.
    """
    clock = ActingClock()
    flow = Flow(clock=clock, queue_maxsize=2, batch_size=1, block_timeout=50)
    flow.record()
    flow.record()

    def commit_one() -> None:
        clock.advance(3)
        flow.writer.step()

    clock.acts.append(commit_one)
    assert flow.record() == 3
    assert flow.channel.snapshot().blocked_seconds == pytest.approx(3)
    assert flow.sink.seqs == [1]


def test_block_gives_up_at_block_timeout_and_leaves_nothing_behind() -> None:
    """
    BufferFull says how many entries and bytes wait, how old the oldest is, and what the writer met.
    """
    flow = Flow(sink=Hurting([AWAY]), queue_maxsize=2, batch_size=1, block_timeout=2.5, retry_backoff=0.001)
    flow.record(b"12345")
    flow.record(b"123")
    flow.writer.step()
    before, age = flow.clock.monotonic(), flow.channel.snapshot().oldest_age
    with pytest.raises(BufferFull) as caught:
        flow.record()
    assert flow.clock.monotonic() - before == pytest.approx(2.5)
    full = caught.value
    assert (full.depth, full.pending_bytes, full.last_error) == (2, 8, AWAY)
    assert full.oldest_age == pytest.approx(age + 2.5)
    assert "block_timeout = 2.5 s" in str(full)
    assert flow.channel.snapshot().published == 2


def test_block_hears_of_the_end_while_it_waits() -> None:
    """
    A buffer that closes meanwhile refuses who waits for room.
    """
    clock = ActingClock()
    flow = Flow(clock=clock, queue_maxsize=1, block_timeout=50)
    flow.record()
    clock.acts.append(flow.channel.begin_close)
    with pytest.raises(BufferClosed):
        flow.record()


def test_block_waits_again_when_another_thread_takes_the_room() -> None:
    """
    Room that somebody else was quicker to take is no room: the wait goes on to the same deadline.
    """
    clock = ActingClock()
    flow = Flow(clock=clock, queue_maxsize=1, batch_size=1, block_timeout=50)
    flow.record()
    publish, stolen = flow.channel.publish, []

    def steal(payload: bytes) -> int:
        if not stolen:
            stolen.append(publish(b"thief"))
        return publish(payload)

    def make_room() -> None:
        flow.writer.step()
        flow.channel.publish = steal  # type: ignore[method-assign]

    clock.acts += [make_room, flow.writer.step]
    assert flow.admission.admit(b"patient") == 3
    assert stolen == [2]


def test_raise_raises_at_once() -> None:
    """
    No waiting, nothing stored, nothing counted as dropped.
    """
    flow = Flow(queue_maxsize=1, on_full="raise")
    flow.record()
    before = flow.clock.monotonic()
    with pytest.raises(BufferFull):
        flow.record()
    assert flow.clock.monotonic() == before
    assert (flow.channel.snapshot().published, flow.channel.snapshot().dropped) == (1, 0)


def test_an_entry_that_can_never_fit_is_refused_under_every_policy() -> None:
    """
    Waiting or dropping would not help, so nothing is waited for or dropped.
    """
    for policy in ("block", "raise", "write_through", "drop_newest", "drop_oldest"):
        flow = Flow(queue_max_bytes=10, on_full=policy)
        flow.record(b"kept")
        with pytest.raises(BufferFull, match="larger than the whole ring"):
            flow.record(b"x" * 11)
        assert flow.channel.snapshot().pending == 1


def test_write_through_returns_after_its_commit() -> None:
    """
    The caller waits for the writer: all before it, and then its own entry, are in the sink.
    """
    flow = Flow(queue_maxsize=4, batch_size=2, on_full="write_through")
    for _ in range(4):
        flow.record()
    assert flow.sink.seqs == []
    assert flow.record() == 5
    assert flow.sink.seqs == [1, 2, 3, 4, 5]
    assert flow.channel.snapshot().committed == 5


def test_write_through_raises_when_the_database_refuses_before_there_is_room() -> None:
    """
    SinkError with the driver's error, and nothing left behind: the caller may record it elsewhere.
    """
    flow = Flow(sink=Hurting([AWAY]), queue_maxsize=2, on_full="write_through")
    flow.record()
    flow.record()
    with pytest.raises(SinkError) as caught:
        flow.record()
    assert caught.value.__cause__ is AWAY
    assert flow.channel.snapshot().published == 2


def test_write_through_keeps_what_has_its_place_when_the_database_goes_away() -> None:
    """
    An entry that is stored is written later like all others; raising would have the caller record it twice.
    """
    flow = Flow(sink=Hurting([None, AWAY]), queue_maxsize=2, batch_size=1, on_full="write_through")
    flow.record()
    flow.record()
    assert flow.record() == 3
    assert flow.channel.snapshot().committed == 1
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == [1, 2, 3]


def test_write_through_ends_when_the_buffer_fails_meanwhile() -> None:
    """
    There is nobody left to write, so nobody is waited for.
    """
    flow = Flow(queue_maxsize=2, batch_size=1, on_full="write_through")
    flow.record()
    flow.record()
    publish = flow.channel.publish

    def publish_and_fail(payload: bytes) -> int:
        seq = publish(payload)
        if seq:
            flow.channel.fail(AWAY)
        return seq

    flow.channel.publish = publish_and_fail  # type: ignore[method-assign]
    assert flow.admission.admit(b"x") == 3


def test_write_through_is_refused_when_the_buffer_closes_meanwhile() -> None:
    """
    Closing while the caller writes: its own entry comes too late.
    """
    flow = Flow(queue_maxsize=1, on_full="write_through")
    flow.record()
    committed = flow.channel.committed

    def close_too(taken: Any, seconds: float) -> None:
        committed(taken, seconds)
        flow.channel.begin_close()

    flow.channel.committed = close_too  # type: ignore[method-assign]
    with pytest.raises(BufferClosed):
        flow.record()
    assert flow.sink.seqs == [1]


@pytest.mark.parametrize("policy", ["block", "write_through"])
def test_whoever_waits_has_the_sync_made_that_makes_room(tmp_path: Path, policy: str) -> None:
    """
    What the writer gave back of a synced ring file may be used again after a sync, and nobody else asks for one.
    """
    flow = full_ring_file(tmp_path, on_full=policy, block_timeout=50)
    full = flow.channel.snapshot().published
    if policy == "block":
        flow.clock.acts.append(flow.writer.step)
    assert flow.record(bytes(100)) == full + 1
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == list(range(1, full + 2))


def test_drop_newest_says_which_were_dropped_in_their_place(events: list[Event]) -> None:
    """
    Each dropped entry uses up a seq; one gap per run, in order among the rows.
    """
    flow = Flow(queue_maxsize=2, batch_size=1, on_full="drop_newest")
    assert [flow.record() for _ in range(4)] == [1, 2, 3, 4]
    flow.channel.request_flush()
    flow.writer.step()
    assert flow.record() == 5
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == [1, 2, 5]
    assert [(gap.first_seq, gap.last_seq, gap.dropped) for gap in flow.sink.gaps] == [(3, 4, 2)]
    dropped = [event for event in events if isinstance(event, EntriesDropped)]
    assert [(event.first_seq, event.last_seq, event.policy) for event in dropped] == [(3, 4, "drop_newest")]
    assert flow.channel.snapshot().dropped == 2


def test_drop_oldest_drops_what_the_writer_has_not_taken() -> None:
    """
    The newest stays; what the writer has in hand stays, too.
    """
    flow = Flow(sink=Hurting([AWAY]), queue_maxsize=4, batch_size=2, on_full="drop_oldest")
    for _ in range(4):
        flow.record()
    flow.writer.step()  # 1 and 2 are in hand
    assert [flow.record() for _ in range(2)] == [5, 6]
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == [1, 2, 5, 6]
    assert [(gap.first_seq, gap.last_seq) for gap in flow.sink.gaps] == [(3, 4)]
    assert flow.channel.snapshot().dropped == 2


def test_drop_oldest_drops_the_new_entry_when_all_is_in_hand() -> None:
    """
    What is in hand may be committed already.
    """
    flow = Flow(sink=Hurting([AWAY]), queue_maxsize=1, on_full="drop_oldest")
    flow.record()
    flow.channel.request_flush()
    flow.writer.step()
    assert flow.record() == 2
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == [1]
    assert seqs_of(flow.sink) == [1, 2]


def test_drop_oldest_makes_room_in_bytes() -> None:
    """
    A large entry takes the room of several small ones, and no more.
    """
    flow = Flow(queue_max_bytes=10, on_full="drop_oldest")
    for _ in range(5):
        flow.record(b"12")
    flow.record(b"12345")
    now = flow.channel.snapshot()
    assert (now.pending, now.pending_bytes, now.dropped) == (3, 9, 3)


def test_a_gap_that_nothing_follows_is_written_too() -> None:
    """
    Dropped entries at the end of everything get their gap row within flush_interval.
    """
    flow = Flow(queue_maxsize=1, on_full="drop_newest")
    flow.record()
    flow.channel.request_flush()
    taken = flow.channel.take()
    assert taken is not None
    assert flow.record() == 2
    flow.channel.committed(taken)
    flow.sink._positions[flow.ring.buffer_id] = 1
    flow.writer.step()
    assert [(gap.first_seq, gap.last_seq) for gap in flow.sink.gaps] == [(2, 2)]
    assert flow.channel.snapshot().committed == 2


# With threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["block", "raise", "write_through", "drop_newest", "drop_oldest"])
def test_eight_threads_and_a_slow_sink_agree_on_every_number(policy: str) -> None:
    """
    Each thread's entries are in its own order, what was accepted is there once, what was dropped stands in a gap, and
    published = written + dropped.
    """
    sink = GatedSink()
    audit = AuditBuffer(
        sink, on_full=policy, queue_maxsize=16, batch_size=4, flush_interval=0.0, block_timeout=PATIENCE
    )
    promised: list[tuple[int, str]] = []
    refused: list[str] = []

    def produce(name: int) -> None:
        for number in range(200):
            event = f"{name}.{number}"
            try:
                promised.append((audit.record(event), event))
            except BufferFull:
                refused.append(event)

    with Threads() as threads:
        for name in range(8):
            threads.start(produce, name)
        assert sink.entered.wait(PATIENCE)
        sink.gate.set()
    audit.close(timeout=PATIENCE)
    stats = audit.stats()
    written = [(entry.seq, entry.event_type) for entry in sink.entries]
    kept = dict(written)
    assert [seq for seq, _ in sorted(promised)] == list(range(1, stats.published + 1)), "dense"
    assert seqs_of(sink) == list(range(1, stats.published + 1)), "entries and gaps cover everything"
    assert stats.published == len(written) + stats.dropped == len(promised)
    assert len(promised) + len(refused) == 1600
    assert all(kept.get(seq, event) == event for seq, event in promised)
    for name in range(8):
        numbers = [int(event.split(".")[1]) for _, event in written if event.startswith(f"{name}.")]
        assert numbers == sorted(numbers), "each thread's own order"
    if policy in ("block", "write_through"):
        assert (stats.dropped, len(refused)) == (0, 0)
    assert stats.pending == stats.pending_bytes == 0


def test_four_fifths_full_is_one_warning_however_many_threads_record(events: list[Event]) -> None:
    """
    One event when the ring is nearly full, with its numbers.
    """
    sink = GatedSink()
    audit = AuditBuffer(sink, queue_maxsize=100, batch_size=1, flush_interval=0.0)
    audit.record("in.hand")
    assert sink.entered.wait(PATIENCE)
    with Threads() as threads:
        for _ in range(9):
            threads.start(lambda: [audit.record("event") for _ in range(11)])
    (warning,) = [event for event in events if isinstance(event, RingNearlyFull)]
    assert 80 <= warning.pending <= 100
    assert warning.last_error is None
    sink.gate.set()
    audit.close(timeout=PATIENCE)


@pytest.mark.parametrize("policy", ["block", "write_through"])
def test_a_record_that_would_wait_in_an_event_loop_raises_instead(policy: str) -> None:
    """
    A full ring never stalls the loop; the message names the way out. Outside the loop it waits.
    """
    flow = Flow(queue_maxsize=1, on_full=policy, block_timeout=1.0)
    flow.record()

    async def main() -> None:
        before = flow.clock.monotonic()
        with pytest.raises(BufferFull, match="arecord"):
            flow.record()
        assert flow.clock.monotonic() == before
        assert flow.sink.seqs == []

    asyncio.run(main())


# The writer records -------------------------------------------------------------------------------------------------


class RecordingHandler(logging.Handler):
    """
    A logging handler that records an audit entry for each message, as an over-eager application has it.
    """

    def __init__(self, record: Callable[..., int]) -> None:
        super().__init__(logging.INFO)
        self._record = record
        self.seqs: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.seqs) < 500:  # each statement that is logged records, and what is recorded is a statement
            self.seqs.append(self._record("sql", details={"statement": record.getMessage()[:40]}))


@pytest.mark.parametrize("policy", ["block", "raise", "write_through", "drop_newest", "drop_oldest"])
def test_a_log_handler_that_records_what_the_writer_executes_never_deadlocks(
    policy: str, tmp_path: Path
) -> None:
    """
    With the ring full, the writer's own thread does not wait for itself: it drops, and a gap row says so.
    """
    engine = create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
    service = AuditService(engine)
    service.create_schema()
    audit = AuditBuffer(
        service,
        on_full=policy,
        queue_maxsize=2,
        batch_size=1,
        flush_interval=0.0,
        durability="memory",
        block_timeout=PATIENCE,
    )
    logger = logging.getLogger("sqlalchemy.engine.Engine")
    handler = RecordingHandler(audit.record)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    engine.echo = False
    try:
        accepted = 0
        for _ in range(20):
            try:
                audit.record("application")
                accepted += 1
            except BufferFull:
                assert policy == "raise"
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
    audit.close(timeout=PATIENCE)
    stats = audit.stats()
    rows = service.entries(buffer_id=audit.buffer_id)
    dropped = sum(row.details["dropped"] for row in rows if row.event_type == "audit_buffer.gap")
    assert stats.committed == stats.published
    assert dropped == stats.dropped
    assert len([row for row in rows if row.event_type != "audit_buffer.gap"]) == stats.published - dropped
    engine.dispose()


class Recording(MemorySink):
    """
    A sink that records into its own buffer, once per batch.
    """

    record: Callable[[], int]

    def __init__(self) -> None:
        super().__init__()
        self.left = 5
        self.seqs_got: list[int] = []

    def write(self, batch: Batch) -> None:
        if self.left:
            self.left -= 1
            self.seqs_got.append(self.record())
        super().write(batch)


def test_what_the_sink_records_comes_behind_what_it_writes() -> None:
    """
    With room, it is an entry like any other.
    """
    sink = Recording()
    flow = Flow(sink=sink, batch_size=1)
    sink.record = flow.record
    flow.record()
    for _ in range(6):
        flow.writer.step()
    assert sink.seqs_got == [2, 3, 4, 5, 6]
    assert sink.seqs == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("policy", ["block", "write_through", "raise"])
def test_on_error_may_record_into_a_full_buffer(policy: str) -> None:
    """
    on_error runs on the thread that writes: it does not wait for itself, under no policy.
    """
    got: list[int] = []
    flow = Flow(
        sink=Hurting([AWAY]),
        queue_maxsize=1,
        on_full=policy,
        on_error=lambda error: got.append(flow.record(b"failed")),
    )
    flow.record()
    flow.channel.request_flush()
    before = flow.clock.monotonic()
    assert flow.writer.step()
    assert flow.clock.monotonic() - before < 1, "only the pause between two attempts"
    assert got == [2]
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert seqs_of(flow.sink) == [1, 2]


# Which seqs were dropped --------------------------------------------------------------------------------------------


def test_dropped_neighbours_are_one_range_in_whatever_order_they_come() -> None:
    """
    drop_oldest and drop_newest meet in the middle: the memory a long outage takes is one pair of numbers.
    """
    for order in itertools.permutations((1, 2, 3, 5)):
        gaps = Gaps()
        for seq in order:
            gaps.add(seq)
        assert len(gaps) == 2
        assert gaps.reach(0) == 3
        gaps.forget(3)
        assert gaps.reach(4) == 5
        gaps.forget(5)
        assert len(gaps) == 0


def test_without_asyncio_there_is_no_loop_to_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where nobody imported asyncio, a full ring is waited for as usual.
    """
    flow = Flow(queue_maxsize=1, block_timeout=1.0)
    flow.record()
    monkeypatch.delitem(sys.modules, "asyncio")
    with pytest.raises(BufferFull, match="block_timeout"):
        flow.record()
