"""
When a batch is written, and who is woken for it: sizes, bytes, ages, and nobody without a reason.
"""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditService
from audit_buffer._state import Attention
from audit_buffer._timing import FlushReason
from audit_buffer.instrumentation import BatchCommitted, Event
from audit_buffer.sinks import Batch
from audit_buffer.testing import FakeClock, MemorySink
from tests.flow.doubles import Flow, SleepLog, Threads


def reasons(events: list[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, BatchCommitted)]


def step_in_no_time(flow: Flow) -> None:
    assert isinstance(flow.clock, FakeClock)
    before = flow.clock.monotonic()
    assert flow.writer.step()
    assert flow.clock.monotonic() == before, "the writer waited"


def test_batch_size_entries_are_written_at_once(events: list[Event]) -> None:
    """
    As many entries as one batch may have do not wait for their age.
    """
    flow = Flow(batch_size=3)
    for _ in range(3):
        flow.record()
    step_in_no_time(flow)
    assert flow.sink.seqs == [1, 2, 3]
    assert reasons(events) == [FlushReason.SIZE.value]


def test_batch_max_bytes_are_written_at_once(events: list[Event]) -> None:
    """
    As many bytes as one batch may have do not wait for their age, and the batch keeps to that bound.
    """
    flow = Flow(batch_max_bytes=10)
    for payload in (b"1234", b"12345", b"12"):
        flow.record(payload)
    step_in_no_time(flow)
    assert flow.sink.seqs == [1, 2]
    assert reasons(events) == [FlushReason.BYTES.value]


def test_an_entry_larger_than_a_batch_has_one_of_its_own() -> None:
    """
    The bound in bytes splits batches, it never holds an entry back.
    """
    flow = Flow(batch_max_bytes=10)
    flow.record(b"x" * 50)
    flow.record(b"y")
    flow.channel.request_flush()
    step_in_no_time(flow)
    step_in_no_time(flow)
    assert [len(batch) for batch in flow.sink.batches] == [1, 1]


def test_a_lone_entry_waits_for_flush_interval_and_no_longer(events: list[Event]) -> None:
    """
    The writer wakes by itself when the oldest entry is old enough.
    """
    flow = Flow(flush_interval=0.25)
    flow.record()
    before = flow.clock.monotonic()
    assert flow.writer.step()
    assert flow.clock.monotonic() - before == pytest.approx(0.25)
    assert flow.sink.seqs == [1]
    assert reasons(events) == [FlushReason.AGE.value]


def test_the_age_counts_from_the_entry_not_from_the_writer() -> None:
    """
    An entry that was old enough when the writer came is written at once.
    """
    flow = Flow(flush_interval=0.25)
    flow.record()
    assert isinstance(flow.clock, FakeClock)
    flow.clock.advance(0.25)
    step_in_no_time(flow)


def test_a_backlog_is_taken_in_full_batches_at_once() -> None:
    """
    No batch of a backlog is smaller than it could be, and only the rest waits for its age.
    """
    flow = Flow(batch_size=4, flush_interval=1.0)
    for _ in range(14):
        flow.record()
    for _ in range(3):
        step_in_no_time(flow)
    assert [len(batch) for batch in flow.sink.batches] == [4, 4, 4]
    before = flow.clock.monotonic()
    flow.writer.step()
    assert [len(batch) for batch in flow.sink.batches] == [4, 4, 4, 2]
    assert flow.clock.monotonic() - before <= 1.0


def test_a_flush_waits_for_no_threshold_and_takes_no_more_than_it_covers_needs(events: list[Event]) -> None:
    """
    A barrier has what is before it written at once, in full batches.
    """
    flow = Flow(batch_size=4, flush_interval=100)
    for _ in range(6):
        flow.record()
    flow.channel.request_flush()
    step_in_no_time(flow)
    step_in_no_time(flow)
    assert [len(batch) for batch in flow.sink.batches] == [4, 2]
    assert reasons(events) == [FlushReason.SIZE.value, FlushReason.FLUSH.value]
    flow.record()
    before = flow.clock.monotonic()
    flow.writer.step()
    assert flow.clock.monotonic() - before == pytest.approx(100), "the barrier does not cover what came later"


def test_closing_writes_what_is_there_at_once(events: list[Event]) -> None:
    """
    close() is a reason of its own, and the writer ends behind it.
    """
    flow = Flow()
    flow.record()
    flow.channel.begin_close()
    step_in_no_time(flow)
    assert not flow.writer.step()
    assert reasons(events) == [FlushReason.CLOSE.value]
    assert flow.sink.closed == 1


