"""
One state machine drives a mapped ring and a plain deque side by side.

What is retained is a suffix of what was released: how long a suffix depends on the room that new entries need, so the
machine takes what the ring says, and checks that it is complete from there on.
"""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from audit_buffer._kept import Retention
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import inspect, orphans
from tests.ring.rings import LABEL, QUICK


SIZES = st.one_of(st.integers(0, 60), st.sampled_from([0, 15, 16, 17, 470, 496]))


class RingAgrees(RuleBasedStateMachine):
    """
    Whatever is done to a ring of 1 KiB, it holds what a deque would hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="audit-ring-", dir=QUICK)
        self.directory = Path(self.folder.name)
        self.ring = RingFile.create(self.directory, label=LABEL, size=8192 + 1024)
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.taken: deque[tuple[int, bytes]] = deque()
        self.released: list[tuple[int, bytes]] = []
        self.seq = 0
        self.now = 0.0
        self.retention = Retention(seconds=5.0)
        self.ring.retain(self.retention)

    @rule(
        retention=st.sampled_from(
            [Retention(), Retention(seconds=5.0), Retention(size=300), Retention(seconds=2.0, size=600)]
        )
    )
    def retain(self, retention: Retention) -> None:
        self.retention = retention
        self.ring.retain(retention)

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        """
        Everything behind the seq that the ring names is unreleased again, and comes out in order and in parts.
        """
        after = data.draw(st.integers(0, self.seq))
        committed = self.ring.committed_seq
        start = self.ring.recall(after, self.now)
        assert after <= start <= max(after, self.ring.retained_seq)
        back = [entry for entry in self.released if entry[0] > start]
        self.check_recalled(start, committed, back)
        self.released = [entry for entry in self.released if entry[0] <= start]
        self.taken.extendleft(reversed(back))

    def check_recalled(self, start: int, committed: int, back: list[tuple[int, bytes]]) -> None:
        found: list[tuple[int, bytes]] = []
        while part := self.ring.recalled(found[-1][0] if found else start, committed, 3, 200):
            assert len(part) <= 3
            assert len(part) == 1 or sum(len(payload) for _, payload in part) <= 200
            found += part
        assert found == back

    @rule(size=SIZES, jump=st.sampled_from([1, 1, 1, 1, 5]), fill=st.binary(min_size=1, max_size=3))
    def put(self, size: int, jump: int, fill: bytes) -> None:
        payload = (fill * size)[:size]
        if self.ring.put(self.seq + jump, payload):
            self.seq += jump
            self.waiting.append((self.seq, payload))
        else:
            # Only a ring that holds something may refuse.
            assert self.waiting or self.taken or self.ring.room_awaits_sync

    @rule(max_entries=st.integers(1, 6), max_bytes=st.integers(0, 600))
    def take(self, max_entries: int, max_bytes: int) -> None:
        expected: list[tuple[int, bytes]] = []
        while self.waiting and len(expected) < max_entries:
            size = sum(len(payload) for _, payload in expected) + len(self.waiting[0][1])
            if expected and size > max_bytes:
                break
            expected.append(self.waiting.popleft())
        self.taken.extend(expected)
        assert self.ring.take(max_entries, max_bytes) == expected

    @rule()
    def skip(self) -> None:
        expected = self.waiting.popleft() if self.waiting else None
        if expected:
            self.taken.append(expected)
        assert self.ring.skip() == expected

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.release_through(data.draw(st.integers(0, self.seq + 2)))

    @rule(count=st.integers(1, 8), size=st.integers(50, 300))
    def deliver(self, count: int, size: int) -> None:
        """
        What a writer does all day, so that laps go by.
        """
        for _ in range(count):
            self.put(size, 1, b"x")
            self.take(6, 600)
            self.release_through(self.seq)

    def release_through(self, through: int) -> None:
        self.ring.release(through, self.now)
        while self.taken and self.taken[0][0] <= through:
            self.released.append(self.taken.popleft())

    @rule()
    def rewind(self) -> None:
        self.ring.rewind()
        self.waiting.extendleft(reversed(self.taken))
        self.taken.clear()

    @rule()
    def sync(self) -> None:
        self.ring.sync()
        assert self.ring.synced_seq == self.seq

    @rule()
    def succeed(self) -> None:
        self.ring = self.ring.successor()
        assert self.ring.retained_seq == self.ring.committed_seq

    @rule()
    def die_and_recover(self) -> None:
        """
        What an orphan offers is what was not released; a copy of it in a new ring goes on.
        """
        self.ring.abandon()
        (orphan,) = orphans(self.directory, LABEL)
        entries = orphan.take(1000, 1 << 20)
        assert entries[len(entries) - len(self.taken) - len(self.waiting) :] == [*self.taken, *self.waiting]
        assert (orphan.damage, orphan.torn) == (None, None)
        # A header that was stored before the last release may count; then what was released is offered anyway.
        committed = orphan.committed_seq
        start = orphan.recall(0, self.now)
        back = [entry for entry in self.released if start < entry[0] <= committed]
        assert orphan.recalled(start, committed, 1000, 1 << 20) == back
        orphan.release(self.seq)
        orphan.close()
        assert not list(self.directory.iterdir())
        self.ring = RingFile.create(self.directory, label=LABEL, size=8192 + 1024)
        self.waiting, self.taken, self.seq = deque(), deque(), 0
        self.released = []
        self.ring.retain(self.retention)

    @invariant()
    def what_is_retained_was_released(self) -> None:
        assert self.ring.retained_seq <= self.ring.committed_seq

    @invariant()
    def last_seq_agrees(self) -> None:
        assert self.ring.last_seq == self.seq

    @invariant()
    def inspection_agrees(self) -> None:
        (report,) = inspect(self.directory)
        assert report.alive
        assert report.entries >= len(self.taken) + len(self.waiting)
        assert self.seq in {report.last_seq or self.seq, self.seq}

    def teardown(self) -> None:
        self.ring.abandon()
        self.folder.cleanup()


class TestRingAgrees(RingAgrees.TestCase):
    settings = settings(max_examples=40, stateful_step_count=50)
