"""
The bytes of one record in a ring, its checksum, how it is stored, and how a reader walks from one to the next.

Guarantees:
    * Works on any buffer (`bytes`, `mmap`) and opens nothing. Only `store_payload()` changes anything.
    * A record is accepted only when its checksum fits the ring's uuid, the lap it lies in, its seq, its
      length and its payload; so a record of an earlier lap, of another ring or a torn one is no record.
    * The walk yields an intact prefix: it ends at the first place where no acceptable record lies.

Assumptions:
    * Positions only grow: a position is the number of bytes the ring had taken up before the record, and lies
      in the file at `Layout.offset(position)`. The lap is `position // capacity`.
    * Nobody changes the bytes between *position* and *stop* while they are read.

One record (docs/reference/ring-file.md has it byte by byte; all numbers little-endian)::

    u64 seq | u32 kind and length | u32 checksum | payload | zero to 15 bytes up to a multiple of 16

What each entry goes through is done in C where `_frame.c` was built: `store_payload()` and `read_lap()`, which have twins in Python here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from mmap import mmap
from struct import Struct
from uuid import UUID
from zlib import crc32

import attrs


__all__ = [
    "ENTRY",
    "HEADER_BYTES",
    "KIND_OFFSET",
    "LENGTH_LIMIT",
    "PAD",
    "UNKNOWN",
    "Buffer",
    "EntryEnd",
    "Frame",
    "Layout",
    "Run",
    "find_later",
    "footprint",
    "read_entries",
    "read_lap_in_python",
    "scan",
    "seal",
    "store_payload",
    "store_payload_in_python",
]

Buffer = bytes | mmap
# A lap: position minus offset in the file, seed of its checksums, and the position at which it ends.
Lap = tuple[int, int, int]
# An entry's seq, and the position behind it.
EntryEnd = tuple[int, int]

# One acceptable record: seq (0 for a pad), payload (None for a pad), position of the record behind it.
Frame = tuple[int, bytes | None, int]

HEADER_BYTES = 16
# Where in a header the byte with the kind lies: not zero exactly when the header was written.
KIND_OFFSET = 11

ENTRY = 0xF0000000
PAD = 0xE0000000
LENGTH_LIMIT = 0x0FFFFFFF

# Answer of `find_later()` when there may be a later entry.
UNKNOWN = 0

# A header, and what the checksum covers of it.
_HEADER = Struct("<QII")
_pack_header, _read_header = _HEADER.pack, _HEADER.unpack
_pack_head = Struct("<QI").pack
_EMPTY = bytes(HEADER_BYTES)

# The kind byte of an entry. In JSON text such a byte only starts a character outside the BMP, so that the
# search for a later record stops rarely.
_ENTRY_KIND = re.compile(rb"[\xf0-\xff]")


def footprint(size: int) -> int:
    """
    Return how many bytes of the ring an entry of *size* bytes takes up: header, payload, fill.
    """
    return (size + HEADER_BYTES + 15) & -16


@attrs.frozen
class Layout:
    """
    Where positions lie in the file, and what each lap mixes into its checksums.

    Attributes:
        ring_id: Uuid of this very file; another ring's records are never accepted.
        start: Offset of the first record in the file, in bytes.
        capacity: Bytes for records; a multiple of 16.
    """

    ring_id: UUID
    start: int
    capacity: int
    _identity: int = attrs.field(init=False)

    @_identity.default
    def _checksum_of_ring_id(self) -> int:
        return crc32(self.ring_id.bytes)

    def offset(self, position: int) -> int:
        """
        Return the offset in the file of *position*.
        """
        return self.start + position % self.capacity

    def lap_end(self, position: int) -> int:
        """
        Return the position at which the lap that holds *position* ends.
        """
        return position - position % self.capacity + self.capacity

    def seed(self, position: int) -> int:
        """
        Return the checksum every record of this lap starts from: crc32 over ring uuid and lap number.
        """
        return crc32((position // self.capacity).to_bytes(8, "little"), self._identity)

    def lap(self, position: int) -> Lap:
        """
        Return what is the same for all records of the lap that holds *position*.
        """
        return position - self.offset(position), self.seed(position), self.lap_end(position)


def seal(seed: int, seq: int, kind: int, payload: bytes | bytearray, length: int) -> bytes:
    """
    Return the header of a record; storing it is what commits the record.

    Args:
        seed: `Layout.seed()` of the lap.
        seq: Number of the entry; 0 for a pad.
        kind: `ENTRY` or `PAD`.
        payload: What the checksum covers besides seq, kind and length; empty for a pad.
        length: Bytes between the header and the fill.
    """
    meta = kind | length
    return _pack_header(seq, meta, crc32(payload, crc32(_pack_head(seq, meta), seed)))


def store_payload_in_python(
    mapping: mmap, at: int, next_at: int, seq: int, payload: bytes | bytearray, seed: int
) -> bytes:
    """
    Store entry *seq* but for its header, and return that: once it is stored, too, the entry exists.

    Args:
        at: Offset of its header; there must be room.
        next_at: Offset of the next one, which is zeroed: what an earlier lap left there must never follow the entry.
        seed: `Layout.seed()` of the lap.
    """
    size = len(payload)
    body = at + HEADER_BYTES
    mapping[next_at : next_at + HEADER_BYTES] = _EMPTY
    mapping[body : body + size] = payload
    return seal(seed, seq, ENTRY, payload, size)


def scan(buffer: Buffer, layout: Layout, position: int, after: int, stop: int) -> Iterator[Frame]:
    """
    Yield the intact prefix from *position* on, entries and pads, one at a time.

    Args:
        buffer: The whole file.
        layout: Geometry and identity of the ring.
        position: Where the first record starts.
        after: The seq in front of it; each entry's must be larger (a jump is a gap).
        stop: Nothing at or behind this position belongs to the walk.
    """
    while position < stop:
        lap = layout.lap(position)
        for seq, payload, following in _scan_lap(buffer, lap, position, after, stop):
            yield seq, payload, following
            position, after = following, max(seq, after)
        if position != lap[2]:
            return


def _scan_lap(buffer: Buffer, lap: Lap, position: int, after: int, stop: int) -> Iterator[Frame]:
    shift, seed, lap_end = lap
    stop = min(stop, lap_end)
    while position + HEADER_BYTES <= stop:
        at = position - shift + HEADER_BYTES
        header = buffer[at - HEADER_BYTES : at]
        seq, meta, checksum = _read_header(header)
        length = meta & LENGTH_LIMIT
        following = position + (length + HEADER_BYTES + 15 & -16)
        if following > stop:
            return
        payload: bytes | None = None
        if meta >= ENTRY and seq > after:
            after = seq
            payload = buffer[at : at + length]
        elif meta & ENTRY != PAD or seq or following != lap_end:
            return
        if crc32(payload or b"", crc32(header[:-4], seed)) != checksum:
            return
        yield seq, payload, following
        position = following


@attrs.frozen
class Run:
    """
    Entries that follow one another.

    Attributes:
        entries: Their seq and payload.
        places: Their seq and the position behind each.
        position: Where the walk ended.
        is_full: Whether a bound ended it. Otherwise nothing follows in front of *stop*, or no acceptable record does.
    """

    entries: list[tuple[int, bytes]]
    places: list[EntryEnd]
    position: int
    is_full: bool


def read_entries(
    buffer: Buffer, layout: Layout, position: int, after: int, stop: int, max_entries: int, max_bytes: int
) -> Run:
    """
    Return the entries of the intact prefix from *position* on, at least one if there is any, within both bounds.

    The other arguments are those of `scan()`, which reads the same, record by record.
    """
    entries: list[tuple[int, bytes]] = []
    places: list[EntryEnd] = []
    is_full = False
    # A bound beyond what a machine counts is none.
    max_entries, max_bytes = min(max_entries, sys.maxsize), min(max_bytes, sys.maxsize)
    while position < stop:
        lap = layout.lap(position)
        left = max_bytes - sum(len(payload) for _, payload in entries)
        position, is_full = read_lap(buffer, lap, position, after, stop, max_entries, left, entries, places)
        if is_full or position != lap[2]:
            break
        after = places[-1][0] if places else after
    return Run(entries, places, position, is_full)


def read_lap_in_python(
    buffer: Buffer,
    lap: Lap,
    position: int,
    after: int,
    stop: int,
    max_entries: int,
    max_bytes: int,
    entries: list[tuple[int, bytes]],
    places: list[EntryEnd],
) -> tuple[int, bool]:
    """
    Add the entries from *position* to the end of its lap to *entries* and *places*.

    Returns:
        Where the walk ended, and whether a bound ended it.
    """
    for seq, payload, following in _scan_lap(buffer, lap, position, after, stop):
        if payload is not None:
            max_bytes -= len(payload)
            if max_bytes < 0 and entries:
                return position, True
            entries.append((seq, payload))
            places.append((seq, following))
        position = following
        if len(entries) >= max_entries:
            return position, True
    return position, False


def find_later(buffer: Buffer, layout: Layout, position: int, after: int, stop: int) -> int | None:
    """
    Return the seq of an intact entry behind the damaged place at *position*, or None when there is none.

    That entry tells damage in the middle from a torn end. The search tries every place where a record may start.
    Bytes made to look like headers could make it slow, so it checks at most four times the ring's size; when
    that is used up it returns `UNKNOWN`, because damage that cannot be ruled out counts as damage.

    Args:
        buffer: The whole file.
        layout: Geometry and identity of the ring.
        position: The first place without an acceptable record.
        after: The seq of the last intact entry.
        stop: End of the region that may hold unreleased entries.
    """
    budget = 4 * layout.capacity
    position += HEADER_BYTES
    while position < stop:
        lap_end = min(layout.lap_end(position), stop)
        shift = position - layout.offset(position)
        for match in _ENTRY_KIND.finditer(buffer, position - shift, lap_end - shift):
            at = match.start() - KIND_OFFSET
            if (at - layout.start) % 16 or at + shift < position:
                continue
            for seq, payload, _ in scan(buffer, layout, at + shift, after, stop):
                if payload is not None:
                    return seq
            length = int.from_bytes(buffer[at + 8 : at + 12], "little") & LENGTH_LIMIT
            # Only what fits into the lap is checksummed, and costs time.
            budget -= HEADER_BYTES + (length if at + HEADER_BYTES + length <= lap_end - shift else 0)
            if budget < 0:
                return UNKNOWN
        position = lap_end
    return None


try:
    from audit_buffer._speedups import read_lap, store_payload
except ImportError:
    read_lap, store_payload = read_lap_in_python, store_payload_in_python
