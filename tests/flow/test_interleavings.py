"""
Races by name, each driven to its worst moment by a gate, a barrier or a step of the fake clock.
"""

from __future__ import annotations

from threading import Barrier

import pytest

from audit_buffer import AuditBuffer, BufferClosed, FlushTimeout, SinkError
from audit_buffer._state import State
from audit_buffer._timing import Deadline
from audit_buffer.instrumentation import BufferClosedEvent, Event
from tests.flow.doubles import PATIENCE, ActingClock, Flow, GatedSink, Hurting, Threads, seqs_of


AWAY = ConnectionError("the database is away")


def test_record_beside_close_is_stored_or_refused_and_nothing_between() -> None:
    """
    Threads record while another closes: who got a seq is in the sink, who got BufferClosed is not.
    """
    for _ in range(20):
        sink = GatedSink()
        sink.gate.set()
        audit = AuditBuffer(sink, flush_interval=0.0)
        ready = Barrier(5)
        promised: list[int] = []

        def record(
            audit: AuditBuffer = audit, ready: Barrier = ready, promised: list[int] = promised
        ) -> None:
            ready.wait(PATIENCE)
            while True:
                try:
                    promised.append(audit.record("event"))
                except BufferClosed:
                    return

        with Threads() as threads:
            for _ in range(4):
                threads.start(record)
            ready.wait(PATIENCE)
            audit.close(timeout=PATIENCE)
        assert sink.seqs == sorted(promised) == list(range(1, len(promised) + 1))


def test_record_during_a_slow_close_is_refused_at_once() -> None:
    """
    A buffer that is closing takes nothing, however long its last batch takes.
    """
    sink = GatedSink()
    audit = AuditBuffer(sink, flush_interval=0.0)
    audit.record("event")
    assert sink.entered.wait(PATIENCE)
    with Threads() as threads:
        threads.start(audit.close)
        with pytest.raises(FlushTimeout):
            audit.close(timeout=0)
        assert audit.stats().state == "closing"
        with pytest.raises(BufferClosed, match="closing"):
            audit.record("late")
        sink.gate.set()
    with pytest.raises(BufferClosed, match="closed"):
        audit.record("later")
    assert sink.seqs == [1]


def test_close_from_many_threads_closes_once(events: list[Event]) -> None:
    """
    All of them return when everything is committed; the sink is closed once, and one event says so.
    """
    sink = GatedSink()
    audit = AuditBuffer(sink, flush_interval=0.0)
    audit.record("event")
    assert sink.entered.wait(PATIENCE)
    ready = Barrier(4)

    def close() -> None:
        ready.wait(PATIENCE)
        audit.close(timeout=PATIENCE)
        assert audit.stats().committed == 1

    with Threads() as threads:
        for _ in range(3):
            threads.start(close)
        ready.wait(PATIENCE)
        sink.gate.set()
    audit.close()
    assert sink.closed == 1
    assert len([event for event in events if isinstance(event, BufferClosedEvent)]) == 1


def test_a_close_that_timed_out_can_be_repeated() -> None:
    """
    The writer goes on meanwhile, and the second call waits for the rest.
    """
    sink = GatedSink()
    audit = AuditBuffer(sink, flush_interval=0.0)
    audit.record("event")
    with pytest.raises(FlushTimeout) as caught:
        audit.close(timeout=0)
    assert caught.value.remaining == 1
    sink.gate.set()
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1]


@pytest.mark.parametrize("barrier", ["flush", "wait", "close"])
def test_a_barrier_in_on_error_raises_instead_of_waiting_for_itself(barrier: str) -> None:
    """
    on_error runs on the writer's thread: it gets FlushTimeout at once, and the writer goes on.
    """
    caught: list[BaseException] = []

    def on_error(error: BaseException) -> None:
        try:
            {"flush": audit.flush, "wait": lambda: audit.wait(1), "close": audit.close}[barrier]()
        except BaseException as raised:
            caught.append(raised)

    audit = AuditBuffer(
        Hurting([AWAY]), on_error=on_error, flush_interval=0.0, retry_backoff=0.001, retry_backoff_max=0.001
    )
    audit.record("event")
    audit.wait(1, timeout=PATIENCE)
    audit.close(timeout=PATIENCE)
    assert [type(error) for error in caught] == [FlushTimeout]
    assert audit._target.seqs == [1]


def test_flush_while_the_writer_is_failing_raises_its_next_error_and_loses_nothing() -> None:
    """
    The barrier is given up, the entries are not.
    """
    clock = ActingClock()
    flow = Flow(sink=Hurting([AWAY, AWAY, AWAY]), clock=clock, batch_size=1)
    flow.record()
    clock.acts += [flow.writer.step, flow.writer.step]
    for _ in range(2):
        with pytest.raises(SinkError):
            flow.channel.wait_committed(None, Deadline(clock, None))
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == [1]


