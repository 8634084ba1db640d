"""
The rules of retention: how much stays, in memory and in a file, and that new entries come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from audit_buffer import BufferConfig, ConfigError
from audit_buffer._durability import UnopenedRing, place_for
from audit_buffer._kept import Kept, Retention
from audit_buffer._ring import MemoryRing
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import orphans
from tests.ring.rings import LABEL


Ring = MemoryRing | RingFile


@pytest.fixture(params=["memory", "file"])
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ring]:
    """
    A ring of each kind.
    """
    if request.param == "memory":
        yield MemoryRing()
    else:
        made = RingFile.create(tmp_path, label=LABEL, size=8192 + 4096)
        yield made
        made.close()


def commit(ring: Ring, first: int, last: int, now: float = 0.0, size: int = 10) -> None:
    for seq in range(first, last + 1):
        assert ring.put(seq, bytes([seq]) * size)
    ring.take(1000, 1 << 20)
    ring.release(last, now)


def seqs(ring: Ring, after: int, through: int, most: int = 1000, size: int = 1 << 20) -> list[int]:
    return [seq for seq, _ in ring.recalled(after, through, most, size)]


def test_nothing_is_retained_unless_asked(ring: Ring) -> None:
    """
    By default what was released is gone, and the ring says so.
    """
    commit(ring, 1, 5)
    assert ring.recall(2) == 5
    assert seqs(ring, 2, 5) == []


def test_the_age_decides(ring: Ring) -> None:
    """
    What is older than retain_seconds goes, also if nothing was released meanwhile.
    """
    ring.retain(Retention(seconds=5.0))
    commit(ring, 1, 3, now=100.0)
    commit(ring, 4, 6, now=103.0)
    assert ring.recall(6, now=105.0) == 6
    assert ring.recall(0, now=105.5) == 3
    assert seqs(ring, 3, 6) == [4, 5, 6]


def test_the_size_decides(ring: Ring) -> None:
    """
    What is more than retain_bytes goes, the oldest first.
    """
    ring.retain(Retention(size=600))
    for seq in range(1, 51):
        commit(ring, seq, seq, size=100)
    start = ring.recall(0)
    kept = seqs(ring, start, 50)
    assert kept == list(range(start + 1, 51))
    assert 3 <= len(kept) <= 6


def test_what_was_taken_back_is_released_again(ring: Ring) -> None:
    """
    Given back, it is retained as before; only what is behind the position is taken back.
    """
    ring.retain(Retention(seconds=5.0))
    commit(ring, 1, 6, now=1.0)
    assert ring.recall(4, now=2.0) == 4
    assert seqs(ring, 4, 6) == [5, 6]
    ring.release(6, now=3.0)
    assert ring.recall(3, now=4.0) == 3
    assert seqs(ring, 3, 6) == [4, 5, 6]
    ring.release(6, now=4.0)


def test_it_comes_in_parts_and_without_the_batch_in_hand(ring: Ring) -> None:
    """
    Both bounds of a batch hold, one entry comes in any case, and what was not committed yet stays out.
    """
    ring.retain(Retention(seconds=5.0))
    commit(ring, 1, 6)
    ring.put(7, b"in hand")
    ring.take(1, 1)
    assert ring.recall(0) == 0
    assert seqs(ring, 0, 6, most=4) == [1, 2, 3, 4]
    assert seqs(ring, 0, 6, size=25) == [1, 2]
    assert seqs(ring, 2, 6, size=1) == [3]
    assert seqs(ring, 4, 6) == [5, 6]
    assert seqs(ring, 6, 6) == []
    ring.release(7)


def test_new_entries_get_the_room(tmp_path: Path) -> None:
    """
    A full ring gives up what is only retained before it refuses an entry, and no more than is needed.
    """
    ring = RingFile.create(tmp_path, label=LABEL, size=8192 + 4096)
    ring.retain(Retention(seconds=1e9))
    for seq in range(1, 101):
        commit(ring, seq, seq, size=100)
    start = ring.recall(0)
    assert seqs(ring, start, 100) == list(range(start + 1, 101))
    assert 100 - start > 20
    # Taken back, it is nobody's to overwrite.
    stored = 0
    while ring.put(101 + stored, bytes(100)):
        stored += 1
    assert seqs(ring, start, 100) == list(range(start + 1, 101))
    ring.release(100)
    assert ring.put(101 + stored, bytes(100))
    ring.abandon()


def test_a_synced_ring_gives_up_its_tail_for_room_as_well(tmp_path: Path) -> None:
    """
    Room that awaits a sync is made by one, whether it was released or retained.
    """
    ring = RingFile.create(tmp_path, label=LABEL, size=8192 + 4096)
    ring.retain(Retention(seconds=1e9))
    ring.sync()
    for seq in range(1, 101):
        if not ring.has_room(100):
            assert ring.room_awaits_sync
            ring.sync()
        commit(ring, seq, seq, size=100)
    start = ring.recall(0)
    assert 0 < start < 90
    assert seqs(ring, start, 100) == list(range(start + 1, 101))
    ring.abandon()


def test_the_tail_survives_the_process(tmp_path: Path) -> None:
    """
    An orphan starts behind what was committed, and goes back as far as was retained.
    """
    ring = RingFile.create(tmp_path, label=LABEL, size=8192 + 4096)
    ring.retain(Retention(seconds=1e9))
    commit(ring, 1, 5)
    ring.put(6, b"waiting")
    ring.abandon()
    (orphan,) = orphans(tmp_path, LABEL)
    assert (orphan.retained_seq, orphan.committed_seq) == (0, 5)
    assert [seq for seq, _ in orphan.take(10, 1000)] == [6]
    assert orphan.recall(2) == 2
    assert seqs(orphan, 2, 5) == [3, 4, 5]
    # Killed here, the next one begins where the database is.
    orphan.abandon()
    (orphan,) = orphans(tmp_path, LABEL)
    assert orphan.committed_seq == 2
    assert [seq for seq, _ in orphan.take(10, 1000)] == [3, 4, 5, 6]
    orphan.release(6)
    orphan.close()
    assert not list(tmp_path.iterdir())


def test_a_damaged_tail_counts_as_gone(tmp_path: Path) -> None:
    """
    Where the retained entries cannot be read to their end, nobody can tell what is missing: all of it is.
    """
    ring = RingFile.create(tmp_path, label=LABEL, size=8192 + 4096)
    ring.retain(Retention(seconds=1e9))
    commit(ring, 1, 5)
    at = bytes(ring._map).index(bytes([3]) * 10)
    ring._map[at] ^= 1
    assert ring.recall(1) == 5
    assert seqs(ring, 1, 5) == []
    ring.close()


def test_the_ring_of_a_child_retains_nothing_before_it_is_made() -> None:
    """
    A forked child's ring has no tail, and takes no offence at being asked.
    """
    ring = UnopenedRing(MemoryRing, lambda made: None)
    ring.retain(Retention(seconds=1.0))
    ring.release(3, 1.0)
    assert ring.recall(3) == 3
    assert ring.recalled(0, 3, 10, 10) == []


@pytest.mark.parametrize(
    ("overrides", "retention"),
    [
        ({"retain_seconds": 3.0}, Retention(3.0, 32 * 1024 * 1024)),
        ({"retain_seconds": 3.0, "queue_max_bytes": 5000}, Retention(3.0, 5000)),
        ({"retain_bytes": 7000}, Retention(0.0, 7000)),
        ({}, Retention()),
    ],
)
def test_memory_has_a_bound_in_any_case(overrides: dict[str, float], retention: Retention) -> None:
    """
    Where no file bounds it, the tail is at most as large as what may wait.
    """
    config = BufferConfig(durability="memory").evolve(**overrides)
    assert place_for(config, "label", None).retention == retention


def test_a_ring_file_bounds_its_tail_itself(tmp_path: Path) -> None:
    """
    Without retain_bytes a file retains what its room allows.
    """
    config = BufferConfig(ring_dir=tmp_path, retain_seconds=3.0)
    assert place_for(config, "label", None).retention == Retention(3.0, 0)


def test_a_tail_larger_than_half_the_ring_is_refused() -> None:
    """
    It would leave too little for what waits.
    """
    with pytest.raises(ConfigError, match="retain_bytes"):
        BufferConfig(retain_bytes=33 * 1024 * 1024)
    BufferConfig(retain_bytes=33 * 1024 * 1024, durability="memory")


def test_marks_stand_apart() -> None:
    """
    A large release has few marks, so that a tail of many MiB costs little memory; the last one is exact.
    """
    kept = Kept((0, 0))
    kept.retention = Retention(size=100_000)
    kept.add([(seq, seq * 100) for seq in range(1, 501)], now=0.0)
    assert 5 <= len(kept._marks) <= 13
    assert kept._marks[-1] == (500, 50_000, 0.0)
    assert kept.give_up()
    assert kept.start == (41, 4100)
    kept.take_back(250)
    assert kept._marks[-1][0] <= 250


class MemoryAgrees(RuleBasedStateMachine):
    """
    Whatever is done to a ring in memory, it holds what three plain lists would hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ring = MemoryRing()
        self.ring.retain(Retention(seconds=3.0, size=60))
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.taken: deque[tuple[int, bytes]] = deque()
        self.released: list[tuple[int, bytes, float]] = []
        self.seq = 0
        self.now = 0.0

    @rule(size=st.integers(0, 30), jump=st.sampled_from([1, 1, 4]))
    def put(self, size: int, jump: int) -> None:
        self.seq += jump
        assert self.ring.put(self.seq, bytes(size))
        self.waiting.append((self.seq, bytes(size)))

    @rule(most=st.integers(1, 5))
    def take(self, most: int) -> None:
        expected = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        assert self.ring.take(most, 1000) == expected
        self.taken.extend(expected)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        through = data.draw(st.integers(0, self.taken[-1][0]))
        self.ring.release(through, self.now)
        while self.taken and self.taken[0][0] <= through:
            self.released.append((*self.taken.popleft(), self.now))

    @rule(seconds=st.sampled_from([1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        after = data.draw(st.integers(0, self.seq))
        last = self.released[-1][0] if self.released else 0
        start = self.ring.recall(after, self.now)
        back = [(seq, payload) for seq, payload, _ in self.released if seq > start]
        assert self.ring.recalled(start, last, 1000, 1 << 20) == back
        assert start >= after
        self.released = [entry for entry in self.released if entry[0] <= start]
        self.taken.extendleft(reversed(back))

    @invariant()
    def no_more_than_asked_for_is_retained(self) -> None:
        assert self.ring._kept_bytes <= 60
        assert self.ring._kept_bytes == sum(len(payload) for (_, payload), _ in self.ring._kept)


class TestMemoryAgrees(MemoryAgrees.TestCase):
    settings = settings(max_examples=40, stateful_step_count=40)
