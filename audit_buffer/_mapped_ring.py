"""
The writing half of a ring in memory: where entries go, what may be overwritten, what is found after an interruption.

Guarantees:
    * The commit word is the truth. `put()` stores the payload, then the 16-byte header in one store; with that store, and
      not before, the entry exists: for this process, for `last_seq`, and for whoever recovers the bytes. An exception or
      a kill before it leaves the ring as it was, and the next `put()` uses the same place.
    * Every Python attribute only follows the mapping. A `put()` that is interrupted between its last store and its
      return is found again by `last_seq` and by the next `put()`, which first look behind the last known entry.
      (CPython delivers signals and switches threads at calls and backward jumps only. Between the store and the
      `return` there are none, so that in fact only a tracer interrupts there.)
    * Nothing unreleased is overwritten. Room is used again only when *both* headers vouch that it was released; once the
      ring is synced, only when both did so on the disk. So the loss of one header, or of all that was not
      synced, moves recovery back in time, never into overwritten room.

Assumptions:
    * Not thread-safe: the channel calls everything under its lock.
    * Only this object changes the bytes.
"""

from __future__ import annotations

from mmap import mmap
from pathlib import Path
from uuid import UUID

from . import _ring_disk as disk
from ._frame import HEADER_BYTES, KIND_OFFSET, LENGTH_LIMIT, PAD, footprint, scan, seal, store_payload
from ._ring import Payload
from ._ring_reader import RingReader
from .errors import RingCorrupt, RingError


__all__ = ["MappedRing"]

# Bytes behind the last entry whose pages are to be in memory: what a thread that does nothing but record fills in some milliseconds.
_AHEAD = 1024 * 1024
# So many more of them are worth a call of the system.
_WORTH_A_CALL = 64 * 1024