def test_drop_oldest_beside_take_never_drops_what_is_in_hand() -> None:
    """
    While the sink holds a batch, drops come out of the rest; everything is accounted for.
    """
    sink = GatedSink()
    audit = AuditBuffer(sink, on_full="drop_oldest", queue_maxsize=8, batch_size=4, flush_interval=0.0)
    audit.record("in.hand")
    assert sink.entered.wait(PATIENCE)
    for _ in range(30):
        audit.record("event")
    assert audit.stats().dropped == 23
    sink.gate.set()
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1, *range(25, 32)]
    assert seqs_of(sink) == list(range(1, 32))


def test_drop_oldest_beside_close_drops_nothing_for_an_entry_that_comes_too_late() -> None:
    """
    If the buffer closes between the drop and the store, the newcomer is refused and takes no more with it.
    """
    flow = Flow(queue_maxsize=8, on_full="drop_oldest")
    for _ in range(8):
        flow.record()
    drop_oldest = flow.channel.drop_oldest

    def drop_and_close() -> bool:
        found = drop_oldest()
        flow.channel.begin_close()
        return found

    flow.channel.drop_oldest = drop_and_close  # type: ignore[method-assign]
    with pytest.raises(BufferClosed):
        flow.record()
    flow.step_to_the_end()
    assert flow.sink.seqs == list(range(2, 9))
    assert flow.channel.snapshot().dropped == 1


def test_a_record_between_the_last_look_and_the_end_of_the_writer_is_not_stranded() -> None:
    """
    The buffer closes while the writer sleeps: it wakes, writes what is there, and only then ends.
    """
    clock = ActingClock()
    flow = Flow(clock=clock)

    def record_and_close() -> None:
        flow.record()
        flow.channel.begin_close()

    clock.acts.append(record_and_close)
    flow.step_to_the_end()
    assert flow.sink.seqs == [1]
    assert flow.channel.state is State.CLOSED


def test_the_exit_hook_beside_the_writer_writes_each_batch_once() -> None:
    """
    Two that drain take turns: nothing is written twice, and both come to the end.
    """
    sink = GatedSink()
    sink.gate.set()
    audit = AuditBuffer(sink, batch_size=1, flush_interval=1000)
    audit._writer.channel._on_attention = lambda attention: None
    for _ in range(200):
        audit.record("event")
    audit._channel.begin_close()
    with Threads() as threads:
        for _ in range(3):
            threads.start(audit._writer.drain, Deadline(audit._clock, PATIENCE))
    audit.close(timeout=PATIENCE)
    assert sink.seqs == list(range(1, 201))
    assert sink.closed == 1


def test_drain_stops_at_its_deadline_while_another_thread_is_inside_the_sink() -> None:
    """
    A sink that hangs holds up nobody but its own thread.
    """
    sink = GatedSink()
    audit = AuditBuffer(sink, flush_interval=0.0)
    audit.record("event")
    assert sink.entered.wait(PATIENCE)
    audit._channel.begin_close()
    audit._writer.drain(Deadline(audit._clock, 0.01))
    sink.gate.set()
    audit.close(timeout=PATIENCE)


def test_drain_tries_again_until_its_deadline() -> None:
    """
    A database that is back in time gets everything; pauses never go past the deadline.
    """
    flow = Flow(sink=Hurting([AWAY, AWAY]), retry_backoff=0.5, retry_backoff_max=0.5)
    flow.record()
    flow.channel.begin_close()
    flow.writer.drain(Deadline(flow.clock, 10))
    assert flow.channel.state is State.CLOSED
    assert flow.sink.seqs == [1]

    away = Flow(sink=Hurting([AWAY] * 1000), retry_backoff=0.5, retry_backoff_max=0.5)
    away.record()
    away.channel.begin_close()
    before = away.clock.monotonic()
    away.writer.drain(Deadline(away.clock, 10))
    assert away.clock.monotonic() - before == pytest.approx(10)
    assert away.channel.snapshot().pending == 1

    for_ever = Flow(sink=Hurting([AWAY]))
    for_ever.record()
    for_ever.channel.begin_close()
    for_ever.writer.drain(Deadline(for_ever.clock, None))
    assert for_ever.sink.seqs == [1]


def test_no_state_follows_the_end() -> None:
    """
    A closed buffer stays closed; what is not foreseen raises.
    """
    flow = Flow()
    flow.channel.begin_close()
    flow.step_to_the_end()
    flow.channel.begin_close()
    flow.channel.finish_close()
    assert flow.channel.state is State.CLOSED
    with pytest.raises(RuntimeError, match="closed to open"):
        flow.channel._become(State.OPEN)
    assert not flow.channel.drop_oldest()
    assert flow.channel.drop_newest() == 0