def test_the_writer_never_has_the_whole_ring_in_hand() -> None:
    """
    At most half of queue_maxsize is one batch, so that a dropping policy finds something to drop.
    """
    flow = Flow(batch_size=512, queue_maxsize=10)
    for _ in range(10):
        flow.record()
    step_in_no_time(flow)
    assert [len(batch) for batch in flow.sink.batches] == [5]


def test_a_backlog_is_taken_in_larger_and_larger_batches() -> None:
    """
    512 entries start a batch; as long as they are quick each has twice as many, up to 4,096 and a quarter of queue_maxsize.
    """
    for maxsize, count, sizes in (
        (10_000, 9000, [512, 1024, 2048, 2500, 2500, 416]),
        (100_000, 12_000, [512, 1024, 2048, 4096, 4096, 224]),
    ):
        flow = Flow(queue_maxsize=maxsize)
        for _ in range(511):
            flow.record()
        assert flow.channel.take() is None
        for _ in range(count - 511):
            flow.record()
        flow.channel.begin_close()
        flow.step_to_the_end()
        assert [len(batch) for batch in flow.sink.batches] == sizes


def test_a_backlog_of_large_entries_is_taken_in_larger_and_larger_batches() -> None:
    """
    1 MiB starts a batch; as long as they are quick each has twice as much, up to 4 MiB and a quarter of queue_max_bytes.
    """
    for max_bytes, sizes in ((8 << 20, [10, 20, 20, 20]), (1 << 30, [10, 20, 40])):
        flow = Flow(queue_max_bytes=max_bytes)
        for _ in range(10):
            flow.record(b"x" * 100_000)
        assert flow.channel.take() is None
        for _ in range(60):
            flow.record(b"x" * 100_000)
        flow.channel.begin_close()
        flow.step_to_the_end()
        assert [len(batch) for batch in flow.sink.batches] == sizes


