"""
A channel, its writer and a scripted sink beside a model made of a plain deque: what must be true after each operation.

`World` is driven by the hypothesis state machine and by the seeded simulation; it knows nothing of either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_buffer._ring import MemoryRing, Ring, Stored
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import orphans
from audit_buffer._state import State, Taken
from audit_buffer._timing import Deadline
from audit_buffer.errors import BufferClosed, BufferFull, FlushTimeout, RingError, SinkError
from tests.flow.doubles import ActingClock, Flow, Hurting


BROKEN = ConnectionError("the database is away")


class World:
    """
    The library and its model, side by side.
    """

    def __init__(self, make_ring: Callable[[], Ring] = MemoryRing, **settings: Any) -> None:
        self.sink = Hurting()
        self.clock = ActingClock()
        self.flow = Flow(sink=self.sink, clock=self.clock, ring=make_ring(), **settings)
        self.config = self.flow.config
        self.buffer_id = self.flow.ring.buffer_id
        self.state = State.OPEN
        self.accepted: dict[int, bytes] = {}
        self.dropped: set[int] = set()
        self.waiting: deque[Stored] = deque()
        self.in_hand: list[Stored] = []
        self.published = 0
        self.committed_before = 0
        self._watch_the_writer()

    def _watch_the_writer(self) -> None:
        """
        Have the model follow what is published, taken and acknowledged.
        """
        channel = self.flow.channel
        publish, take, committed = channel.publish, channel.take, channel.committed

        def watched_publish(payload: bytes) -> int:
            seq = publish(payload)
            if seq:
                self.published += 1
                assert seq == self.published, "seq is dense and rising"
                self.accepted[seq] = payload
                self.waiting.append((seq, payload))
            return seq

        def watched_take() -> Taken | None:
            taken = take()
            if taken is not None and not self.in_hand:
                expected = [self.waiting.popleft() for _ in taken.entries]
                assert taken.entries == expected, "a batch is the oldest entries, in order"
                self.in_hand = expected
                size = sum(len(payload) for _, payload in expected)
                assert self.config.batch_size is None or len(expected) <= self.config.batch_size
                most = self.config.batch_max_bytes or 4 * 1024 * 1024
                assert size <= most or len(expected) == 1
            return taken

        def watched_committed(taken: Taken, seconds: float) -> None:
            committed(taken, seconds)
            self.in_hand = []

        channel.publish = watched_publish  # type: ignore[method-assign]
        channel.take = watched_take  # type: ignore[method-assign]
        channel.committed = watched_committed  # type: ignore[method-assign]

    # Operations -------------------------------------------------------------------------------------------------

    def record(self, size: int) -> None:
        """
        Record one entry of *size* bytes and compare what happens with what must happen.
        """
        payload = (b"%d." % (self.published + 1)).ljust(size, b"x")[:size]
        if self.state is not State.OPEN:
            self._refused(payload, BufferClosed)
        elif len(payload) > self.config.queue_max_bytes:  # type: ignore[operator]
            self._refused(payload, BufferFull)
        elif self._has_room(payload):
            assert self.flow.record(payload) == self.published
        else:
            getattr(self, "_full_" + self.config.on_full)(payload)

    def _has_room(self, payload: bytes) -> bool:
        held = [*self.in_hand, *self.waiting]
        size = sum(len(other) for _, other in held) + len(payload)
        return len(held) < self.config.queue_maxsize and size <= self.config.queue_max_bytes  # type: ignore[operator]

    def _refused(self, payload: bytes, error: type[Exception]) -> None:
        with pytest.raises(error):
            self.flow.record(payload)

    def _full_raise(self, payload: bytes) -> None:
        self._refused(payload, BufferFull)

    def _full_block(self, payload: bytes) -> None:
        before = self.clock.monotonic()
        self._refused(payload, BufferFull)
        assert self.clock.monotonic() - before == pytest.approx(self.config.block_timeout)

    def _full_drop_newest(self, payload: bytes) -> None:
        self.published += 1
        assert self.flow.record(payload) == self.published
        self.dropped.add(self.published)

    def _full_drop_oldest(self, payload: bytes) -> None:
        while self.waiting and not self._has_room(payload):
            oldest, _ = self.waiting.popleft()
            del self.accepted[oldest]
            self.dropped.add(oldest)
        if self._has_room(payload):
            assert self.flow.record(payload) == self.published
        else:
            self._full_drop_newest(payload)

    def _full_write_through(self, payload: bytes) -> None:
        before = self.flow.channel.snapshot()
        try:
            seq = self.flow.record(payload)
        except SinkError:
            seq = 0
        now = self.flow.channel.snapshot()
        if seq:
            assert seq == self.published == before.published + 1
            assert now.committed == seq or now.last_error is not None, "returned after its COMMIT, or is kept"
        else:
            assert now.published == before.published, "what raised left nothing behind"

    def step(self) -> None:
        """
        Have the writer do one thing, unless it would wait for ever.
        """
        if self.waiting or self.in_hand or self._gaps_to_write() or self.state is not State.OPEN:
            going_on = self.flow.writer.step()
            if not going_on and self.state is State.CLOSING:
                self.state = State.CLOSED

    def _gaps_to_write(self) -> bool:
        return max(self.dropped, default=0) > self.flow.channel.snapshot().committed

    def flush(self) -> None:
        """
        Ask for a barrier and step until it is reached or an attempt fails.
        """
        channel = self.flow.channel
        seq, failures = channel.request_flush()
        assert seq == self.published
        never = Deadline(self.clock, None)
        before = self.clock.monotonic()
        while self.state is not State.FAILED:
            try:
                if channel.check_committed(seq, failures, never):
                    assert self.clock.monotonic() == before, "a barrier waits for no threshold"
                    return
            except SinkError:
                return
            self.step()

    def flush_timeout(self) -> None:
        """
        A barrier that nobody works for ends at its deadline, and says the truth.
        """
        now = self.flow.channel.snapshot()
        before = self.clock.monotonic()
        if now.committed == now.published:
            self.flow.channel.wait_committed(None, Deadline(self.clock, 1.5))
            assert self.clock.monotonic() == before
        elif self.state is State.FAILED:
            with pytest.raises(SinkError):
                self.flow.channel.wait_committed(None, Deadline(self.clock, 1.5))
        else:
            with pytest.raises(FlushTimeout) as caught:
                self.flow.channel.wait_committed(None, Deadline(self.clock, 1.5))
            assert self.clock.monotonic() == before + 1.5
            assert caught.value.remaining == now.published - now.committed

    def advance(self, seconds: float) -> None:
        """
        Let time pass.
        """
        self.clock.advance(seconds)

    def script(self, outcomes: list[str]) -> None:
        """
        Tell the sink what comes next: "ok", "before" (nothing stored), "after" (stored, and the answer lost).
        """
        meanings = {"ok": None, "before": BROKEN, "after": (BROKEN,)}
        self.sink.script = [meanings[outcome] for outcome in outcomes]

    def lose_positions(self, count: int) -> None:
        """
        Have the next questions for the position fail.
        """
        self.sink.positions = [BROKEN] * count

    def close(self) -> None:
        """
        Begin to close.
        """
        self.flow.channel.begin_close()
        if self.state is State.OPEN:
            self.state = State.CLOSING

    def fail(self) -> None:
        """
        Give up for good.
        """
        self.flow.channel.fail(BROKEN)
        self.state = State.FAILED

    def sync(self) -> None:
        """
        Sync as "sync" does: all that is published survives a power cut then, or is committed.
        """
        if self.state in (State.OPEN, State.CLOSING):
            self.flow.syncer.sync(self.published)
            assert self.flow.channel.snapshot().synced == self.published

    def succeed(self) -> None:
        """
        Move to a new ring file as after a failed sync.
        """
        self.flow.channel._move_to_successor(RingError("planted", path=Path()))

    def check_what_the_file_leaves(self) -> None:
        """
        A closed buffer leaves no file; the next process finds in that of a failed one what was not written, no more.
        """
        ring = self.flow.channel.ring
        assert isinstance(ring, RingFile)
        if self.state is State.CLOSED:
            assert list(ring.path.parent.iterdir()) == []
            return
        ring.abandon()
        held = [*self.in_hand, *self.waiting]
        left: list[Stored] = []
        for orphan in orphans(ring.path.parent, "model"):
            left += orphan.take(1000, 1 << 20)
            orphan.release(self.published)
            orphan.close()
        # What was released last, or dropped as the oldest, may be offered again: the position in the database decides.
        assert left[len(left) - len(held) :] == held

    # What must be true ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """
        Compare all numbers, and everything that the sink holds, with the model.
        """
        now = self.flow.channel.snapshot()
        held = [*self.in_hand, *self.waiting]
        assert now.state is self.state
        assert now.published == self.published
        assert self.committed_before <= now.committed <= now.published
        assert now.dropped == len(self.dropped)
        assert now.pending == len(held)
        assert now.pending_bytes == sum(len(payload) for _, payload in held)
        assert now.pending <= self.config.queue_maxsize  # type: ignore[operator]
        assert now.pending_bytes <= self.config.queue_max_bytes  # type: ignore[operator]
        assert now.oldest_age >= 0
        self.committed_before = now.committed
        self._check_sink(now.committed)

    def _check_sink(self, committed: int) -> None:
        written = self.sink.stored_through(self.buffer_id)
        assert committed <= written <= self.published, "what is acknowledged is in the sink"
        stored = [entry for batch in self.sink.batches for entry in batch.stored]
        expected = [(seq, payload) for seq, payload in sorted(self.accepted.items()) if seq <= written]
        assert stored == expected, "a prefix, in order, each once"
        gaps = {seq for gap in self.sink.gaps for seq in range(gap.first_seq, gap.last_seq + 1)}
        assert gaps == {seq for seq in self.dropped if seq <= written}

    def finish(self) -> None:
        """
        Close with a database that works: nothing is left anywhere.
        """
        self.sink.script, self.sink.positions = [], []
        if self.state is State.FAILED:
            return
        self.close()
        self.flow.step_to_the_end()
        self.state = State.CLOSED
        self.check()
        now = self.flow.channel.snapshot()
        assert now.committed == now.published == self.sink.stored_through(self.buffer_id)
        assert self.sink.closed == 1
