"""
What the writer does when the database refuses, and when the writer itself dies.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from audit_buffer import AuditBuffer, BufferClosed, BufferConfig, FlushTimeout, SinkError, instrumentation
from audit_buffer._state import State
from audit_buffer._timing import Deadline
from audit_buffer.instrumentation import BatchCommitted, BatchFailed, Event, WriterFailed
from audit_buffer.sinks import Batch
from tests.flow.doubles import (
    PATIENCE,
    ActingClock,
    Died,
    Flow,
    GatedSink,
    Hurting,
    SleepLog,
    Threads,
    seqs_of,
)


AWAY = ConnectionError("the database is away")


def test_a_failing_batch_is_tried_again_in_order_before_anything_else() -> None:
    """
    Entries recorded during the outage come behind it, each once.
    """
    flow = Flow(sink=Hurting([AWAY, AWAY]), batch_size=2)
    flow.record(b"1")
    flow.record(b"2")
    flow.writer.step()
    flow.record(b"3")
    flow.record(b"4")
    for _ in range(3):
        flow.writer.step()
    assert [batch.stored for batch in flow.sink.batches] == [[(1, b"1"), (2, b"2")], [(3, b"3"), (4, b"4")]]
    assert (flow.writer.retries, flow.writer.batches) == (2, 2)


def test_a_lost_answer_to_a_commit_doubles_nothing() -> None:
    """
    Stored, and the answer lost: the position says so, and nothing is written again.
    """
    sink = Hurting([(AWAY,)])
    flow = Flow(sink=sink, batch_size=1)
    flow.record()
    flow.writer.step()
    assert flow.channel.snapshot().committed == 0
    flow.writer.step()
    assert flow.channel.snapshot().committed == 1
    assert sink.seqs == [1]
    assert sink.asked == 1


def test_the_position_is_read_only_in_doubt() -> None:
    """
    A batch behind a committed one needs no question; a position that cannot be read leaves the doubt.
    """
    sink = Hurting([None, AWAY], positions=[AWAY])
    flow = Flow(sink=sink, batch_size=1)
    flow.record()
    flow.writer.step()
    assert sink.asked == 0
    flow.record()
    for _ in range(3):
        flow.writer.step()
    assert sink.asked == 2
    assert sink.seqs == [1, 2]


def test_each_failed_attempt_is_one_event_and_one_call_of_on_error(events: list[Event]) -> None:
    """
    However many entries wait: one event per attempt, none per record.
    """
    told: list[BaseException] = []
    flow = Flow(sink=Hurting([AWAY, AWAY]), batch_size=100, on_error=told.append)
    for _ in range(100):
        flow.record()
    for _ in range(3):
        flow.writer.step()
    failed = [event for event in events if isinstance(event, BatchFailed)]
    assert [event.attempt for event in failed] == [1, 2]
    assert [(event.first_seq, event.last_seq) for event in failed] == [(1, 100)] * 2
    assert [type(event) for event in events] == [BatchFailed, BatchFailed, BatchCommitted]
    assert told == [AWAY, AWAY]


def test_the_pauses_grow_to_their_bound_and_begin_anew_after_a_success(events: list[Event]) -> None:
    """
    Full jitter below 0.1, 0.2, 0.4, 0.8, 1, 1 …; a success sets it back.
    """
    flow = Flow(
        sink=Hurting([AWAY] * 6 + [None, AWAY]), batch_size=1, retry_backoff=0.1, retry_backoff_max=1.0
    )
    flow.record()
    flow.record()
    waited: list[float] = []
    for _ in range(9):
        before = flow.clock.monotonic()
        flow.writer.step()
        waited.append(flow.clock.monotonic() - before)
    said = [event.retry_in for event in events if isinstance(event, BatchFailed)]
    bounds = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.1]
    assert all(0 < pause <= bound for pause, bound in zip(said, bounds, strict=True))
    assert [pause for pause in waited if pause] == pytest.approx(said)


def test_close_cuts_the_pause_short() -> None:
    """
    A writer that waits for its next attempt makes it at once when the buffer closes.
    """
    clock = ActingClock()
    flow = Flow(sink=Hurting([AWAY]), clock=clock, batch_size=1, retry_backoff=1000, retry_backoff_max=1000)
    flow.record()
    clock.acts.append(flow.channel.begin_close)
    before = clock.monotonic()
    flow.writer.step()
    assert clock.monotonic() == before
    assert flow.channel.state is State.CLOSING


def test_a_flush_cuts_the_pause_short() -> None:
    """
    Whoever asks for a barrier over new entries gets an attempt now.
    """
    clock = ActingClock()
    flow = Flow(sink=Hurting([AWAY]), clock=clock, batch_size=1, retry_backoff=1000, retry_backoff_max=1000)
    flow.record()
    clock.acts.append(flow.channel.request_flush)
    before = clock.monotonic()
    flow.writer.step()
    assert clock.monotonic() == before


def test_delivery_timeout_gives_up_and_record_says_why() -> None:
    """
    After so many seconds of failing the buffer has failed: record() raises with the cause, barriers raise, all is kept.
    """
    flow = Flow(
        sink=Hurting([AWAY] * 99),
        batch_size=1,
        delivery_timeout=10.0,
        retry_backoff=1.0,
        retry_backoff_max=4.0,
    )
    flow.record()
    before = flow.clock.monotonic()
    flow.step_to_the_end()
    assert 10 <= flow.clock.monotonic() - before <= 20
    assert flow.channel.state is State.FAILED
    with pytest.raises(BufferClosed) as closed:
        flow.record()
    assert closed.value.__cause__ is AWAY
    with pytest.raises(SinkError) as refused:
        flow.channel.wait_committed(None, Deadline(flow.clock, 5))
    assert refused.value.__cause__ is AWAY
    with pytest.raises(SinkError):
        flow.channel.wait_closed(Deadline(flow.clock, None))
    assert flow.channel.snapshot().pending == 1
    flow.channel.fail(Died())
    assert flow.channel.state is State.FAILED, "failing twice is failing"


def test_a_success_in_between_starts_the_delivery_timeout_anew() -> None:
    """
    Only one outage that is long enough counts.
    """
    flow = Flow(
        sink=Hurting([AWAY, None] * 20),
        batch_size=1,
        delivery_timeout=1.0,
        retry_backoff=0.9,
        retry_backoff_max=0.9,
    )
    for _ in range(20):
        flow.record()
    for _ in range(40):
        flow.writer.step()
    assert flow.channel.state is State.OPEN
    assert flow.channel.snapshot().committed == 20


# Barriers -----------------------------------------------------------------------------------------------------------


def test_flush_without_a_deadline_raises_the_first_failure_from_now_on() -> None:
    """
    An old failure is no reason, the next one is; its cause is the driver's error.
    """
    clock = ActingClock()
    flow = Flow(sink=Hurting([AWAY, AWAY]), clock=clock, batch_size=1)
    flow.record()
    flow.writer.step()
    clock.acts.append(flow.writer.step)
    with pytest.raises(SinkError) as caught:
        flow.channel.wait_committed(None, Deadline(clock, None))
    assert caught.value.__cause__ is AWAY
    assert flow.writer.retries == 2
    clock.acts.append(flow.writer.step)
    flow.channel.wait_committed(None, Deadline(clock, None))


def test_flush_with_a_deadline_lets_the_retries_go_on() -> None:
    """
    Failures before the deadline are no reason to give up.
    """
    clock = ActingClock()
    flow = Flow(
        sink=Hurting([AWAY, AWAY]), clock=clock, batch_size=1, retry_backoff=0.1, retry_backoff_max=0.1
    )
    flow.record()
    clock.acts += [flow.writer.step] * 5
    flow.channel.wait_committed(None, Deadline(clock, 60))
    assert flow.writer.retries == 2


def test_a_deadline_is_kept_and_says_how_many_entries_wait_and_why() -> None:
    """
    FlushTimeout comes at the deadline, not after it, with the rest and the writer's last error.
    """
    clock = ActingClock()
    flow = Flow(sink=Hurting([None, AWAY]), clock=clock, batch_size=2)
    for _ in range(5):
        flow.record()
    clock.acts += [flow.writer.step, flow.writer.step]
    before = clock.monotonic()
    with pytest.raises(FlushTimeout) as caught:
        flow.channel.wait_committed(None, Deadline(clock, 7))
    assert clock.monotonic() - before == pytest.approx(7)
    assert caught.value.remaining == 3
    assert caught.value.last_error is caught.value.__cause__ is AWAY
    assert "3 entries still wait after 7 s" in str(caught.value)


def test_the_deadline_of_close_counts_what_is_left() -> None:
    """
    close() says how many entries are not committed, not one more.
    """
    flow = Flow()
    flow.record()
    flow.record()
    flow.channel.begin_close()
    with pytest.raises(FlushTimeout) as caught:
        flow.channel.wait_closed(Deadline(flow.clock, 3))
    assert caught.value.remaining == 2


# The writer's death -------------------------------------------------------------------------------------------------


def once(error: BaseException, call: Any) -> Any:
    """
    Return *call*, with *error* raised in place of its first run.
    """
    errors = [error]

    def wrapped(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return call(*args)

    return wrapped


class DyingSink(Hurting):
    """
    A sink that stores, and dies before it can say so.
    """

    def __init__(self, died: Died) -> None:
        super().__init__()
        self._died: Died | None = died

    def write(self, batch: Batch) -> None:
        super().write(batch)
        if self._died is not None:
            died, self._died = self._died, None
            raise died


def buffer_dying_in(place: str, died: Died, told: list[BaseException]) -> AuditBuffer:
    """
    Return a buffer whose writer meets *died*, once, at *place*.
    """
    scripts: dict[str, Any] = {
        "write": Hurting([died]),
        "position": Hurting([AWAY], positions=[died]),
        "stored": DyingSink(died),
        "on_error": Hurting([AWAY]),
        "hook_failed": Hurting([AWAY]),
    }
    on_error = once(died, told.append) if place == "on_error" else told.append
    sink = scripts.get(place, Hurting())
    audit = AuditBuffer(
        sink, on_error=on_error, flush_interval=0.0, retry_backoff=0.001, retry_backoff_max=0.001
    )
    channel = audit._channel
    if place in ("take", "committed", "wait_for_work"):
        setattr(channel, place, once(died, getattr(channel, place)))
    return audit


@pytest.mark.parametrize(
    "place",
    [
        "write",
        "stored",
        "position",
        "take",
        "committed",
        "wait_for_work",
        "on_error",
        "hook_failed",
        "hook_committed",
    ],
)
def test_a_writer_that_dies_comes_back_counts_it_and_loses_nothing(
    place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    Whatever it dies of and wherever: the thread goes on, on_error hears of it, each entry is written once.
    """
    died, told = Died(place), []  # type: ignore[var-annotated]
    instrumentation.set_hooks([])
    audit = buffer_dying_in(place, died, told)
    if place.startswith("hook"):  # from here on: the event of the opening must not use it up
        instrumentation.set_hooks([once(died, lambda event: None)])
    for number in range(20):
        audit.record(f"event.{number}")
    audit.flush(timeout=PATIENCE)
    audit.record("one.more")
    audit.close(timeout=PATIENCE)
    sink = audit._target
    assert sink.seqs == list(range(1, 22))
    assert audit._writer.restarts == 1
    assert audit.stats().committed == 21
    assert died in told