class TimedSink(MemorySink):
    """
    A database that takes so many seconds an entry, and ends what takes longer than *limit*.
    """

    def __init__(self, clock: FakeClock, seconds: float, limit: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.limit = clock, seconds, limit
        self.sizes: list[int] = []

    def write(self, batch: Batch) -> None:
        took = self.seconds * len(batch.stored)
        self.clock.advance(min(took, self.limit))
        if took > self.limit:
            raise TimeoutError("the statement took too long")
        self.sizes.append(len(batch.stored))
        super().write(batch)


def test_batches_stay_small_where_they_are_slow() -> None:
    """
    Who waits for room waits for one batch, and a statement has its time limit.
    """
    clock = FakeClock()
    sink = TimedSink(clock, seconds=0.001, limit=2)
    flow = Flow(clock=clock, sink=sink, queue_maxsize=100_000)
    for _ in range(3000):
        flow.record()
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert sink.sizes == [512] * 5 + [440]


def test_a_batch_that_grew_too_large_goes_on_in_pieces() -> None:
    """
    The database became slower meanwhile: what is in hand is not tried in vain for ever, and the next batches are small again.
    """
    clock = FakeClock()
    sink = TimedSink(clock, seconds=0.0, limit=2)
    flow = Flow(clock=clock, sink=sink, queue_maxsize=100_000)
    for _ in range(6000):
        flow.record()
    flow.channel.request_flush()
    for _ in range(3):
        assert flow.writer.step()
    assert sink.sizes == [512, 1024, 2048]
    sink.seconds = 0.001
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert sink.seqs == list(range(1, 6001))
    assert flow.writer.retries == 1
    assert max(sink.sizes[3:]) == 512


def test_only_what_asks_for_large_batches_gets_them(sqlite_engine: Engine) -> None:
    """
    A database does; a sink of the application's own, and a bound that is given, are left at the thresholds.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()
    with AuditBuffer(service) as audit:
        assert (audit.config.batch_size, audit.config.batch_max_bytes) == (None, None)
    with AuditBuffer(MemorySink()) as audit:
        assert (audit.config.batch_size, audit.config.batch_max_bytes) == (512, 1 << 20)
    with AuditBuffer(MemorySink(), batch_size=3, batch_max_bytes=7) as audit:
        assert (audit.config.batch_size, audit.config.batch_max_bytes) == (3, 7)


def test_a_backlog_is_taken_in_batches_of_the_size_that_was_given() -> None:
    """
    `batch_size` is a bound, however much waits.
    """
    flow = Flow(batch_size=200, queue_maxsize=100_000)
    for _ in range(500):
        flow.record()
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert [len(batch) for batch in flow.sink.batches] == [200, 200, 100]


def test_an_idle_writer_sleeps_without_an_alarm_clock() -> None:
    """
    With nothing to write there is no timeout: an idle buffer wakes nobody.
    """
    clock = SleepLog()
    flow = Flow(clock=clock, flush_interval=0.0)
    with Threads() as threads:
        threads.start(flow.step_to_the_end)
        assert clock.next_sleep() is None
        flow.record()
        assert clock.next_sleep() is None
        assert flow.sink.seqs == [1]
        assert clock.sleeps.empty()
        flow.channel.begin_close()


def test_the_writer_is_woken_once_when_the_ring_turns_non_empty_and_once_for_a_full_batch() -> None:
    """
    No notify per record: of a batch of 100 entries two wake somebody, the first and the last.
    """
    clock = SleepLog()
    flow = Flow(clock=clock, batch_size=100, flush_interval=1000)
    woken: list[int] = []
    condition = flow.channel._work
    notify = condition.notify
    condition.notify = lambda n=1: (woken.append(flow.channel._ledger.published), notify(n))[1]  # type: ignore[method-assign]
    with Threads() as threads:
        threads.start(flow.step_to_the_end)
        assert clock.next_sleep() is None
        flow.record()
        timeout = clock.next_sleep()
        assert timeout is not None
        assert timeout == pytest.approx(1000, abs=60)
        for _ in range(99):
            flow.record()
        assert clock.next_sleep() is None
        assert woken == [1, 100]
        assert flow.sink.seqs == list(range(1, 101))
        flow.channel.begin_close()


def test_bytes_alone_wake_the_writer() -> None:
    """
    The threshold in bytes wakes a writer that waits for more entries.
    """
    clock = SleepLog()
    flow = Flow(clock=clock, batch_max_bytes=100, flush_interval=1000)
    with Threads() as threads:
        threads.start(flow.step_to_the_end)
        assert clock.next_sleep() is None
        flow.record()
        assert clock.next_sleep() is not None
        flow.record(b"x" * 99)
        assert clock.next_sleep() is None
        assert flow.sink.seqs == [1, 2]
        flow.channel.begin_close()


def test_no_wake_up_is_lost() -> None:
    """
    With no alarm clock to help, 5,000 entries of four threads pass a ring of two, one wake-up at a time.
    """
    flow = Flow(clock=SleepLog(), queue_maxsize=2, batch_size=1, flush_interval=1000, block_timeout=100)
    with Threads() as writer:
        writer.start(flow.step_to_the_end)
        with Threads() as threads:
            for _ in range(4):
                threads.start(lambda: [flow.record() for _ in range(1250)])
        flow.channel.begin_close()
    assert flow.sink.seqs == list(range(1, 5001))


def test_the_writer_is_asked_for_until_it_runs() -> None:
    """
    If the call that was to start the writer is interrupted on its way, the next record asks again.
    """
    flow = Flow()
    flow.record()
    flow.record()
    assert flow.attention == [Attention.START_WRITER] * 2


def test_four_fifths_full_is_said_once_until_there_is_room_again() -> None:
    """
    NEARLY_FULL comes when the ring crosses 80 %, not again before it was less than half full, and then again.
    """
    flow = Flow(queue_maxsize=10, batch_size=5)
    said: list[int] = []
    for _ in range(2):
        while flow.channel.snapshot().pending < 10:
            flow.record()
            if flow.attention and Attention.NEARLY_FULL in flow.attention[-1]:
                said.append(flow.channel.snapshot().pending)
            flow.attention.clear()
        flow.channel.request_flush()
        step_in_no_time(flow)
        step_in_no_time(flow)
    assert said == [8, 8]


def test_four_fifths_of_the_bytes_are_nearly_full_as_well() -> None:
    """
    Few large entries are a warning, too.
    """
    flow = Flow(queue_max_bytes=100)
    flow.record(b"x" * 79)
    assert Attention.NEARLY_FULL not in flow.attention[-1]
    flow.record(b"x")
    assert Attention.NEARLY_FULL in flow.attention[-1]


def test_a_fake_clock_moves_on_however_small_the_wait() -> None:
    """
    Waiting for a remainder that rounding swallows does not stop the time.
    """
    flow = Flow()
    before = flow.clock.monotonic()
    flow.clock.wait(flow.channel._work, 1e-30)
    assert flow.clock.monotonic() > before
