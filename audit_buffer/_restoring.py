"""
When the database has lost rows that it had committed: a failover to a standby that was behind, a restored backup.

What was acknowledged is a prefix, too. So the position tells: if it lies before what was acknowledged, the rows behind it are
gone. Those that the ring still retains are sent again, in order, before anything else; what it does not is an `IntegrityAlarm` that
names the range, and a gap row with the policy "lost" stands in its place.

Taken back from the ring, the entries are unreleased again: nothing overwrites them, and a process that is killed meanwhile
leaves them to the next one. Called by whoever steps the writer.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

import attrs

from audit_buffer._ring import Stored
from audit_buffer._timing import batch_bounds, batch_byte_bounds
from audit_buffer.config import BufferConfig
from audit_buffer.errors import IntegrityAlarm
from audit_buffer.sinks._protocol import Batch


__all__ = ["AdoptedRing", "Loss", "OnLost", "Restoring", "Tail"]

LOST = "lost"


class Tail(Protocol):
    """
    The ring, as far as it is needed here; see `Ring`.
    """

    def recall(self, after: int) -> int: ...

    def recalled(self, after: int, through: int, max_entries: int, max_bytes: int) -> list[Stored]: ...

    def release(self, through: int) -> None: ...


class AdoptedRing(Tail, Protocol):
    """
    What delivering an orphan needs of its ring file; see `RingFile`.
    """

    path: Path
    damage: str | None
    torn: str | None

    @property
    def buffer_id(self) -> UUID: ...

    @property
    def committed_seq(self) -> int: ...

    @property
    def retained_seq(self) -> int: ...

    def take(self, max_entries: int, max_bytes: int) -> list[Stored]: ...

    def set_aside(self, reason: str) -> Path: ...

    def close(self) -> None: ...


@attrs.frozen(kw_only=True)
class Loss:
    """
    Rows that the database had and has no more.

    Attributes:
        buffer_id: Whose rows.
        first_seq: The first of them.
        last_seq: The last of them.
        kept_after: The ring has what lies behind this seq, which is sent again.
    """

    buffer_id: UUID
    first_seq: int
    last_seq: int
    kept_after: int

    def alarm(self) -> IntegrityAlarm | None:
        """
        Return the alarm about what nobody has any more, or None when all can be sent again.
        """
        if self.kept_after < self.first_seq:
            return None
        return IntegrityAlarm(
            f"the database has lost what it had committed of buffer {self.buffer_id.hex}, and the ring does not retain seq "
            f"{self.first_seq} to {self.kept_after} any more; see retain_seconds and retain_bytes",
            buffer_id=self.buffer_id,
            first_seq=self.first_seq,
            last_seq=self.kept_after,
        )


OnLost = Callable[[Loss], object]


class Restoring:
    """
    Brings back what one buffer's rows have lost.

    Args:
        tail: The ring.
        config: How much one transaction takes.
        on_lost: Told of each loss once.
        may_be_new: Whether a ring may have been begun, after an alarm, for a buffer_id that has not written anything yet. Then it
            is no loss that the database has nothing of it, if the ring retains nothing either.
    """

    def __init__(
        self, tail: Tail, config: BufferConfig, on_lost: OnLost, *, may_be_new: bool = False
    ) -> None:
        self._tail = tail
        self._config = config
        self._on_lost = on_lost
        self._may_be_new = may_be_new
        self._through = 0  # what lies before is brought back; 0 when there is nothing to do
        self._hole = 0  # through here nobody has it
        self._told = (0, 0)

    def kept(self, floor: int, position: int, batch: Batch) -> Iterator[Batch]:
        """
        Yield what comes before *batch* and the ring still has, behind *floor* and through *position*, in parts as large as one
        transaction.

        It is taken back from the ring for that; `let_go()` gives it up again.
        """
        through, after = min(position, batch.after), max(self._tail.recall(0), floor)
        while entries := self._recalled(after, through):
            yield attrs.evolve(batch, after=after, through=entries[-1][0], stored=entries)
            after = entries[-1][0]

    def newest(self, floor: int, position: int, batch: Batch) -> Batch:
        """
        Return the end of what `kept()` has, enough to hold the last transaction; a batch of nothing at *position* when it has none.
        """
        parts = deque(self.kept(floor, position, batch), maxlen=2)
        if not parts:
            return attrs.evolve(batch, after=position, through=position, stored=[])
        stored = [entry for part in parts for entry in part.stored]
        return attrs.evolve(parts[0], through=parts[-1].through, stored=stored)

    def let_go(self, position: int, batch: Batch) -> None:
        """
        Give up what `kept()` took back: the database has it.
        """
        self._tail.release(min(position, batch.after))

    def begin(self, position: int, batch: Batch) -> None:
        """
        Take back what is gone: all that comes after *position* and before *batch*.
        """
        kept_after = min(self._tail.recall(position), batch.after)
        if self._may_be_new and position == 0 and kept_after == batch.after:
            return
        self._through, self._hole = batch.after, kept_after
        first, through = self._told
        if batch.after > through or position + 1 < first:
            self._told = (position + 1, batch.after)
            self._on_lost(
                Loss(
                    buffer_id=batch.buffer_id,
                    first_seq=position + 1,
                    last_seq=batch.after,
                    kept_after=kept_after,
                )
            )

    def piece(self, position: int, batch: Batch) -> Batch | None:
        """
        Return what comes after *position* and before *batch*, as much as one transaction takes; None when nothing is to be
        brought back.
        """
        if position >= self._through:
            return None
        if position < self._hole:
            return attrs.evolve(batch, after=position, through=self._hole, stored=[], policy=LOST)
        entries = self._recalled(position, self._through)
        # Nothing is left but seqs that were dropped on purpose.
        through = entries[-1][0] if entries else self._through
        return attrs.evolve(batch, after=position, through=through, stored=entries)

    def written(self, through: int) -> None:
        """
        Note that the database has everything through *through* again.
        """
        self._tail.release(through)

    def _recalled(self, after: int, through: int) -> list[Stored]:
        _, most = batch_bounds(self._config.batch_size, sys.maxsize)
        most_bytes, _ = batch_byte_bounds(self._config.batch_max_bytes, sys.maxsize)
        return self._tail.recalled(after, through, most, most_bytes)