@pytest.mark.parametrize("where", ["on_error", "hook"])
def test_not_even_an_alarm_that_kills_ends_the_writer(where: str, capfd: pytest.CaptureFixture[str]) -> None:
    """
    on_error and hooks that raise SystemExit every time delay the entries; standard error says of what.
    """

    def deadly(_: object) -> None:
        raise Died

    sink = Hurting([AWAY, Died()])
    on_error = deadly if where == "on_error" else None
    audit = AuditBuffer(
        sink, on_error=on_error, flush_interval=0.0, retry_backoff=0.001, retry_backoff_max=0.001
    )
    if where == "hook":
        instrumentation.set_hooks([deadly])
    audit.record("event")
    audit.flush(timeout=PATIENCE)
    instrumentation.set_hooks([])
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1]
    assert "Died" in capfd.readouterr().err


def test_flush_raises_what_the_writer_died_of() -> None:
    """
    A waiting flush() hears of the death as of every failed attempt, and a later one succeeds.
    """
    died = Died("in the sink")
    # It dies until flush() has looked, however late that is.
    sink = Hurting([died] * 1000)
    audit = AuditBuffer(sink, flush_interval=1000, retry_backoff=0.001, retry_backoff_max=0.001)
    audit.record("event")
    with pytest.raises(SinkError) as caught:
        audit.flush()
    assert caught.value.__cause__ is died
    sink.script.clear()
    audit.flush(timeout=PATIENCE)
    audit.close()