class MappedRing(RingReader):
    """
    The part of `RingFile` that only touches memory.

    Attributes:
        max_payload: The largest entry, in bytes, that every empty ring has room for; half of it.
    """

    def __init__(self, path: Path, mapping: mmap, *, adopted_in: UUID | None = None) -> None:
        super().__init__(path, mapping, adopted_in=adopted_in)
        self.max_payload = min(self._layout.capacity // 2 - HEADER_BYTES, LENGTH_LIMIT)
        self._durable = False
        self._prepared = self._end  # up to where `_prepare()` has been
        # An entry must end here or before, so that the empty header behind it has room too. 0: ask _put_slow().
        self._full = 0
        self._turn_lap()
        self._open_room()

    @property
    def last_seq(self) -> int:
        """
        Seq of the last committed entry, as the mapping has it; 0 before the first.

        After an interrupted `put(seq, …)` it is *seq* exactly when the entry exists. In an adopted ring it is
        right once `take()` has met the end.
        """
        self._settle()
        return self._last_seq

    # Another process can deliver what this one leaves.
    survives_exit = True

    def has_room(self, size: int) -> bool:
        """
        Tell whether `put()` would take an entry of *size* bytes now.
        """
        self._settle()
        need = footprint(size)
        if not self._has_room(need):
            self._reclaim(need)
        return self._has_room(need)

    def fits(self, count: int, size: int) -> bool:
        """
        Tell whether so many entries of *size* bytes in all have room; changes nothing, for whoever interrupts `put()`.
        """
        # As if they were one, which takes no less: what does not fit into this lap is counted from the next one on.
        return self._end_of(size + count * footprint(1)) <= self._full

    @property
    def room_awaits_sync(self) -> bool:
        """
        Whether released room can be used again only after the next `sync()`.

        When `put()` returned False, a `sync()` then makes room without waiting for the database.
        """
        return self._durable and self._full < self._limit(self._kept.start[1])

    @property
    def usage(self) -> tuple[int, int]:
        """
        Bytes that unreleased entries take up with all that surrounds them, and bytes that there are; from any thread.
        """
        return max(0, self._end - self._committed[1]), self._layout.capacity

    def put(self, seq: int, payload: Payload) -> bool:
        """
        Store *payload* as entry *seq*; return False, and store nothing, when there is no room.

        After an exception of another kind, ask for `last_seq` before the next call.

        Raises:
            RingError: *seq* does not grow, the ring is closed or adopted, or *payload* is larger than `max_payload` (one that
                fits in front of the lap's end may be taken all the same).
        """
        start = self._end
        end = start + (len(payload) + 31 & -16)  # as footprint(), which would be a call
        if end > self._quiet_until or seq <= self._last_seq:
            return self._put_slow(seq, payload)
        shift, seed, _ = self._lap
        at = start - shift
        mapping = self._map
        header = store_payload(mapping, at, end - shift, seq, payload, seed)
        mapping[at : at + HEADER_BYTES] = header
        # The entry exists. _end goes last, because _settle() starts from it.
        self._last_seq = seq
        self._end = end
        return True

    def _put_slow(self, seq: int, payload: Payload) -> bool:
        """
        As `put()`, for a full ring, the end of a lap, after an interruption, and for what must be refused.
        """
        self._require_writable()
        self._settle()
        need = footprint(len(payload))
        if seq <= self._last_seq:
            raise RingError(f"seq {seq} does not come after {self._last_seq}", path=self.path)
        if len(payload) > self.max_payload:
            raise RingError(
                f"an entry of {len(payload)} bytes is larger than half the ring; raise ring_bytes",
                path=self.path,
            )
        if not self._has_room(need):
            self._reclaim(need)
            if not self._has_room(need):
                return False
        if need > self._layout.lap_end(self._end) - self._end:
            self._pad()
        self._turn_lap()
        shift, seed, _ = self._lap
        at, end = self._end - shift, self._end + need
        header = store_payload(self._map, at, self._layout.offset(end), seq, payload, seed)
        self._map[at : at + HEADER_BYTES] = header
        self._last_seq = seq
        self._end = end
        return True

    def _prepare(self) -> None:
        """
        Have the pages of the next entries in memory, so that `put()` does not wait for each of them.

        Not once the ring is synced: what is in memory and not used yet would be written to the disk, too.
        """
        stop = self._end + min(_AHEAD, self._layout.capacity // 2)
        if self._durable or self._adopted or stop - self._prepared < _WORTH_A_CALL:
            return
        start = max(self._end, self._prepared)
        stop = min(stop, self._layout.lap_end(start))  # what lies in the next lap comes with the next release
        at = self._layout.offset(start)
        disk.populate(self._map, at, at + stop - start)
        self._prepared = stop

    def _pad(self) -> None:
        """
        Fill the rest of the lap with a pad record.
        """
        at, lap_end = self._layout.offset(self._end), self._layout.lap_end(self._end)
        left = lap_end - self._end
        next_at = self._layout.offset(lap_end)
        self._map[next_at : next_at + HEADER_BYTES] = bytes(HEADER_BYTES)
        header = seal(self._layout.seed(self._end), 0, PAD, b"", left - HEADER_BYTES)
        self._map[at : at + HEADER_BYTES] = header
        self._end = lap_end

    def _turn_lap(self) -> None:
        """
        Remember the lap `_end` lies in.

        Older than `_end` it is harmless: `put()` then finds no place in that lap and comes to `_put_slow()`.
        """
        self._lap = self._layout.lap(self._end)
        self._look_ahead()

    def _open_until(self, full: int) -> None:
        """
        Let entries end at *full* or before.
        """
        self._full = full
        self._look_ahead()

    def _look_ahead(self) -> None:
        """
        Note up to where `put()` need not ask for anything.

        `sync()` does so beside `put()`. What one thread overwrites of the other's lies too low, never too high, because both
        bounds only grow; `put()` is slow then, and notes it anew.
        """
        self._quiet_until = min(self._full, self._lap[2] - HEADER_BYTES)

    def _settle(self) -> None:
        """
        Follow the mapping past an entry (or pad) whose `put()` was interrupted after its last store.
        """
        if self._adopted:
            return
        stop = self._limit(self._committed[1])
        while self._map[self._layout.offset(self._end) + KIND_OFFSET]:
            # Its seq may be noted already: put() notes it before it moves _end.
            frame = next(scan(self._map, self._layout, self._end, self._last_seq - 1, stop), None)
            if frame is None:
                raise RingCorrupt("foreign bytes lie where the next entry goes", path=self.path)
            seq, payload, following = frame
            if payload is not None:
                self._last_seq = seq
            self._end = following

    def release(self, through: int, now: float = 0.0) -> None:
        super().release(through, now)
        self._open_room()
        self._prepare()

    def _all_released(self) -> bool:
        self._settle()
        return super()._all_released()

    def _has_room(self, need: int) -> bool:
        return self._end_of(need) <= self._full

    def _end_of(self, need: int) -> int:
        """
        Return the position at which the next entry would end.
        """
        start, lap_end = self._end, self._layout.lap_end(self._end)
        return need + (lap_end if need > lap_end - start else start)

    def _limit(self, position: int) -> int:
        return position + self._layout.capacity - HEADER_BYTES

    def _open_room(self) -> None:
        """
        Let `put()` use what both headers vouch for.
        """
        full = self._limit(min(self._marks))
        # No call from here on: sync() in another thread sets _durable first and reads the marks after it.
        if not self._durable and not self._adopted:
            self._open_until(full)

    def _reclaim(self, need: int) -> None:
        """
        Make the older header vouch for the released room too; new entries come before those that are only retained.
        """
        while self._end_of(need) > self._limit(self._kept.start[1]) and self._kept.give_up():
            pass
        while min(self._marks) < self._kept.start[1]:
            self._store_header()
        self._open_room()

    def _require_writable(self) -> None:
        if self._adopted:
            raise RingError("an adopted ring takes no new entries", path=self.path)
