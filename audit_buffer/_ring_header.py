"""
The two alternating headers of a ring file: who it belongs to and how far it was committed.

Guarantees:
    * Pure: packs into and reads from any buffer.
    * Each header lies in one 512-byte sector and carries its own checksum, so a torn one is recognised and the
      other one counts; it is older, which only means that entries are offered again.
    * A version or a feature this library does not know is refused; nothing is guessed.

Assumptions:
    * A newer header has a larger generation and is stored where the older of the two lies.

docs/reference/ring-file.md has the layout byte by byte.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from uuid import UUID
from zlib import crc32

import attrs

from ._frame import Buffer, Layout
from .errors import RingCorrupt, RingVersionUnsupported


__all__ = ["DATA_START", "HEADER_SIZE", "LABEL_LIMIT", "SLOTS", "VERSION", "Header", "newest_header"]

MAGIC = b"auditrng"
VERSION = 1
# Features a reader must know to read the file; this version has none.
KNOWN_FEATURES = 0

SLOTS = (0, 4096)
HEADER_SIZE = 512
DATA_START = 8192
LABEL_LIMIT = 200
# A position is so many bytes that went through one ring; at a gigabyte a second this takes 36 years.
_FARTHEST = 1 << 60

_PREFIX = Struct("<8sII")
_BODY = Struct("<8sIIQII16s16s16sQQQQQQQQI200s")
_CHECKSUM_AT = HEADER_SIZE - 4


@attrs.frozen(kw_only=True)
class Header:
    """
    What one header says.

    Attributes:
        size: Size of the file in bytes.
        buffer_id: The buffer whose entries these are; a successor of a failed file keeps it.
        ring_id: This very file; under the checksum of every record.
        boot_id: Boot of the machine during which records were put; a power cut lies between it and another one.
        owner_pid: Process that held the file when the header was written.
        created_us: Microseconds since the epoch, UTC.
        label: Names the target; a buffer adopts only rings with its own label.
        generation: Grows by one with every header written.
        committed_seq: The last entry known to be in the database.
        committed_position: Where the entry after it starts.
        retained_seq: The entry before the oldest one still kept; equals *committed_seq* when nothing is retained.
        retained_position: Where the oldest kept entry starts; room before it may be used again.
        synced_seq: The last entry known to survive a power cut.
    """

    size: int
    buffer_id: UUID
    ring_id: UUID
    boot_id: UUID
    owner_pid: int
    created_us: int
    label: str
    generation: int = 1
    committed_seq: int = 0
    committed_position: int = 0
    retained_seq: int = 0
    retained_position: int = 0
    synced_seq: int = 0

    @property
    def layout(self) -> Layout:
        """
        Geometry and identity, as the records need them.
        """
        return Layout(self.ring_id, DATA_START, self.size - DATA_START)

    @property
    def stop(self) -> int:
        """
        The position no unreleased entry reaches.
        """
        return self.retained_position + self.size - DATA_START

    def pack(self) -> bytes:
        """
        Return the 512 bytes of this header, checksum included.
        """
        label = self.label.encode()
        body = _BODY.pack(
            MAGIC,
            VERSION,
            KNOWN_FEATURES,
            self.size,
            DATA_START,
            0,
            self.buffer_id.bytes,
            self.ring_id.bytes,
            self.boot_id.bytes,
            self.owner_pid,
            self.created_us,
            self.generation,
            self.committed_seq,
            self.committed_position,
            self.retained_seq,
            self.retained_position,
            self.synced_seq,
            len(label),
            label,
        ).ljust(_CHECKSUM_AT, b"\0")
        return body + crc32(body).to_bytes(4, "little")


def _unpack(image: bytes) -> Header:
    """
    Read a header whose checksum was found right.
    """
    (
        *_,
        size,
        _start,
        _reserved,
        buffer_id,
        ring_id,
        boot_id,
        owner_pid,
        created_us,
        generation,
        committed_seq,
        committed_position,
        retained_seq,
        retained_position,
        synced_seq,
        label_length,
        label,
    ) = _BODY.unpack_from(image)
    return Header(
        size=size,
        buffer_id=UUID(bytes=buffer_id),
        ring_id=UUID(bytes=ring_id),
        boot_id=UUID(bytes=boot_id),
        owner_pid=owner_pid,
        created_us=created_us,
        label=label[:label_length].decode(),
        generation=generation,
        committed_seq=committed_seq,
        committed_position=committed_position,
        retained_seq=retained_seq,
        retained_position=retained_position,
        synced_seq=synced_seq,
    )


def _intact(image: bytes) -> bool:
    body, checksum = image[:_CHECKSUM_AT], image[_CHECKSUM_AT:]
    return image[:8] == MAGIC and crc32(body) == int.from_bytes(checksum, "little")


def _refuse_unknown(image: bytes, path: Path) -> None:
    _, version, features = _PREFIX.unpack_from(image)
    if version != VERSION or features & ~KNOWN_FEATURES:
        raise RingVersionUnsupported(
            f"written as format version {version}, features {features:#x}; this library knows version "
            f"{VERSION}, features {KNOWN_FEATURES:#x}. Use the library version that wrote it.",
            path=path,
        )


def newest_header(buffer: Buffer, path: Path) -> tuple[Header, int, tuple[int, int]]:
    """
    Return the newest intact header, the slot it lies in, and the committed position each slot vouches for.

    A slot that is not intact vouches for the same position as the other one.

    Args:
        buffer: At least the first `DATA_START` bytes of the file.
        path: Named by the errors.

    Raises:
        RingVersionUnsupported: Another version wrote the file, or it uses an unknown feature.
        RingCorrupt: Neither header is intact, or the newest says what cannot be.
    """
    images = [bytes(buffer[at : at + HEADER_SIZE]) for at in SLOTS]
    intact = [slot for slot, image in enumerate(images) if len(image) == HEADER_SIZE and _intact(image)]
    if not intact:
        for image in images:
            if image[:8] == MAGIC:
                _refuse_unknown(image, path)
        raise RingCorrupt("neither of the two headers is intact", path=path)
    for slot in intact:
        _refuse_unknown(images[slot], path)
    found = {slot: _unpack(images[slot]) for slot in intact}
    newest = max(found, key=lambda slot: found[slot].generation)
    for name in ("committed_position", "retained_position"):
        if (position := getattr(found[newest], name)) > _FARTHEST:
            raise RingCorrupt(f"{name} is {position}, which no ring reaches", path=path)
    marks = [found.get(slot, found[newest]).retained_position for slot in (0, 1)]
    return found[newest], newest, (marks[0], marks[1])