def test_on_error_may_raise(events: list[Event]) -> None:
    """
    What on_error raises is reported, and harms nobody.
    """
    flow = Flow(sink=Hurting([AWAY]), batch_size=1, on_error=lambda error: 1 / 0)
    flow.record()
    flow.writer.step()
    flow.writer.step()
    assert flow.sink.seqs == [1]
    (failed,) = [event for event in events if isinstance(event, WriterFailed)]
    assert "on_error raised ZeroDivisionError" in failed.error


def test_a_sink_that_cannot_close_is_reported_and_the_buffer_is_closed(events: list[Event]) -> None:
    """
    Everything is committed, so the buffer is closed all the same.
    """
    told: list[BaseException] = []
    flow = Flow(on_error=told.append)
    flow.sink.close = once(AWAY, flow.sink.close)  # type: ignore[method-assign]
    flow.channel.begin_close()
    assert not flow.writer.step()
    assert flow.channel.state is State.CLOSED
    assert told == [AWAY]
    assert [type(event) for event in events] == [WriterFailed]


def test_a_thread_that_cannot_be_started_is_no_loss(
    monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    """
    At the limit of threads, or at the end of the interpreter: record() stores, flush() and close() write by themselves, one alarm is raised.
    """

    def refused(self: object) -> None:
        raise RuntimeError("can't start new thread")

    sink = Hurting()
    audit = AuditBuffer(sink)
    monkeypatch.setattr("threading.Thread.start", refused)
    for _ in range(5):
        audit.record("event")
    assert sink.seqs == []
    audit.flush()
    assert sink.seqs == [1, 2, 3, 4, 5]
    audit.record("event")
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1, 2, 3, 4, 5, 6]
    assert sink.closed == 1
    assert len([event for event in events if isinstance(event, WriterFailed)]) == 1


