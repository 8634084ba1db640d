"""
What stays of acknowledged entries, in case a failover takes their rows back: the marks of the retained tail.

Pure: no clock, no I/O, no lock. A mark is a place in the ring with the time at which everything before it was released. Marks
stand some KiB apart, so that a large tail costs little memory; entries are given up from mark to mark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import attrs


__all__ = ["Kept", "Retention"]

# Bytes between two marks at least, but for the last one of each release.
_DISTANCE = 4096


@attrs.frozen
class Retention:
    """
    How long acknowledged entries stay. With both bounds the one that is reached first counts.

    Attributes:
        seconds: 0.0 means no such bound.
        size: Bytes; 0 means no such bound.
    """

    seconds: float = 0.0
    size: int = 0

    def __bool__(self) -> bool:
        return self.seconds > 0 or self.size > 0

    def outlived(self, released: float, now: float) -> bool:
        """
        Tell whether what was released at *released* is too old at *now*.
        """
        return self.seconds > 0 and now - released > self.seconds


class Kept:
    """
    Where the retained tail begins, and where it may begin next.

    Args:
        start: Seq in front of the oldest entry that is kept, and the position at which that one starts.

    Attributes:
        retention: What is kept; nothing at first.
        start: As above; it only grows.
    """

    def __init__(self, start: tuple[int, int]) -> None:
        self.retention = Retention()
        self.start = start
        self._marks: deque[tuple[int, int, float]] = deque()

    def add(self, places: Iterable[tuple[int, int]], now: float) -> None:
        """
        Keep what was released just now, *places* being seq and position behind each entry, and let go of what is too much.
        """
        *inner, last = places
        if not self.retention:
            self._marks.clear()
            self.start = last
            return
        before = self._marks[-1][1] if self._marks else self.start[1]
        for seq, position in inner:
            if position - before >= _DISTANCE:
                before = position
                self._marks.append((seq, position, now))
        self._marks.append((*last, now))
        self.trim(last[1], now)

    def trim(self, end: int, now: float) -> None:
        """
        Let go of what is older, or more, than is to be kept; *end* is the position behind the newest of it.
        """
        keep = self.retention
        while self._marks and (
            keep.outlived(self._marks[0][2], now) or (keep.size and end - self.start[1] > keep.size)
        ):
            self.give_up()

    def give_up(self) -> bool:
        """
        Let go of the oldest part; tell whether there was one.
        """
        if not self._marks:
            return False
        self.start = self._marks[0][
            :2
        ]  # first: interrupted between the two, the next call finds the mark again
        self._marks.popleft()
        return True

    def take_back(self, after: int) -> None:
        """
        Forget the marks behind seq *after*: what lies there is unreleased again.
        """
        while self._marks and self._marks[-1][0] > after:
            self._marks.pop()
