"""
Rings for the tests: small ones, abandoned ones, and what is found in the bytes of one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from audit_buffer import _frame, _mapped_ring
from audit_buffer._frame import scan
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_header import Header, newest_header
from audit_buffer._ring_reader import judge_end


LABEL = "entry:audit_log"
# 4 KiB for records: a handful of entries is a lap.
SMALL = 8192 + 4096
ANOTHER_BOOT = UUID(int=1)


# Where files need not survive anything, so that thousands of rings cost no disk time.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Have rings handle their bytes in Python, where a test can look on.
    """
    monkeypatch.setattr(_mapped_ring, "store_payload", _frame.store_payload_in_python)
    monkeypatch.setattr(_frame, "read_lap", _frame.read_lap_in_python)


def make(directory: Path, size: int = SMALL, label: str = LABEL) -> RingFile:
    return RingFile.create(directory, label=label, size=size)


def filled(directory: Path, count: int, size: int = SMALL) -> RingFile:
    """
    A ring with the entries 1 to *count*; `payload_of()` says what they are.
    """
    ring = make(directory, size)
    for seq in range(1, count + 1):
        assert ring.put(seq, payload_of(seq))
    return ring


def payload_of(seq: int) -> bytes:
    return f'[{seq},"{"x" * (seq * 37 % 150)}"]'.encode()


def expected(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(seq, payload_of(seq)) for seq in range(first, last + 1)]


def take_all(ring: RingFile) -> list[tuple[int, bytes]]:
    return ring.take(1_000_000, 1 << 40)


def cycle(ring: RingFile, count: int, seed: int = 0) -> int:
    """
    Put, take and release *count* entries, so that the ring is empty some laps on; return the last seq.
    """
    chance = random.Random(seed)
    for _ in range(count):
        seq = ring.last_seq + 1
        assert ring.put(seq, bytes(chance.randrange(200)))
        ring.take(1, 1)
        ring.release(seq)
    return ring.last_seq


class Found(NamedTuple):
    """
    What recovery finds in the bytes of a ring file.
    """

    header: Header
    entries: list[tuple[int, bytes]]
    damage: str | None
    torn: str | None


def find(image: bytes, boot: UUID | None = None) -> Found:
    """
    Recover from *image*; the machine was not started again unless *boot* says so.
    """
    header, _, _ = newest_header(image, Path("image"))
    entries, after, position = [], header.committed_seq, header.committed_position
    for seq, payload, following in scan(image, header.layout, position, after, header.stop):
        position = following
        if payload is not None:
            after = seq
            entries.append((seq, payload))
    damage, torn = judge_end(image, header, position, after, boot=boot or header.boot_id)
    return Found(header, entries, damage, torn)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
