"""
Which seqs were dropped on purpose, until the writer takes them to write the gap row that says so.

Pure bookkeeping; the channel calls it under its lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator


__all__ = ["Gaps", "missing"]


class Gaps:
    """
    Dropped seqs that the writer has not taken, as ranges: an outage may drop millions of neighbours.
    """

    def __init__(self) -> None:
        # (first, last), in order, never touching each other.
        self._ranges: list[tuple[int, int]] = []

    def __len__(self) -> int:
        """
        Return the number of ranges.
        """
        return len(self._ranges)

    def add(self, seq: int) -> None:
        """
        Note that *seq* was dropped.
        """
        ranges = self._ranges
        # The usual case first: the seq right behind the last dropped one.
        place = len(ranges) if not ranges or ranges[-1][0] < seq else bisect.bisect(ranges, (seq, seq))
        first = last = seq
        if place and ranges[place - 1][1] == seq - 1:
            place -= 1
            first = ranges.pop(place)[0]
        if place < len(ranges) and ranges[place][0] == seq + 1:
            last = ranges.pop(place)[1]
        ranges.insert(place, (first, last))

    def reach(self, seq: int) -> int:
        """
        Return the last seq that those up to *seq* and those right behind it reach.
        """
        for first, last in self._ranges:
            if first > seq + 1:
                break
            seq = max(seq, last)
        return seq

    def forget(self, through: int) -> None:
        """
        Forget the seqs up to *through*.
        """
        ranges = self._ranges
        while ranges and ranges[0][0] <= through:
            if ranges[0][1] > through:  # it grew meanwhile
                ranges[0] = (through + 1, ranges[0][1])
                return
            del ranges[0]


def missing(after: int, through: int, present: Iterable[int]) -> Iterator[tuple[int, int]]:
    """
    Yield the ranges of seqs in (*after*, *through*] that are not *present*.

    `missing(0, 9, [1, 2, 6, 7])` is ``(3, 5), (8, 9)``.
    """
    expected = after + 1
    for seq in present:
        if seq > expected:
            yield expected, seq - 1
        expected = seq + 1
    if expected <= through:
        yield expected, through
