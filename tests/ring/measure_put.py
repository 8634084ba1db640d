"""
What `RingFile.put()` costs beside its floor: `python -m tests.ring.measure_put`.

The floor is what cannot be left out, inline: pack the header, two checksums, store payload and header into a mapping
(zeroing the place of the next header is left out). Both run in turn over the same warm mapping; the best of many rounds counts, because
everything else on the machine only ever adds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from mmap import mmap
from pathlib import Path
from struct import Struct
from zlib import crc32

from audit_buffer._ring_file import RingFile


HEAD, CHECKSUM = Struct("<QI"), Struct("<I")
COUNT, ROUNDS = 2_000, 60


def floor_round(mapping: mmap, payload: bytes, pack=HEAD.pack, pack_checksum=CHECKSUM.pack) -> float:
    size, at = len(payload), 8192
    need = size + 31 & -16
    start = time.perf_counter()
    for seq in range(COUNT):
        mapping[at + 16 : at + 16 + size] = payload
        head = pack(seq, 0xF0000000 | size)
        mapping[at : at + 16] = head + pack_checksum(crc32(payload, crc32(head, 0)))
        at += need
    return (time.perf_counter() - start) / COUNT


def put_round(ring: RingFile, payload: bytes) -> float:
    put, seq = ring.put, ring.last_seq
    start = time.perf_counter()
    for number in range(seq + 1, seq + 1 + COUNT):
        put(number, payload)
    cost = (time.perf_counter() - start) / COUNT
    assert ring.last_seq == seq + COUNT
    while taken := ring.take(COUNT, 1 << 30):
        ring.release(taken[-1][0])
    return cost


def main() -> None:
    for size in (100, 1200):
        payload = (bytes(range(33, 83)) * 24)[:size]
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            ring = RingFile.create(Path(folder), label="put", size=8 << 20)
            bare = RingFile.create(Path(folder), label="floor", size=8 << 20)
            costs = [(floor_round(bare._map, payload), put_round(ring, payload)) for _ in range(ROUNDS)]
            ring.close()
            bare.abandon()
        floor, put = (min(column) * 1e9 for column in zip(*costs, strict=True))
        version = sys.version.split()[0]
        print(f"{version}  {size:5} bytes  floor {floor:.0f} ns  put {put:.0f} ns  ratio {put / floor:.2f}")


if __name__ == "__main__":
    main()
