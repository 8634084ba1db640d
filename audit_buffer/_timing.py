"""
Time and the decisions that depend on it, as pure functions of numbers.

Nothing here knows a thread or a lock, so every rule is tested without either. Ages and deadlines come
from a monotonic clock; wall time only labels entries and never decides anything.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable, Iterator
from threading import Condition
from typing import Protocol


__all__ = [
    "USUAL_BATCH",
    "USUAL_BATCH_BYTES",
    "Clock",
    "Deadline",
    "FlushReason",
    "Growth",
    "SystemClock",
    "batch_bounds",
    "batch_byte_bounds",
    "flush_reason",
    "retry_delays",
    "time_until_flush",
]


# Entries, where the user has not said otherwise: so many start a batch, and a batch of a backlog has at most so many.
USUAL_BATCH = 512
_LARGEST_BATCH = 4096
# The same in encoded bytes.
USUAL_BATCH_BYTES = 1024 * 1024
_LARGEST_BATCH_BYTES = 4 * USUAL_BATCH_BYTES
_LARGEST_GROWTH = 8
# Seconds below which a batch was quick, and above which it was slow, if it had at least such a fraction of what it could have.
_QUICK_SECONDS = 0.1
_SLOW_SECONDS = 0.25
_TELLING_FRACTION = 0.5


class Clock(Protocol):
    """
    The three ways in which this library meets time; `audit_buffer.testing.FakeClock` is the other one.
    """

    def time_ns(self) -> int:
        """
        Return nanoseconds since the epoch, UTC; it labels entries.
        """
        ...

    def monotonic(self) -> float:
        """
        Return seconds that only grow; ages and deadlines are made of these.
        """
        ...

    def wait(self, condition: Condition, timeout: float | None) -> None:
        """
        Wait for *condition*, whose lock is held, for at most *timeout* seconds.
        """
        ...


class SystemClock:
    """
    The clock of the operating system.
    """

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def wait(condition: Condition, timeout: float | None) -> None:
        condition.wait(timeout)


class Deadline:
    """
    One moment on the monotonic clock that a whole call keeps, however many waits it is made of.
    """

    def __init__(self, clock: Clock, timeout: float | None) -> None:
        self._clock = clock
        self.timeout = timeout
        self._at = None if timeout is None else clock.monotonic() + timeout

    def remaining(self) -> float | None:
        """
        Return the seconds left, never below zero, or None when there is no deadline.
        """
        if self._at is None:
            return None
        return max(0.0, self._at - self._clock.monotonic())

    def passed(self) -> bool:
        """
        Tell whether the moment has come.
        """
        return self.remaining() == 0.0


class FlushReason(enum.Enum):
    """
    Why a batch is written now.
    """

    SIZE = "batch_size"
    BYTES = "batch_max_bytes"
    AGE = "flush_interval"
    FLUSH = "flush"
    CLOSE = "close"


def batch_bounds(batch_size: int | None, capacity: int) -> tuple[int, int]:
    """
    Return how many waiting entries start a batch, and how many of a backlog one batch has at most.

    Both are *batch_size* where the user gave one. Otherwise a backlog is taken in larger batches, because a transaction
    costs a round trip, a sync, and beside a busy thread some turns of the GIL, however many rows it has.

    No batch has more than half of the room, so that a policy finds something to drop. One that grew by itself has at most a
    quarter, so that who waits for room does not wait for all of the backlog.

    Args:
        batch_size: As configured; None means that the batch may grow.
        capacity: Entries that the ring may hold.
    """
    most = max(1, capacity // 2)
    if batch_size is not None:
        return min(batch_size, most), min(batch_size, most)
    usual = min(USUAL_BATCH, most)
    return usual, max(usual, min(_LARGEST_BATCH, capacity // 4))


def batch_byte_bounds(batch_max_bytes: int | None, capacity: int) -> tuple[int, int]:
    """
    Return how many waiting bytes start a batch, and how many of a backlog one batch has at most, but for an entry that is larger.

    As with `batch_bounds()`, but that a bound which was given stays as it is, whatever the room; it is never less than one entry.

    Args:
        batch_max_bytes: As configured; None means that the batch may grow.
        capacity: Encoded bytes that the ring may hold.
    """
    if batch_max_bytes is not None:
        return batch_max_bytes, batch_max_bytes
    return USUAL_BATCH_BYTES, max(USUAL_BATCH_BYTES, min(_LARGEST_BATCH_BYTES, capacity // 4))


class Growth:
    """
    How many times the usual size the next batch of a backlog may have: twice as many as the last one if that was quick, half if it was slow.

    A batch gives its room back all at once. So it may be large only where that does not take long: whoever waits for room has a
    deadline, and so has a statement. One thread at a time.
    """

    def __init__(self) -> None:
        self.factor = 1

    def committed(self, seconds: float, fullness: float) -> None:
        """
        Note how long a batch took, and what fraction it was of the largest that it could have been.
        """
        if seconds > _SLOW_SECONDS:
            self.factor = max(1, self.factor // 2)
        elif seconds < _QUICK_SECONDS and fullness >= _TELLING_FRACTION:
            self.factor = min(self.factor * 2, _LARGEST_GROWTH)


def flush_reason(
    *,
    pending: int,
    pending_bytes: int,
    age: float,
    flushing: bool,
    closing: bool,
    batch_size: int,
    batch_max_bytes: int,
    flush_interval: float,
) -> FlushReason | None:
    """
    Tell why a batch must be written now, or None when the entries may wait.

    Args:
        pending: Entries not taken yet.
        pending_bytes: Their encoded size.
        age: Seconds the oldest of them has waited.
        flushing: Somebody waits behind a barrier that covers the oldest of them.
        closing: The buffer takes no more entries.
        batch_size: Threshold in entries.
        batch_max_bytes: Threshold in bytes.
        flush_interval: Threshold in seconds.
    """
    if pending == 0:
        return None
    if pending >= batch_size:
        return FlushReason.SIZE
    if pending_bytes >= batch_max_bytes:
        return FlushReason.BYTES
    if closing:
        return FlushReason.CLOSE
    if flushing:
        return FlushReason.FLUSH
    if age >= flush_interval:
        return FlushReason.AGE
    return None


def time_until_flush(*, pending: int, age: float, flush_interval: float) -> float | None:
    """
    Return the seconds after which the oldest entry has waited long enough; None, for ever, when there is none.
    """
    return max(0.0, flush_interval - age) if pending else None


def retry_delays(
    initial: float, maximum: float, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """
    Yield the pauses between attempts in seconds: exponential backoff with full jitter, without end.

    With ``initial=0.1`` and ``maximum=5`` the pauses are drawn from 0 to 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, …

    Full jitter, so that writers that lost the same database do not return to it in step; see "Exponential
    Backoff And Jitter" in the AWS Architecture Blog.
    """
    ceiling = initial
    while True:
        yield uniform(0.0, min(ceiling, maximum))
        ceiling = min(ceiling * 2, maximum)