def test_a_flush_without_a_thread_raises_what_the_database_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The attempt on the calling thread fails: flush() raises it, and the entries are kept.
    """

    def refused(self: object) -> None:
        raise RuntimeError("can't start new thread")

    sink = Hurting([AWAY])
    audit = AuditBuffer(sink)
    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", refused)
        audit.record("event")
        with pytest.raises(SinkError):
            audit.flush()
    audit.record("event")
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1, 2]


def test_a_dead_thread_is_replaced_by_the_next_flush() -> None:
    """
    If the thread is gone, whatever took it, a barrier starts another.
    """
    audit = AuditBuffer(Hurting(), flush_interval=1000)
    worker = audit._writer.worker
    step = worker._step
    worker._step = lambda: False
    audit.record("event")
    worker.join(PATIENCE)
    worker._step = step
    audit.flush(timeout=PATIENCE)
    audit.close()
    assert audit._target.seqs == [1]


def test_the_writer_has_one_thread_however_many_ask_for_it() -> None:
    """
    Sixteen threads that record at once start one writer.
    """
    sink = GatedSink()
    sink.gate.set()
    audit = AuditBuffer(sink, flush_interval=0.0)
    starts = itertools.count()
    run = audit._writer.worker._run

    def counted() -> None:
        next(starts)
        run()

    audit._writer.worker._run = counted  # type: ignore[method-assign]
    with Threads() as threads:
        for _ in range(16):
            threads.start(lambda: [audit.record("event") for _ in range(50)])
    audit.close(timeout=PATIENCE)
    assert next(starts) == 1
    assert seqs_of(sink) == list(range(1, 801))


def test_a_config_is_taken_as_it_is() -> None:
    """
    The writer's bounds are those of the configuration that the buffer shows.
    """
    with AuditBuffer(Hurting(), BufferConfig(batch_size=7), flush_interval=0.5) as audit:
        assert (audit.config.batch_size, audit.config.flush_interval) == (7, 0.5)


def test_an_error_while_the_writer_sleeps_is_no_wait(events: list[Event]) -> None:
    """
    A clock that breaks is survived as everything else is.
    """
    clock = SleepLog()
    flow = Flow(clock=clock, flush_interval=0.0, retry_backoff=0.001, retry_backoff_max=0.001)
    clock.wait = once(Died(), clock.wait)  # type: ignore[method-assign]
    flow.writer.ensure_running()
    flow.record()
    flow.channel.wait_committed(None, Deadline(clock, PATIENCE))
    flow.channel.begin_close()
    flow.writer.ensure_running()
    flow.channel.wait_closed(Deadline(clock, PATIENCE))
    assert flow.sink.seqs == [1]
