"""
What becomes of a batch in which the database refuses something for good.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_buffer import EntryQuarantined, SinkError
from audit_buffer._narrowing import MOST_IN_A_ROW, Narrowing, Verdict, is_structural
from audit_buffer._timing import Deadline
from audit_buffer.errors import IntegrityAlarm
from audit_buffer.instrumentation import BatchFailed, EntryQuarantinedEvent, Event
from audit_buffer.sinks import Batch
from tests.flow.doubles import ActingClock, Flow, Hurting


class Refusing(Hurting):
    """
    A sink that refuses every batch with one of *poison* in it, and sets an entry aside when told to.
    """

    def __init__(self, poison: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__()
        self.poison = poison
        self.set_aside: list[int] = []
        self.attempts = 0
        self.refusals: list[Exception | None] = []

    def write(self, batch: Batch) -> None:
        self.attempts += 1
        if self.poison & {seq for seq, _ in batch.stored}:
            raise ValueError("refused for good")
        super().write(batch)

    def quarantine(self, batch: Batch, error: Exception) -> None:
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        ((seq, _),) = batch.stored
        assert (batch.after, batch.through) == (seq - 1, seq)
        assert self.stored_through(batch.buffer_id) == seq - 1
        self.set_aside.append(seq)
        self._positions[batch.buffer_id] = seq


def flow_of(sink: Refusing, entries: int, **settings: object) -> Flow:
    """
    Return a flow with so many entries published.
    """
    flow = Flow(sink=sink, flush_interval=0.0, **settings)
    for _ in range(entries):
        flow.record()
    return flow


def write_all(flow: Flow) -> None:
    while flow.channel.snapshot().pending:
        flow.writer.step()


@given(size=st.integers(1, MOST_IN_A_ROW), data=st.data())
@settings(max_examples=200)
def test_whatever_is_refused_is_set_aside_and_all_else_is_written_in_order(
    size: int, data: st.DataObject
) -> None:
    """
    One entry, several, all; first, last or anywhere: each seq has its place, and what comes behind is not kept waiting.
    """
    poison = data.draw(st.sets(st.integers(1, size)))
    sink = Refusing(poison)
    flow = flow_of(sink, size, batch_size=200)
    write_all(flow)
    assert sink.set_aside == sorted(poison)
    assert sink.seqs == [seq for seq in range(1, size + 1) if seq not in poison]
    assert flow.writer.quarantined == len(poison)
    assert flow.writer.retries == 0
    assert flow.channel.snapshot().committed == size


@pytest.mark.parametrize("size", [1, 2, 3, 64, 500, 512])
def test_one_refused_entry_costs_a_logarithm(size: int) -> None:
    """
    Wherever it stands: 2 log₂ n transactions and three more, and its place in quarantine.
    """
    for place in {1, 2, size // 2 or 1, size - 1 or 1, size}:
        sink = Refusing({place})
        write_all(flow_of(sink, size, batch_size=512))
        assert sink.attempts <= 2 * math.ceil(math.log2(size)) + 3, place


def test_a_batch_that_is_refused_altogether_costs_a_few_transactions_each() -> None:
    """
    Not a logarithm each: behind a refused entry the pieces begin with one entry.
    """
    sink = Refusing(set(range(1, MOST_IN_A_ROW + 1)))
    write_all(flow_of(sink, MOST_IN_A_ROW, batch_size=MOST_IN_A_ROW))
    assert sink.attempts <= 2 * MOST_IN_A_ROW + 10


def test_an_entry_is_told_once_to_everyone(events: list[Event]) -> None:
    """
    on_error, an event, stats().last_error; a flush() that waits is not disturbed, because the buffer deals with it.
    """
    told: list[BaseException] = []
    clock = ActingClock()
    flow = flow_of(Refusing({2}), 3, on_error=told.append, clock=clock)
    clock.acts += [flow.writer.step] * 20
    flow.channel.wait_committed(None, Deadline(clock, None))
    (error,) = told
    assert isinstance(error, EntryQuarantined)
    assert (error.seq, error.buffer_id) == (2, flow.ring.buffer_id)
    assert isinstance(error.__cause__, ValueError)
    assert flow.channel.snapshot().last_error is error
    (event,) = [event for event in events if isinstance(event, EntryQuarantinedEvent)]
    assert (event.name, event.level, event.seq) == ("audit_buffer.entry_quarantined", "error", 2)
    assert not [event for event in events if isinstance(event, BatchFailed)]


def test_one_refusal_alone_is_no_verdict() -> None:
    """
    A batch of one entry that is refused once and taken at once afterwards was not poison.
    """
    sink = Refusing({1})
    flow = flow_of(sink, 1)
    flow.writer.step()
    assert sink.attempts == 1
    sink.poison = set()
    flow.writer.step()
    assert (sink.seqs, sink.set_aside) == ([1], [])


def test_a_sink_that_cannot_set_aside_gets_the_batch_again() -> None:
    """
    Nothing is narrowed and nothing lost: the pauses grow, and the batch is written when the cause is gone.
    """
    sink = Hurting([ValueError("no")] * 3)
    flow = Flow(sink=sink, flush_interval=0.0)
    flow.record()
    flow.record()
    write_all(flow)
    assert sink.seqs == [1, 2]
    assert flow.writer.retries == 3


def test_trouble_in_the_middle_of_narrowing_loses_and_doubles_nothing() -> None:
    """
    The database goes away in each step of it, before and after the step is stored.
    """
    for step in range(14):
        for lost_answer in (False, True):
            sink = Refusing({3, 4})
            trouble(sink, step, lost_answer)
            flow = flow_of(sink, 8)
            write_all(flow)
            assert sink.seqs == [1, 2, 5, 6, 7, 8]
            assert sink.set_aside == [3, 4]
            assert flow.writer.quarantined == 2


def trouble(sink: Refusing, step: int, lost_answer: bool) -> None:
    """
    Have call number *step* of the sink raise, before it does anything or after.
    """
    calls = iter(range(1000))

    def wrapped(call):  # type: ignore[no-untyped-def]
        def run(*args: object) -> None:
            hit = next(calls) == step
            if hit and not lost_answer:
                raise ConnectionError("away")
            call(*args)
            if hit:
                raise ConnectionError("the answer is lost")

        return run

    sink.write, sink.quarantine = wrapped(sink.write), wrapped(sink.quarantine)  # type: ignore[method-assign]


def test_an_entry_that_cannot_even_be_set_aside_waits_with_the_longest_pause(events: list[Event]) -> None:
    """
    flush() says so at once, with a deadline too, and once the cause is gone everything is written.
    """
    clock = ActingClock()
    sink = Refusing({1})
    sink.refusals = [ValueError("not that either")] * 3
    flow = flow_of(sink, 2, clock=clock, retry_backoff_max=7.0)
    clock.acts += [flow.writer.step] * 4
    with pytest.raises(SinkError, match="as well"):
        flow.channel.wait_committed(None, Deadline(clock, 1000))
    failed = [event for event in events if isinstance(event, BatchFailed)]
    assert failed
    assert {event.retry_in for event in failed} == {7.0}
    assert all("remove the constraint" in event.advice for event in failed)
    sink.poison = set()
    write_all(flow)
    assert (sink.seqs, sink.set_aside) == ([1, 2], [])


def test_gap_rows_keep_their_place() -> None:
    """
    Dropped seqs in a batch that is narrowed come out as the same gaps.
    """
    sink = Refusing({6})
    flow = flow_of(sink, 2, on_full="drop_newest", batch_size=100)
    flow.channel.drop_newest()
    flow.channel.drop_newest()
    for _ in range(3):
        flow.record()
    flow.channel.drop_newest()
    write_all(flow)
    while flow.channel.snapshot().committed < 8:
        flow.writer.step()
    assert sink.seqs == [1, 2, 5, 7]
    assert [(gap.first_seq, gap.last_seq) for gap in sink.gaps] == [(3, 4), (8, 8)]


def test_a_gap_row_that_is_refused_waits() -> None:
    """
    It is not an entry that could be set aside.
    """
    plan = Narrowing()
    gap = Batch(buffer_id=Flow().ring.buffer_id, after=3, through=5, stored=[])
    for _ in range(20):
        assert plan.refused(gap, ValueError(), may_pass=False) is Verdict.WAIT


def test_what_may_pass_is_tried_longer() -> None:
    """
    A foreign key whose parent is not committed yet: with pauses, eight times, then it is condemned.
    """
    plan, error = Narrowing(), ValueError()
    one = Batch(buffer_id=Flow().ring.buffer_id, after=0, through=1, stored=[(1, b"x")])
    verdicts = [plan.refused(one, error, may_pass=True) for _ in range(8)]
    assert verdicts == [Verdict.WAIT] * 7 + [Verdict.CONDEMNED]
    assert plan.condemned is error


def test_a_table_that_refuses_everything_does_not_send_the_backlog_into_quarantine() -> None:
    """
    After so many in a row the rest waits, with pauses, and everyone hears why; the first entry that is taken ends it.
    """
    most, told = MOST_IN_A_ROW, list[BaseException]()
    sink = Refusing(set(range(1, 3 * most)))
    clock = ActingClock()
    flow = flow_of(sink, 3 * most, batch_size=30, on_error=told.append, clock=clock)
    while flow.channel.advice is None:
        flow.writer.step()
    for _ in range(50):
        flow.writer.step()
    assert sink.set_aside == list(range(1, most + 1))
    assert sink.batches == []
    assert flow.channel.snapshot().committed <= most
    clock.acts += [flow.writer.step] * 20
    with pytest.raises(SinkError, match=f"refused {most} entries one after the other") as caught:
        flow.channel.wait_committed(3 * most, Deadline(flow.clock, 3600.0))
    assert "NOT NULL" in caught.value.advice
    assert any(isinstance(error, SinkError) and error.advice == caught.value.advice for error in told)
    sink.poison = set()
    write_all(flow)
    assert sink.seqs == list(range(most + 1, 3 * most + 1))
    assert flow.writer.quarantined == most
    assert flow.channel.advice is None


def test_one_entry_that_is_taken_shows_that_the_table_is_right() -> None:
    """
    It counts what is refused without one success in between, across batches.
    """
    most = MOST_IN_A_ROW
    good = {most, 2 * most, 3 * most}
    sink = Refusing(set(range(1, 3 * most + 1)) - good)
    flow = flow_of(sink, 3 * most, batch_size=30)
    write_all(flow)
    assert set(sink.seqs) == good
    assert flow.writer.quarantined == 3 * most - 3
    assert (is_structural(most - 1), is_structural(most)) == (False, True)


# Integrity alarms ---------------------------------------------------------------------------------------------------


class Foreign(Hurting):
    """
    A sink in which somebody else has written *foreign* under our buffer_id.
    """

    def __init__(self, through: int, first: int | None) -> None:
        super().__init__()
        self.foreign_through = through
        self.first = first
        self.begun: list[int] = []

    def write(self, batch: Batch) -> None:
        if batch.after < self.stored_through(batch.buffer_id):
            raise ConnectionError("the fence")
        super().write(batch)

    def first_foreign(self, batch: Batch, sent: int | None) -> int | None:
        return self.first if self.first is not None and batch.after < self.first <= batch.through else None

    def begin(self, buffer_id: object, after: int) -> None:
        self.begun.append(after)
        self._positions[buffer_id] = after  # type: ignore[index]


def test_rows_of_somebody_else_are_an_alarm_and_the_buffer_goes_on_under_a_new_id() -> None:
    """
    Each seq stays what record() returned; what was ours stays where it is, the rest is under the new buffer_id.
    """
    told: list[BaseException] = []
    sink = Foreign(4, 3)
    flow = Flow(sink=sink, flush_interval=0.0, on_error=told.append)
    old = flow.ring.buffer_id
    sink._positions[old] = 4
    for _ in range(6):
        flow.record()
    sink._positions[old] = 4
    write_all(flow)
    alarms = [error for error in told if isinstance(error, IntegrityAlarm)]
    (alarm,) = alarms
    assert (alarm.buffer_id, alarm.first_seq, alarm.last_seq) == (old, 3, 4)
    assert flow.channel.ring.buffer_id == alarm.continued_as != old
    assert [(batch.buffer_id, batch.after, batch.through) for batch in sink.batches] == [
        (alarm.continued_as, 2, 6)
    ]
    assert sink.begun == [2]
    assert flow.record() == 7
    write_all(flow)
    assert sink.batches[-1].buffer_id == alarm.continued_as
    assert flow.channel.snapshot().committed == 7


def test_rows_that_are_ours_are_gone_behind() -> None:
    """
    Another process delivered a copy of the same entries: nothing is written twice, and nobody is alarmed.
    """
    told: list[BaseException] = []
    sink = Foreign(4, None)
    flow = Flow(sink=sink, flush_interval=0.0, on_error=told.append)
    sink._positions[flow.ring.buffer_id] = 4
    for _ in range(6):
        flow.record()
    write_all(flow)
    assert sink.seqs == [5, 6]
    assert not [error for error in told if isinstance(error, IntegrityAlarm)]


def test_a_sink_that_sees_strangers_everywhere_does_not_make_the_writer_spin() -> None:
    """
    A new buffer_id that does not help is tried again after a pause.
    """

    class Paranoid(Foreign):
        def position(self, buffer_id: object) -> int:
            return 1

        def stored_through(self, buffer_id: object) -> int:
            return 1

        def first_foreign(self, batch: Batch, sent: int | None) -> int | None:
            return 1

    flow = Flow(sink=Paranoid(1, 1), flush_interval=0.0)
    flow.record()
    before = flow.clock.monotonic()
    for _ in range(20):
        flow.writer.step()
    assert flow.clock.monotonic() > before
    assert flow.writer.retries >= 5
