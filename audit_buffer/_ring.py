"""
The ring: a bounded FIFO of encoded entries that never overwrites.

Guarantees:
    * Entries come out in the order in which they went in, each under the seq it was put with.
    * Nothing that was put disappears before `release()` or `skip()` says so.
    * A jump in seq between two neighbours is a gap: entries that were dropped on purpose.

Assumptions:
    * Not thread-safe: the channel calls every method under its lock, except `sync()`.
    * `take()` is called by one reader; what it returned stays the reader's until `release()`.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Protocol
from uuid import UUID, uuid4

from audit_buffer._kept import Retention


__all__ = ["MemoryRing", "Payload", "Ring", "Stored"]

# An encoded entry on its way in: a ring copies it.
Payload = bytes | bytearray

# One entry in a ring: its seq and its encoded bytes.
Stored = tuple[int, bytes]

_SEQ = Struct("<Q")
_pack_seq = _SEQ.pack


class Ring(Protocol):
    """
    What the channel needs of a ring; implemented in memory here and in a mapped file by `RingFile`.
    """

    @property
    def buffer_id(self) -> UUID:
        """
        The 128-bit random id of this ring; one ring, one buffer.
        """
        ...

    @property
    def survives_exit(self) -> bool:
        """
        Tell whether another process can still deliver what is in here.
        """
        ...

    @property
    def last_seq(self) -> int:
        """
        The seq of the last entry that was stored, 0 before the first; true even if `put()` was interrupted.
        """
        ...

    def put(self, seq: int, payload: Payload) -> bool:
        """
        Store a copy of *payload* as entry *seq*; return False, and store nothing, when there is no room.
        """
        ...

    def has_room(self, size: int) -> bool:
        """
        Tell whether `put()` would take an entry of *size* bytes now.
        """
        ...

    def fits(self, count: int, size: int) -> bool:
        """
        Tell whether so many entries of *size* bytes in all have room; in the middle of an interrupted `put()`, too.

        May say no where `has_room()`, which looks closer, would say yes.
        """
        ...

    @property
    def room_awaits_sync(self) -> bool:
        """
        Tell whether a `sync()` would make room, without waiting for the sink.
        """
        ...

    def take(self, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return the oldest entries not taken yet, at least one if there is any, within both bounds.
        """
        ...

    def rewind(self, after: int) -> None:
        """
        Have what the last `take()` handed out behind seq *after* not taken, for a caller that was interrupted in it.
        """
        ...

    def skip(self) -> Stored | None:
        """
        Forget the oldest entry not taken yet and return it, or None when all are taken.
        """
        ...

    def release(self, through: int, now: float = 0.0) -> None:
        """
        Give up the room of every taken or skipped entry up to and including seq *through*, at the monotonic time *now*.

        What is to be retained stays readable, until its time is over or its room is needed.
        """
        ...

    def retain(self, retention: Retention) -> None:
        """
        Keep what is released from here on as long as *retention* says.
        """
        ...

    def recall(self, after: int, now: float = 0.0) -> int:
        """
        Have the entries behind seq *after* that are retained taken and unreleased again.

        Returns:
            The seq behind which everything is there; larger than *after* when entries are gone for good.
        """
        ...

    def recalled(self, after: int, through: int, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return the oldest taken entries behind seq *after* and up to *through*, at least one if there is any, within both bounds.
        """
        ...

    def sync(self) -> None:
        """
        Return when all that was put before the call survives a power cut.
        """
        ...

    def successor(self, buffer_id: UUID | None = None) -> Ring:
        """
        Return a ring with the same entries that can be synced, after `sync()` of this one has failed.

        Args:
            buffer_id: Whose entries they are from here on; None means nothing changes.

        Raises:
            RingError: There is none to be had.
        """
        ...

    def close(self) -> None:
        """
        Give the ring up; an empty one leaves nothing behind.
        """
        ...


class MemoryRing:
    """
    A ring in this process: as fast as a deque, and gone with the process.

    Its bound is the channel's (entries and bytes); `put()` never refuses.

    An entry that waits is one object, its bytes behind its seq. As a tuple it would be three, and the garbage collector, which counts
    tuples, would run inside of `record()`.
    """

    survives_exit = False
    room_awaits_sync = False

    def __init__(self, buffer_id: UUID | None = None) -> None:
        self.buffer_id = buffer_id or uuid4()
        self._entries: deque[bytes] = deque()
        self._gone = 0
        self._handed: list[Stored] = []  # what the last take() returned, or was about to
        # For a failover: what was taken and is not released, what was released (and when), and through where that is gone.
        self._retention = Retention()
        self._in_hand: deque[Stored] = deque()
        self._kept: deque[tuple[Stored, float]] = deque()
        self._kept_bytes = 0
        self._forgotten = 0

    @property
    def last_seq(self) -> int:
        return _seq_of(self._entries[-1]) if self._entries else self._gone

    def put(self, seq: int, payload: Payload) -> bool:
        self._entries.append(_pack_seq(seq) + payload)
        return True

    def has_room(self, size: int) -> bool:
        return True

    def fits(self, count: int, size: int) -> bool:
        return True

    def take(self, max_entries: int, max_bytes: int) -> list[Stored]:
        entries = self._entries
        taken: list[Stored] = []
        size = 0
        # By its place: an iterator would not allow a finalizer to put an entry meanwhile.
        while len(taken) < max_entries and len(taken) < len(entries):
            entry = _unpacked(entries[len(taken)])
            size += len(entry[1])
            if taken and size > max_bytes:
                break
            taken.append(entry)
        # In both for a moment rather than in none: rewind() mends whatever is cut off from here on.
        self._handed = taken
        for entry in taken:
            self._gone = entry[0]
            entries.popleft()
        if self._retention:
            self._in_hand.extend(taken)
        return taken

    def rewind(self, after: int) -> None:
        entries = self._entries
        for entry in reversed(self._handed):
            if entry[0] > after and (not entries or _seq_of(entries[0]) > entry[0]):
                entries.appendleft(_pack_seq(entry[0]) + entry[1])
        while self._in_hand and self._in_hand[-1][0] > after:
            self._in_hand.pop()

    def skip(self) -> Stored | None:
        if not self._entries:
            return None
        self._gone = _seq_of(self._entries[0])
        return _unpacked(self._entries.popleft())

    def retain(self, retention: Retention) -> None:
        self._retention = retention

    def release(self, through: int, now: float = 0.0) -> None:
        """
        Keep what is to be retained; `take()` handed everything else over.
        """
        if not self._retention:
            self._forgotten = max(through, self._forgotten)
            return
        while self._in_hand and self._in_hand[0][0] <= through:
            entry = self._in_hand[0]
            # In both for a moment rather than in none: an interrupted call comes again.
            if not self._kept or self._kept[-1][0][0] < entry[0]:
                self._kept_bytes += len(entry[1])
                self._kept.append((entry, now))
            self._in_hand.popleft()
        self._trim(now)

    def _trim(self, now: float) -> None:
        keep = self._retention
        while self._kept and (
            keep.outlived(self._kept[0][1], now) or (keep.size and self._kept_bytes > keep.size)
        ):
            self._forgotten = self._kept[0][0][0]  # first: what is said to be gone need not be
            self._kept_bytes -= len(self._kept.popleft()[0][1])

    def recall(self, after: int, now: float = 0.0) -> int:
        self._trim(now)
        while self._kept and self._kept[-1][0][0] > after:
            entry, _ = self._kept[-1]
            if not self._in_hand or self._in_hand[0][0] > entry[0]:
                self._in_hand.appendleft(entry)
            self._kept.pop()
            self._kept_bytes -= len(entry[1])
        return max(after, self._forgotten)

    def recalled(self, after: int, through: int, max_entries: int, max_bytes: int) -> list[Stored]:
        entries: list[Stored] = []
        size = 0
        for seq, payload in self._in_hand:
            if seq <= after:
                continue
            size += len(payload)
            if seq > through or (entries and size > max_bytes) or len(entries) >= max_entries:
                break
            entries.append((seq, payload))
        return entries

    def sync(self) -> None:
        """
        Nothing to do: memory promises nothing beyond this process.
        """

    def successor(self, buffer_id: UUID | None = None) -> Ring:
        self.buffer_id = buffer_id or self.buffer_id
        return self

    def close(self) -> None:
        self._entries.clear()


def _seq_of(packed: bytes) -> int:
    seq: int = _SEQ.unpack_from(packed)[0]
    return seq


def _unpacked(packed: bytes) -> Stored:
    return _seq_of(packed), packed[_SEQ.size :]
