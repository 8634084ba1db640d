"""
The numbers of one buffer, and what follows from them. No lock, no clock, no I/O: the channel calls it under its lock.

Invariants:
    * 0 ≤ committed ≤ taken ≤ published, and none of them ever falls.
    * A dropped seq gives its room back at once. So published - committed_floor is how many entries take up room,
      and published - taken_floor how many the writer has not taken.
    * Bytes are counted from the start of the buffer, so that `publish()` compares sums and never subtracts.
"""

from __future__ import annotations

import sys

from audit_buffer._gaps import Gaps
from audit_buffer._ring import Ring
from audit_buffer._state import State, Taken
from audit_buffer._timing import FlushReason, Growth, batch_bounds, batch_byte_bounds, flush_reason
from audit_buffer.config import BufferConfig


__all__ = ["NEVER", "Ledger"]

# A seq that no buffer reaches.
NEVER = sys.maxsize

_NEARLY_FULL = 0.8
_ROOMY_AGAIN = 0.5


class Ledger:
    """
    Sequences, bytes, ages and gaps.
    """

    def __init__(self, config: BufferConfig) -> None:
        self._config = config
        self.max_entries = config.queue_maxsize or NEVER
        self.max_bytes = config.queue_max_bytes or NEVER
        self.batch_size, self._largest_batch = batch_bounds(config.batch_size, self.max_entries)
        self.batch_max_bytes, self._largest_batch_bytes = batch_byte_bounds(
            config.batch_max_bytes, self.max_bytes
        )
        self.growth = Growth()
        self.capacity = self.max_entries  # 0 unless the buffer is open
        self.published = 0
        self.synced = 0
        self.committed = 0
        self.committed_floor = 0
        self.taken = 0
        self.taken_floor = 0
        self.skipped = 0  # the last entry that was taken only to be dropped
        self.stored_bytes = 0
        self.taken_bytes = 0
        self.released_bytes = 0
        self.flush_through = 0
        self.gaps = Gaps()
        self.dropped = 0
        self.in_hand: Taken | None = None
        # When the oldest entry in hand, and the oldest not taken, were published, or a little earlier.
        self.in_hand_since = 0.0
        self.oldest_since: float | None = None
        # When the sleeping writer was last woken by an entry that crossed a threshold.
        self.called_at = 0.0
        self.nearly_full = False

    # Room -------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """
        Return how many entries take up room.
        """
        return self.published - self.committed_floor

    @property
    def pending_bytes(self) -> int:
        """
        Return their encoded size.
        """
        return self.stored_bytes - self.released_bytes

    def has_room(self, size: int) -> bool:
        """
        Tell whether an entry of *size* bytes is within the bounds.
        """
        return self.pending < self.capacity and self.pending_bytes + size <= self.max_bytes

    def becomes_nearly_full(self) -> bool:
        """
        Tell, once until there is room again, that four fifths of the room are taken.
        """
        if self.nearly_full or self._fraction_full() < _NEARLY_FULL:
            return False
        self.nearly_full = True
        return True

    def attention_at(self, seq: int, stored_bytes: int) -> tuple[int, int]:
        """
        Return where `publish()` must next pay attention: at *seq*, at *stored_bytes*, or where the ring is nearly full.
        """
        if self.nearly_full:
            return seq, stored_bytes
        return (
            min(seq, self.committed_floor + (self.max_entries * 4 + 4) // 5),
            min(stored_bytes, self.released_bytes + (self.max_bytes * 4 + 4) // 5),
        )

    def _fraction_full(self) -> float:
        return max(self.pending / self.max_entries, self.pending_bytes / self.max_bytes)

    # Entries on their way ---------------------------------------------------------------------------------------

    def drop(self, seq: int) -> None:
        """
        Count *seq* as dropped; a new one is used up by that.
        """
        # No call before the last line: whatever interrupts this finds all of it done, or nothing.
        if seq > self.published:  # noqa: PLR1730  (max() would be a call)
            self.published = seq
        self.committed_floor += 1
        self.taken_floor += 1
        self.dropped += 1
        self.gaps.add(seq)

    def skip(self, seq: int, size: int) -> None:
        """
        Count the stored entry *seq* of *size* bytes as dropped.
        """
        self.skipped = seq
        self.drop(seq)
        self.taken_bytes += size
        self.released_bytes += size

    def waiting(self) -> int:
        """
        Return how many entries the writer has not taken; 1 when only gap rows are left to write.
        """
        return self.published - self.taken_floor or min(1, len(self.gaps))

    def age(self, now: float) -> float:
        """
        Return the seconds that the oldest entry not taken has waited; 0.0 when there is none.
        """
        if not self.waiting():
            return 0.0
        if self.oldest_since is None:
            self.oldest_since = now
        return now - self.oldest_since

    def oldest_age(self, now: float) -> float:
        """
        Return the seconds that the oldest entry not committed has waited; 0.0 when there is none.
        """
        return now - self.in_hand_since if self.in_hand is not None else self.age(now)

    def reason(self, state: State, now: float) -> FlushReason | None:
        """
        Tell why a batch must be taken now, or None.
        """
        return flush_reason(
            pending=self.waiting(),
            pending_bytes=self.stored_bytes - self.taken_bytes,
            age=self.age(now),
            flushing=self.flush_through > self.taken,
            closing=state is State.CLOSING,
            batch_size=self.batch_size,
            batch_max_bytes=self.batch_max_bytes,
            flush_interval=self._config.flush_interval,
        )

    def take(self, ring: Ring, reason: FlushReason, now: float) -> Taken:
        """
        Take the next batch out of *ring* and have it in hand; wherever an exception cuts this off, all of that or nothing.
        """
        # Read before: a finalizer may record while this goes on.
        published, stored_bytes, floor = self.published, self.stored_bytes, None
        try:
            taken = self._next_batch(ring, reason, published)
            count, through = len(taken.entries), taken.through
            since = now if self.oldest_since is None else self.oldest_since
            # No call from here until the batch is in hand: a finalizer could drop an entry in between.
            # The numbers of an empty ring are known; this mends what an exception in the middle of a drop left.
            size = self.taken_bytes + taken.size if count else stored_bytes
            floor = self.taken_floor + count if count else published
            self.in_hand_since = since
            self.taken_bytes = size
            self.taken_floor = floor
            self.taken = through
            self.in_hand = taken
            self.gaps.forget(through)
        except BaseException:
            if floor is None:
                ring.rewind(max(self.taken, self.skipped))
                raise
            if self.in_hand is None:
                self.in_hand_since, self.taken_bytes, self.taken_floor = since, size, floor
                self.taken, self.in_hand = through, taken
            self.gaps.forget(through)
            raise
        # What is left came after the writer was called, if it slept, or else somewhere after the batch's oldest entry.
        self.oldest_since = max(self.in_hand_since, self.called_at) if self.waiting() else None
        return taken

    def _next_batch(self, ring: Ring, reason: FlushReason, published: int) -> Taken:
        entries = ring.take(*self._bounds())
        # What was dropped right behind the last entry belongs to this batch, too. An empty ring means that all is dropped.
        through = self.gaps.reach(entries[-1][0] if entries else published)
        size = sum(len(payload) for _, payload in entries)
        return Taken(after=self.taken, through=through, entries=entries, size=size, reason=reason)

    def _bounds(self) -> tuple[int, int]:
        """
        Return how many entries and bytes the next batch may have.
        """
        factor = self.growth.factor
        return (
            min(self.batch_size * factor, self._largest_batch),
            min(self.batch_max_bytes * factor, self._largest_batch_bytes),
        )

    def commit(self, taken: Taken, seconds: float) -> None:
        """
        Give the room of a batch back, which took so many *seconds* to write.
        """
        most, most_bytes = self._bounds()
        self.growth.committed(seconds, max(len(taken.entries) / most, taken.size / most_bytes))
        self.committed = taken.through
        self.synced = max(self.synced, taken.through)  # the database keeps it, whatever becomes of the ring
        if not self.waiting():  # mends what an exception in the middle of a drop left
            self.taken_bytes = self.stored_bytes
        # With nothing in hand, what takes up room is what is not taken.
        self.committed_floor = self.taken_floor
        self.released_bytes = self.taken_bytes
        self.in_hand = None
        if self.nearly_full and self._fraction_full() < _ROOMY_AGAIN:
            self.nearly_full = False
