"""
What a sink of one's own gets, and what the doubles in `audit_buffer.testing` do.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from audit_buffer import AuditBuffer, AuditEntry, Batch, ConfigError, Gap, Sink
from audit_buffer._codec import EntryCodec
from audit_buffer.testing import FlakySink, MemorySink


class Listing:
    """
    The least a sink can be.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def open(self) -> None:
        pass

    def position(self, buffer_id: UUID) -> int:
        return self.batches[-1].through if self.batches else 0

    def write(self, batch: Batch) -> None:
        self.batches.append(batch)

    def close(self) -> None:
        pass


def payload(event_type: str) -> bytes:
    return EntryCodec(1 << 20).encode(1_000_000, event_type, None, None, "success", {"n": 1}, None, None)


def batch(after: int, through: int, *seqs: int) -> Batch:
    return Batch(
        buffer_id=UUID(int=1),
        after=after,
        through=through,
        stored=[(seq, payload(f"e{seq}")) for seq in seqs],
    )


def test_a_sink_of_ones_own_gets_the_entries_as_they_were_recorded() -> None:
    """
    In order, with all their facts, and times in UTC.
    """
    sink = Listing()
    assert isinstance(sink, Sink)
    occurred = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    before = datetime.now(UTC) - timedelta(microseconds=1)
    with AuditBuffer(sink, durability="memory", flush_interval=60.0) as audit:
        audit.record(
            "a", actor="me", resource="it", outcome="failure", details={"x": (1,)}, correlation_id="c"
        )
        audit.record("b", occurred_at=occurred)
    first, second = [entry for batch in sink.batches for entry in batch.entries()]
    assert before <= first.recorded_at <= datetime.now(UTC)
    assert first == AuditEntry(
        buffer_id=sink.batches[0].buffer_id,
        seq=1,
        recorded_at=first.recorded_at,
        occurred_at=first.recorded_at,
        event_type="a",
        actor="me",
        resource="it",
        outcome="failure",
        details={"x": [1]},
        correlation_id="c",
    )
    assert (second.seq, second.occurred_at, second.details, second.id) == (2, occurred, None, None)


def test_a_session_needs_a_target_that_has_sessions() -> None:
    """
    The error says which.
    """
    with (
        AuditBuffer(Listing(), durability="memory") as audit,
        pytest.raises(TypeError, match="session= needs"),
    ):
        audit.record("a", session=object())


def test_a_sink_that_cannot_open_stops_the_buffer_from_being_made() -> None:
    """
    What `open()` raises is the caller's to read.
    """

    class Shut(Listing):
        def open(self) -> None:
            raise ConfigError("target", "x", "is shut")

    with pytest.raises(ConfigError, match="is shut"):
        AuditBuffer(Shut(), durability="memory")


def test_gaps_are_the_seqs_that_are_not_stored() -> None:
    """
    At the start, in the middle, at the end; consecutive ones are one gap.
    """
    assert batch(0, 3, 1, 2, 3).gaps == []
    assert batch(0, 9, 3, 4, 7).gaps == [Gap(1, 2), Gap(5, 6), Gap(8, 9)]
    assert batch(4, 6).gaps == [Gap(5, 6)]
    assert Gap(5, 6).dropped == 2
    assert len(batch(0, 9, 3, 4)) == 2


def test_what_lies_behind_a_position_is_what_is_left_to_write() -> None:
    """
    A position before the batch changes nothing, one behind it leaves nothing.
    """
    whole = batch(2, 7, 3, 5, 6)
    assert whole.behind(0) is whole
    assert whole.behind(2) is whole
    assert [seq for seq, _ in whole.behind(4).stored] == [5, 6]
    assert (whole.behind(4).after, whole.behind(4).through) == (4, 7)
    assert whole.behind(4).gaps == [Gap(7, 7)]
    assert (whole.behind(99).after, whole.behind(99).stored) == (7, [])


def test_a_memory_sink_refuses_a_batch_that_does_not_follow() -> None:
    """
    So a test notices what a database would.
    """
    sink = MemorySink()
    sink.open()
    sink.write(batch(0, 3, 1, 3))
    with pytest.raises(AssertionError, match="after 0 does not follow 3"):
        sink.write(batch(0, 3, 1, 3))
    with pytest.raises(AssertionError, match="after 5 does not follow 3"):
        sink.write(batch(5, 6, 6))
    assert ([entry.event_type for entry in sink.entries], sink.seqs, sink.gaps) == (
        ["e1", "e3"],
        [1, 3],
        [Gap(2, 2)],
    )
    assert (sink.position(UUID(int=1)), sink.position(uuid4())) == (3, 0)
    sink.close()
    assert (sink.opened, sink.closed) == (1, 1)


def test_a_flaky_sink_fails_as_scripted() -> None:
    """
    Before anything is stored, or after all of it is, as when the answer to a COMMIT is lost.
    """
    sink = FlakySink([OSError("before"), (OSError("after"),), None])
    with pytest.raises(OSError, match="before"):
        sink.write(batch(0, 1, 1))
    assert sink.seqs == []
    with pytest.raises(OSError, match="after"):
        sink.write(batch(0, 1, 1))
    assert sink.seqs == [1]
    sink.write(batch(1, 2, 2))
    sink.write(batch(2, 3, 3))
    assert sink.seqs == [1, 2, 3]
