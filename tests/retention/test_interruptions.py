"""
An exception between any two instructions of what the retained tail adds leaves the ring consistent (HAZARD 7).

The call is made again, as the writer does, and then everything is as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audit_buffer._kept import Retention
from audit_buffer._mapped_ring import MappedRing
from audit_buffer._ring import MemoryRing
from tests.ring.opcodes import at_opcode
from tests.ring.rings import find
from tests.ring.test_interruptions import Interruption, interrupt, prepared


Ring = MemoryRing | MappedRing

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def mapped() -> MappedRing:
    ring, last = prepared(0, 60)
    ring.release(2)
    ring.take(10, 1 << 20)
    ring.release(last)
    return ring


def memory() -> MemoryRing:
    ring = MemoryRing()
    for seq in range(1, 4):
        ring.put(seq, bytes([seq]) * 60)
    ring.take(10, 1 << 20)
    ring.release(3)
    return ring


def with_tail(make: Callable[[], Ring], *, released: int) -> Ring:
    """
    A ring whose entries 4 to *released* are retained, and of which those up to 9 are taken.
    """
    ring = make()
    ring.retain(Retention(seconds=1e9))
    for seq in range(4, 10):
        assert ring.put(seq, bytes([seq]) * 60)
    ring.take(10, 1 << 20)
    ring.release(released)
    return ring


def everywhere(
    start: Callable[[], Ring], operation: Callable[[Ring], object], check: Callable[[Ring], None]
) -> int:
    k = 0
    while True:
        k += 1
        ring = start()
        try:
            with at_opcode(k, interrupt) as counter:
                operation(ring)
        except Interruption:
            operation(ring)
            check(ring)
            continue
        check(ring)
        if counter.executed < k:
            return k


KINDS = pytest.mark.parametrize("make", [mapped, memory], ids=["mapped", "memory"])


def seqs(ring: Ring, after: int, through: int) -> list[int]:
    return [seq for seq, _ in ring.recalled(after, through, 100, 1 << 20)]


@KINDS
def test_a_release_that_retains(make: Callable[[], Ring]) -> None:
    """
    What was released stays readable, once.
    """

    def check(ring: Ring) -> None:
        assert ring.recall(3) == 3
        assert seqs(ring, 3, 9) == [4, 5, 6, 7, 8, 9]

    assert everywhere(lambda: with_tail(make, released=5), lambda ring: ring.release(8), check) > 50


@KINDS
def test_a_recall(make: Callable[[], Ring]) -> None:
    """
    What was taken back is there once, and released in parts it moves what is committed forward only.
    """

    def check(ring: Ring) -> None:
        assert seqs(ring, 5, 7) == [6, 7]
        for through in range(6, 10):
            ring.release(through)
            if isinstance(ring, MappedRing):
                assert ring.committed_seq == through
                assert find(bytes(ring._map[:])).header.committed_seq == through
        assert ring.recall(5) == 5
        assert seqs(ring, 5, 9) == [6, 7, 8, 9]

    assert everywhere(lambda: with_tail(make, released=7), lambda ring: ring.recall(5), check) > 50


def test_a_put_that_takes_the_room_of_the_tail() -> None:
    """
    The entry is whole or not at all, and what is said to be retained is.
    """

    def start() -> MappedRing:
        ring = with_tail(mapped, released=9)
        assert isinstance(ring, MappedRing)
        ring.put(10, bytes(60))
        return ring

    def put(ring: Ring) -> None:
        if isinstance(ring, MappedRing) and ring.last_seq < 11:
            assert ring.put(11, bytes(400))

    def check(ring: Ring) -> None:
        start = ring.recall(0)
        assert 3 <= start <= 9
        assert seqs(ring, start, 9) == list(range(start + 1, 10))
        assert [seq for seq, _ in ring.take(10, 1 << 20)] == [10, 11]

    assert everywhere(start, put, check) > 50


@KINDS
def test_the_tail_that_is_let_go_of(make: Callable[[], Ring]) -> None:
    """
    What is too old goes, and is said to be gone.
    """

    def start() -> Ring:
        ring = with_tail(make, released=6)
        ring.release(9, 100.0)
        ring.retain(Retention(seconds=10.0))
        return ring

    def check(ring: Ring) -> None:
        assert seqs(ring, 6, 9) == [7, 8, 9]

    everywhere(start, lambda ring: ring.recall(2, 105.0), check)
