"""
Following a table that several writers append to.

Row ids are given out before a COMMIT, so a row with a smaller id can appear after one with a larger id. A follower that asks
only for what lies behind the largest id it saw would miss it; this one looks again at what is near, for a while.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from audit_buffer.entry import AuditEntry


__all__ = ["Follower"]

# Ids below the newest, and seconds after it was seen, in which rows may still turn up.
OVERLAP = 2000
SETTLED = 5.0
_PAGE = 500

Fetch = Callable[[int, "int | None"], list[AuditEntry]]


class Follower:
    """
    Finds the entries that are new since the last look.

    Args:
        fetch: Called with a limit and an id: the last entries if that is None, else the first entries behind it.
        newest: The largest row id in the table before anything was fetched.
        clock: Monotonic seconds.
    """

    def __init__(self, fetch: Fetch, newest: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._newest = newest
        # Up to here nothing new will turn up; above it, what was seen.
        self._settled = max(0, newest - OVERLAP)
        self._seen: set[int] = set()
        self._marks: deque[tuple[float, int]] = deque([(clock(), newest)])

    def last(self, count: int) -> list[AuditEntry]:
        """
        Return the last *count* entries that are there already.
        """
        entries = self._fetch(max(count, OVERLAP), None)
        self._note(entries)
        return entries[-count:] if count else []

    def fresh(self) -> Iterator[list[AuditEntry]]:
        """
        Yield the entries that turned up since the last look, in pages.
        """
        now = self._clock()
        self._settle(now)
        after, more = self._settled, True
        while more:
            entries = self._fetch(_PAGE, after)
            more = len(entries) == _PAGE
            new = [entry for entry in entries if entry.id not in self._seen]
            after = max((entry.id or 0 for entry in entries), default=after)
            self._note(entries)
            if new:
                yield new
        self._marks.append((now, self._newest))

    def _note(self, entries: list[AuditEntry]) -> None:
        self._seen.update(entry.id or 0 for entry in entries)
        self._newest = max([self._newest, *(entry.id or 0 for entry in entries)])

    def _settle(self, now: float) -> None:
        while self._marks and now - self._marks[0][0] >= SETTLED:
            self._settled = max(self._settled, self._marks.popleft()[1])
        self._settled = max(self._settled, self._newest - OVERLAP)
        self._seen = {seen for seen in self._seen if seen > self._settled}
