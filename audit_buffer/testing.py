"""
Doubles for tests, of this library and of applications: a clock that is told the time, and sinks that are told to fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from threading import Condition
from uuid import UUID

from audit_buffer.entry import AuditEntry
from audit_buffer.sinks._protocol import Batch, Gap


__all__ = ["FakeClock", "FlakySink", "MemorySink"]


class FakeClock:
    """
    A clock that moves only when it is told to, or when somebody waits on it: a wait takes its whole timeout at once.

    Single-threaded: a wait without a timeout would be for ever, and says so.
    """

    def __init__(self, monotonic: float = 1000.0, time_ns: int = 1_700_000_000_000_000_000) -> None:
        self._monotonic = monotonic
        self._time_ns = time_ns

    def time_ns(self) -> int:
        """
        Return the wall time in nanoseconds.
        """
        return self._time_ns

    def monotonic(self) -> float:
        """
        Return the monotonic time in seconds.
        """
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """
        Let both times move on.
        """
        self._monotonic += seconds
        self._time_ns += round(seconds * 1e9)

    def step_wall_time(self, seconds: float) -> None:
        """
        Set the wall clock, forwards or backwards, as an administrator or NTP would.
        """
        self._time_ns += round(seconds * 1e9)

    def wait(self, condition: Condition, timeout: float | None) -> None:
        """
        Let *timeout* pass at once.

        Raises:
            AssertionError: There is no timeout, so that nothing would ever end the wait.
        """
        if timeout is None:
            raise AssertionError("a wait without a timeout would never end: the test forgot a step")
        before = self._monotonic
        self.advance(timeout)
        # Rounding must not stop the clock: what waits for a remainder too small to add would wait for ever.
        self._monotonic = max(self._monotonic, math.nextafter(before, math.inf))


class MemorySink:
    """
    A sink that keeps entries and gaps in lists, exactly once.
    """

    position_is_stored = True

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._positions: dict[UUID, int] = {}
        self.opened = 0
        self.closed = 0

    @property
    def entries(self) -> list[AuditEntry]:
        """
        Return everything written, in order.
        """
        return [entry for batch in self.batches for entry in batch.entries()]

    @property
    def gaps(self) -> list[Gap]:
        """
        Return every gap, in order.
        """
        return [gap for batch in self.batches for gap in batch.gaps]

    @property
    def seqs(self) -> list[int]:
        """
        Return the seq of every entry, in order.
        """
        return [seq for batch in self.batches for seq, _ in batch.stored]

    def open(self) -> None:
        """
        Count the call.
        """
        self.opened += 1

    def position(self, buffer_id: UUID) -> int:
        """
        Return the last seq written.
        """
        return self._positions.get(buffer_id, 0)

    def lose(self, buffer_id: UUID, position: int) -> None:
        """
        Forget what is behind seq *position*, as a failover does. The buffer notices when the next attempt has failed.
        """
        self._positions[buffer_id] = position
        self.batches = [
            batch.until(min(position, batch.through)) if batch.buffer_id == buffer_id else batch
            for batch in self.batches
            if batch.buffer_id != buffer_id or batch.after < position
        ]

    def write(self, batch: Batch) -> None:
        """
        Keep *batch*; refuse one that does not follow the last.
        """
        if batch.after != self.position(batch.buffer_id):
            raise AssertionError(
                f"a batch after {batch.after} does not follow {self.position(batch.buffer_id)}"
            )
        self.batches.append(batch)
        self._positions[batch.buffer_id] = batch.through

    def close(self) -> None:
        """
        Count the call.
        """
        self.closed += 1


class FlakySink(MemorySink):
    """
    A `MemorySink` that fails as scripted.

    Args:
        script: One item per call of `write()`: None succeeds, an exception is raised before anything is stored, and
            a pair ``(exception,)`` is raised after the batch was stored, as when the answer to a COMMIT is lost. When
            the script is used up, calls succeed.
    """

    def __init__(self, script: Iterable[Exception | tuple[Exception] | None] = ()) -> None:
        super().__init__()
        self.script = list(script)

    def write(self, batch: Batch) -> None:
        """
        Do what the script says.
        """
        outcome = self.script.pop(0) if self.script else None
        if isinstance(outcome, Exception):
            raise outcome
        super().write(batch)
        if outcome is not None:
            raise outcome[0]
