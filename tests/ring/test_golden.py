"""
Files written by every released format version are read for ever, and the present one is written as documented.

`golden/version-N.bin` is a ring file whose process is gone, `golden/version-N.json` what it holds. They were written
once, by the library of that version, and are never written again. A new version adds its own pair.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest

from audit_buffer._ring_header import HEADER_SIZE, SLOTS, VERSION
from audit_buffer._ring_recovery import orphans
from audit_buffer.errors import RingVersionUnsupported
from tests.ring.rings import filled, find, take_all


GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(GOLDEN.glob("*.bin"))


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda path: path.stem)
def test_an_old_file_is_delivered(golden: Path, tmp_path: Path) -> None:
    """
    Label, buffer_id and every entry come out as they went in.
    """
    expected = json.loads(golden.with_suffix(".json").read_text(encoding="utf-8"))
    (tmp_path / f"{expected['buffer_id']}.ring").write_bytes(golden.read_bytes())
    (orphan,) = orphans(tmp_path, expected["label"])
    assert orphan.buffer_id == UUID(expected["buffer_id"])
    assert orphan.synced_seq == expected["synced_seq"]
    entries = [(seq, text.encode()) for seq, text in expected["entries"]]
    assert take_all(orphan) == entries
    assert (orphan.damage, orphan.torn) == (None, None)
    orphan.release(entries[-1][0])
    orphan.close()
    assert not list(tmp_path.iterdir())


def test_there_is_a_golden_file_of_this_version() -> None:
    """
    Whoever raises the version adds its file.
    """
    assert GOLDEN / f"version-{VERSION}.bin" in VERSIONS


def test_the_file_is_as_the_reference_says() -> None:
    """
    Read the golden file by docs/reference/ring-file.md alone, without the library's own code.
    """
    image = (GOLDEN / "version-1.bin").read_bytes()
    headers = []
    for slot in (0, 4096):
        header = image[slot : slot + 512]
        assert header[:8] == b"auditrng"
        assert struct.unpack("<I", header[508:]) == (crc32(header[:508]),)
        headers.append(header)
    newest = max(headers, key=lambda header: struct.unpack_from("<Q", header, 96))
    version, features, size, start = struct.unpack_from("<IIQI", newest, 8)
    assert (version, features, size, start) == (1, 0, len(image), 8192)
    ring_id = newest[48:64]
    committed_seq, position = struct.unpack_from("<QQ", newest, 104)
    capacity, last, entries = size - start, committed_seq, []
    while True:
        at, lap = start + position % capacity, position // capacity
        seq, word, checksum = struct.unpack_from("<QII", image, at)
        if word == 0:
            break
        kind, length = word >> 28, word & 0x0FFFFFFF
        payload = image[at + 16 : at + 16 + length] if kind == 0xF else b""
        assert checksum == crc32(ring_id + struct.pack("<Q", lap) + image[at : at + 12] + payload)
        if kind == 0xF:
            assert seq > last
            last = seq
            entries.append([seq, payload.decode()])
        else:
            assert (kind, seq, position + 16 + length) == (0xE, 0, (lap + 1) * capacity)
        position += (16 + length + 15) // 16 * 16
    assert entries == json.loads((GOLDEN / "version-1.json").read_text(encoding="utf-8"))["entries"]


@pytest.mark.parametrize("at", [8, 12], ids=["version", "features"])
def test_a_well_formed_newer_header_is_refused(tmp_path: Path, at: int) -> None:
    """
    Also when its checksum is right, and also when only the newer of the two headers says so.
    """
    ring = filled(tmp_path, 2)
    image = bytearray(ring._map[:])
    ring.abandon()
    image[SLOTS[1] + at] = 2
    header = image[SLOTS[1] : SLOTS[1] + HEADER_SIZE - 4]
    image[SLOTS[1] + HEADER_SIZE - 4 : SLOTS[1] + HEADER_SIZE] = crc32(header).to_bytes(4, "little")
    with pytest.raises(RingVersionUnsupported):
        find(bytes(image))
