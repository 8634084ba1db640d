"""
The bytes of one record in a ring, its checksum, and how a reader walks from one to the next.

Guarantees:
    * Pure: works on any buffer (`bytes`, `mmap`), opens nothing, changes nothing.
    * A record is accepted only when its checksum fits the ring's uuid, the lap it lies in, its seq, its
      length and its payload; so a record of an earlier lap, of another ring or a torn one is no record.
    * The walk yields an intact prefix: it ends at the first place where no acceptable record lies.

Assumptions:
    * Positions only grow: a position is the number of bytes the ring had taken up before the record, and lies
      in the file at `Layout.offset(position)`. The lap is `position // capacity`.
    * Nobody changes the bytes between *position* and *stop* while they are read.

One record (docs/reference/ring-file.md has it byte by byte; all numbers little-endian)::

    u64 seq | u32 kind and length | u32 checksum | payload | zero to 15 bytes up to a multiple of 16
"""

from __future__ import annotations

import re
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
    "Frame",
    "Layout",
    "find_later",
    "footprint",
    "scan",
    "seal",
]

Buffer = bytes | mmap

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

# A header: what the checksum covers of it, all of it, and the checksum alone.
HEAD = Struct("<QI")
HEADER = Struct("<QII")
CHECKSUM = Struct("<I")
_read_header = Struct("<QII").unpack

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
    return HEADER.pack(seq, meta, crc32(payload, crc32(HEAD.pack(seq, meta), seed)))


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
    lap_end = seed = shift = 0
    while position + HEADER_BYTES <= stop:
        if position >= lap_end:
            lap_end, seed = layout.lap_end(position), layout.seed(position)
            shift = position - layout.offset(position)
        at = position - shift + HEADER_BYTES
        header = buffer[at - HEADER_BYTES : at]
        seq, meta, checksum = _read_header(header)
        length = meta & LENGTH_LIMIT
        following = position + (length + HEADER_BYTES + 15 & -16)
        if following > lap_end or following > stop:
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
