"""
The reading half of a ring in memory: what was put comes out in order, and what was released is remembered in the headers.

Guarantees:
    * `take()` and `skip()` hand out the intact prefix only, each entry once until `rewind()`; they need memory for the
      batch alone.
    * A `take()` that is interrupted hands out the same entries again next time.
    * `release()` never says more than it was told. The header it stores replaces the older one, so that a torn
      header moves recovery back in time and loses nothing.
    * What was released stays readable as long as `retain()` says, or until its room is needed; `recall()` takes it back.

Assumptions:
    * Not thread-safe: the channel calls everything under its lock. (`take()` alone may run while another thread is in `put()`.)
    * Only this process changes the bytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from mmap import mmap
from pathlib import Path
from uuid import UUID

import attrs

from ._frame import UNKNOWN, Buffer, find_later, read_entries, scan
from ._kept import Kept, Retention
from ._ring import Stored
from ._ring_header import HEADER_SIZE, SLOTS, Header, newest_header
from .errors import RingCorrupt


__all__ = ["RingReader", "judge_end"]


class RingReader:
    """
    Reads a mapped ring, this process's own or an orphan's.

    Attributes:
        path: The file that is mapped; named by errors.
        damage: After an adopted ring was taken to its end: what is wrong with it, or None.
        torn: As *damage*, for what a power cut explains: entries are missing that were never synced.
    """

    def __init__(self, path: Path, mapping: mmap, *, adopted_in: UUID | None = None) -> None:
        """
        Start from the headers in *mapping*.

        Args:
            path: The file that is mapped.
            mapping: All of it.
            adopted_in: The present boot of the machine when the entries are an orphan's, None for a new ring.
        """
        self.path = path
        self.damage: str | None = None
        self.torn: str | None = None
        self._map = mapping
        self._pid = os.getpid()
        self._boot = adopted_in
        self._header, self._slot, self._marks = newest_header(mapping, path)
        self._layout = self._header.layout
        # Pairs of (seq, position behind it): what is in the database, and how far take() has read.
        self._committed = (self._header.committed_seq, self._header.committed_position)
        self._cursor = self._committed
        self._taken: deque[tuple[int, int]] = deque()
        self._kept = Kept((self._header.retained_seq, self._header.retained_position))
        self._synced_seq = self._header.synced_seq
        # Where the next entry goes. In an adopted ring: what no entry reaches, until its end was met.
        self._last_seq, self._end = self._committed
        if self._adopted:
            self._end = self._header.stop

    @property
    def _adopted(self) -> bool:
        return self._boot is not None

    @property
    def buffer_id(self) -> UUID:
        """
        The buffer whose entries these are; it stays when a successor takes over.
        """
        return self._header.buffer_id

    @property
    def committed_seq(self) -> int:
        """
        Seq of the last entry that was released.
        """
        return self._committed[0]

    @property
    def retained_seq(self) -> int:
        """
        The seq in front of the oldest entry that is kept although it was released; `committed_seq` when none is.
        """
        return self._kept.start[0]

    @property
    def label(self) -> str:
        """
        The name of the target the entries are meant for.
        """
        return self._header.label

    @property
    def synced_seq(self) -> int:
        """
        Seq of the last entry known to survive a power cut.
        """
        return self._synced_seq

    def take(self, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return the oldest entries not taken yet, at least one if there is any, within both bounds.

        An adopted ring yields its intact prefix; once that is exhausted, *damage* and *torn* say what followed.

        Raises:
            RingCorrupt: An entry of this process's own ring no longer carries its checksum.
        """
        after, position = self._cursor
        end = self._end  # Once: another thread may be in put().
        run = read_entries(self._map, self._layout, position, after, end, max_entries, max_bytes)
        if run.position < end and not run.is_full:
            self._meet_end(run.position, run.places[-1][0] if run.places else after)
        if run.places:
            # The cursor last: interrupted before, the same places are added again, which release() allows for.
            self._taken.extend(run.places)
            self._cursor = run.places[-1]
        return run.entries

    def skip(self) -> Stored | None:
        """
        Forget the oldest entry not taken yet and return it, or None when all are taken.
        """
        entries = self.take(1, 0)
        return entries[0] if entries else None

    def rewind(self, after: int = 0) -> None:
        """
        Offer every taken or skipped entry behind seq *after* that was not released again.

        For a caller that was interrupted and no longer knows what it had taken.
        """
        # An interrupted take() may have left places twice.
        places = dict.fromkeys(place for place in self._taken if place[0] <= after)
        self._taken = deque(places)
        self._cursor = self._taken[-1] if places else self._committed

    def _walk(self) -> Iterator[tuple[int, bytes, int]]:
        after, position = self._cursor
        end = self._end  # Once: another thread may be in put().
        for seq, payload, following in scan(self._map, self._layout, position, after, end):
            position = following
            if payload is not None:
                after = seq
                yield seq, payload, following
        if position < end:
            self._meet_end(position, after)

    def _meet_end(self, position: int, after: int) -> None:
        """
        Find out what the end of the intact prefix of an adopted ring is: the end, a torn tail, or damage.
        """
        if self._boot is None:
            raise RingCorrupt(f"the entry after seq {after} was changed by somebody else", path=self.path)
        self.damage, self.torn = judge_end(self._map, self._header, position, after, boot=self._boot)
        self._last_seq, self._end = after, position

    def retain(self, retention: Retention) -> None:
        """
        Keep what is released from here on as long as *retention* says.
        """
        self._kept.retention = retention

    def release(self, through: int, now: float = 0.0) -> None:
        """
        Give up the room of every taken or skipped entry up to and including seq *through*, once it need not be retained.

        The header that says so may be lost; then recovery offers these entries again.

        Args:
            now: Monotonic time in seconds; only its differences count.
        """
        count, committed = 0, self._committed
        for place in self._taken:
            if place[0] > through:
                break
            count, committed = count + 1, place
        if count:
            self._committed = committed
            self._kept.add(islice(self._taken, count), now)
            self._store_header()
            for _ in range(count):
                self._taken.popleft()

    def recall(self, after: int, now: float = 0.0) -> int:
        """
        Have the entries behind seq *after* that are retained unreleased again: taken, for `recalled()`, and safe from `put()`.

        Returns:
            The seq behind which everything is there; larger than *after* when entries are gone for good.
        """
        self._kept.trim(self._committed[1], now)
        place, end, places = self._kept.start, self._kept.start[1], list[tuple[int, int]]()
        for seq, payload, end in scan(self._map, self._layout, place[1], place[0], self._committed[1]):
            if payload is None:
                continue
            if seq <= after:
                place = (seq, end)
            else:
                places.append((seq, end))
        if end != self._committed[1]:  # damage in what was to be safe: it cannot be told what is missing
            return max(after, self._committed[0])
        if places:
            self._kept.take_back(place[0])
            # In one store, and without what is in there already: interrupted here, this is done again.
            self._taken = deque([*places, *(other for other in self._taken if other[0] > places[-1][0])])
            self._committed = place
            self._store_header()
        return max(after, place[0])

    def recalled(self, after: int, through: int, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return the oldest taken entries behind seq *after* and up to *through*, at least one if there is any, within both bounds.
        """
        entries: list[Stored] = []
        size = 0
        before, position = self._committed
        for seq, payload, _ in scan(self._map, self._layout, position, before, self._cursor[1]):
            if payload is None or seq <= after:
                continue
            size += len(payload)
            if seq > through or (entries and size > max_bytes) or len(entries) >= max_entries:
                break
            entries.append((seq, payload))
        return entries

    def _store_header(self) -> None:
        """
        Store the next header where the older of the two lies.

        Interrupted anywhere, the attributes say of a slot at most that it vouches for less than it does.
        """
        (seq, position), retained = self._committed, self._kept.start
        header = attrs.evolve(
            self._header,
            generation=self._header.generation + 1,
            owner_pid=self._pid,
            committed_seq=seq,
            committed_position=position,
            retained_seq=retained[0],
            retained_position=retained[1],
            synced_seq=self._synced_seq,
        )
        slot = 1 - self._slot
        self._map[SLOTS[slot] : SLOTS[slot] + HEADER_SIZE] = header.pack()
        self._header, self._slot = header, slot
        self._marks = (retained[1], self._marks[1]) if slot == 0 else (self._marks[0], retained[1])

    def _all_released(self) -> bool:
        """
        Tell whether no entry is left that `release()` did not name.
        """
        if any(True for _ in self._walk()):
            return False
        return self.damage is None and self._committed[0] >= self._cursor[0]


def judge_end(
    buffer: Buffer, header: Header, position: int, after: int, *, boot: UUID
) -> tuple[str | None, str | None]:
    """
    Say what the end of an intact prefix is: a pair (damage, torn), both None for an ordinary end.

    A process that is killed leaves an ordinary end, and a machine that loses power may leave holes in what was
    not synced. Everything else is damage: a hole although the machine ran on, or a synced entry that is gone.

    Args:
        buffer: The whole file.
        header: Its newest header.
        position: The first place without an acceptable record.
        after: Seq of the last intact entry.
        boot: The present boot of the machine.
    """
    if header.synced_seq > after:
        return f"the entries {after + 1} to {header.synced_seq} were synced and cannot be read", None
    later = find_later(buffer, header.layout, position, after, header.stop)
    if later is None:
        return None, None
    if later == UNKNOWN:
        return f"too much behind entry {after} looks like entries to rule out that one follows", None
    what = f"entry {later} is intact, but what lies between it and entry {after} is not"
    # Where a boot is unknown (nil), nobody can tell, and it counts as damage.
    rebooted = header.boot_id.int and boot.int and header.boot_id != boot
    return (None, what) if rebooted else (what, None)
