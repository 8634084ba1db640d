"""
An exception between any two instructions leaves the ring consistent (HAZARD 7).

KeyboardInterrupt and MemoryError may land anywhere; here one lands everywhere, one instruction after the other.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from types import FrameType
from uuid import UUID

import attrs
import pytest

from audit_buffer import _ring_disk
from audit_buffer._mapped_ring import MappedRing
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_header import HEADER_SIZE, SLOTS, Header
from audit_buffer.errors import RingError
from tests.ring.opcodes import at_opcode
from tests.ring.rings import filled, find, payload_of, take_all


class Interruption(BaseException):
    """
    Stands for KeyboardInterrupt: pytest leaves it alone.
    """


def interrupt() -> None:
    raise Interruption


HEADER = Header(
    size=8192 + 1024,
    buffer_id=UUID(int=3),
    ring_id=UUID(int=4),
    boot_id=UUID(int=5),
    owner_pid=1,
    created_us=0,
    label="memory",
)


def prepared(entries_before: int, size: int) -> tuple[MappedRing, int]:
    """
    A ring in plain memory that stands somewhere in its lap, with three entries in it, two of them taken.
    """
    mapping = mmap(-1, HEADER.size)
    for slot in SLOTS:
        mapping[slot : slot + HEADER_SIZE] = attrs.evolve(HEADER, generation=1).pack()
    ring = MappedRing(Path("memory"), mapping)
    seq = 0
    for seq in range(1, entries_before + 1):
        assert ring.put(seq, bytes(size))
        ring.take(1, 1)
        ring.release(seq)
    for seq in range(entries_before + 1, entries_before + 4):
        assert ring.put(seq, bytes([seq % 256]) * size)
    ring.take(2, 1 << 20)
    return ring, seq


def interrupted_everywhere(
    start: Callable[[], tuple[MappedRing, int]],
    operation: Callable[[MappedRing, int], object],
    check: Callable[[MappedRing, int], None],
) -> int:
    k = 0
    while True:
        k += 1
        ring, seq = start()
        try:
            with at_opcode(k, interrupt) as counter:
                operation(ring, seq)
        except Interruption:
            check(ring, seq)
            continue
        # From Python 3.12 on there are instructions in the closing of a generator, where an exception is only reported.
        if counter.executed < k:
            return k


pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


# With 112 bytes of payload a record takes 128 bytes and fits the lap exactly; the others end in a pad.
@pytest.mark.parametrize("size", [112, 100, 140, 60])
@pytest.mark.parametrize("entries_before", range(1, 10))
def test_put_is_whole_or_not_at_all(entries_before: int, size: int) -> None:
    """
    After an interrupted `put()`, `last_seq` says whether the entry exists; then the next one works, and all come out.
    """

    def put(ring: MappedRing, seq: int) -> None:
        assert ring.put(seq + 1, b"i" * size)

    def check(ring: MappedRing, seq: int) -> None:
        found = find(bytes(ring._map[:])).entries
        exists = ring.last_seq == seq + 1
        assert (found[-1] == (seq + 1, b"i" * size)) == exists
        if not exists:
            assert ring.last_seq == seq
            assert ring.put(seq + 1, b"i" * size)
        assert ring.put(seq + 2, b"next")
        assert ring.take(10, 1 << 20)[1:] == [(seq + 1, b"i" * size), (seq + 2, b"next")]
        ring.release(seq + 2)
        assert ring._all_released()
        assert find(bytes(ring._map[:])).damage is None

    assert interrupted_everywhere(lambda: prepared(entries_before, size), put, check) > 40


def test_put_into_a_ring_that_must_reclaim_room_is_whole_or_not_at_all() -> None:
    """
    As above, where `put()` itself has to store a header before there is room.
    """

    def start() -> tuple[MappedRing, int]:
        ring, seq = prepared(2, 112)
        while ring.put(seq + 1, bytes(112)):
            seq += 1
        ring.take(4, 1 << 20)
        ring.release(7)
        return ring, seq

    def put(ring: MappedRing, seq: int) -> None:
        assert ring.put(seq + 1, bytes(112))

    def check(ring: MappedRing, seq: int) -> None:
        if ring.last_seq == seq:
            assert ring.put(seq + 1, bytes(112))
        assert ring.take(10, 1 << 20)[-1] == (seq + 1, bytes(112))

    assert interrupted_everywhere(start, put, check) > 150


def test_an_interrupted_take_loses_nothing() -> None:
    """
    After `rewind()` everything that was not released is offered again, in order.
    """

    def check(ring: MappedRing, seq: int) -> None:
        ring.rewind()
        assert [number for number, _ in ring.take(10, 1 << 20)] == [seq - 2, seq - 1, seq]
        ring.release(seq)
        assert ring._all_released()

    for operation in (lambda ring, _seq: ring.take(2, 1 << 20), lambda ring, _seq: ring.skip()):
        assert interrupted_everywhere(lambda: prepared(6, 100), operation, check) > 50


def test_a_repeated_take_needs_no_rewind_before_its_last_store() -> None:
    """
    Wherever a `take()` was interrupted, what the next one returns goes on without a repetition or a jump.
    """

    def check(ring: MappedRing, seq: int) -> None:
        rest = [number for number, _ in ring.take(10, 1 << 20)]
        # Empty only when the interruption came between the last store and the return, where only a tracer is.
        assert rest in ([seq], [])
        ring.release(seq)
        assert ring._all_released()

    interrupted_everywhere(lambda: prepared(6, 100), lambda ring, _seq: ring.take(10, 1 << 20), check)


def test_an_interrupted_release_can_be_repeated() -> None:
    """
    Repeated, it releases; the header never says more than was released.
    """

    def check(ring: MappedRing, seq: int) -> None:
        assert find(bytes(ring._map[:])).header.committed_seq <= seq - 1
        ring.release(seq - 1)
        assert find(bytes(ring._map[:])).header.committed_seq <= seq - 1
        ring.take(1, 1)
        ring.release(seq)
        assert ring._all_released()
        number = seq
        for number in range(seq + 1, seq + 30):
            assert ring.put(number, bytes(100))
            ring.take(1, 1)
            ring.release(number)
        assert ring._all_released()

    assert (
        interrupted_everywhere(lambda: prepared(6, 100), lambda ring, seq: ring.release(seq - 1), check) > 80
    )


@pytest.mark.parametrize("first", [1, 12])
def test_an_interrupted_successor_can_be_repeated(tmp_path: Path, first: int) -> None:
    """
    Interrupted anywhere, every entry is in exactly one file that recovery finds, and the next attempt succeeds.
    """
    for k in range(first, 100_000, 61):
        directory = tmp_path / str(k)
        ring = filled(directory, 3)
        try:
            with at_opcode(k, interrupt) as counter:
                heir = ring.successor()
        except Interruption:
            (path,) = directory.glob("*.ring")
            assert len(find(path.read_bytes()).entries) == 3
            if ring._closed:
                continue  # The old file is done with; the new one was found.
            heir = ring.successor()
        assert heir.put(4, payload_of(4))
        heir.abandon()
        (path,) = directory.glob("*.ring")
        assert len(find(path.read_bytes()).entries) == 4
        if counter.executed < k:
            break


def test_an_interrupted_creation_leaves_no_entry(tmp_path: Path) -> None:
    """
    What may be left is empty, and the next start-up removes it.
    """
    for k in range(1, 100_000, 61):
        directory = tmp_path / str(k)
        try:
            with at_opcode(k, interrupt) as counter:
                ring = filled(directory, 0)
        except Interruption:
            assert all(not find(path.read_bytes()).entries for path in directory.glob("*.ring"))
            continue
        ring.abandon()
        assert counter.executed < k
        break


def test_a_signal_never_lands_between_the_store_and_the_return() -> None:
    """
    A real signal whose handler raises inside `put()` finds the entry not stored: a call that raises left nothing behind.

    The interpreter looks for signals at calls and backward jumps only, and `put()` makes none after its last store.
    """
    ring, seq = prepared(0, 16)
    ring.take(1, 1)
    inside = 0

    def raise_inside(_signal: int, frame: FrameType | None) -> None:
        nonlocal inside
        if frame is not None and frame.f_code is MappedRing.put.__code__:
            inside += 1
            raise Interruption

    previous = signal.signal(signal.SIGALRM, raise_inside)
    chance = random.Random(1)
    try:
        while inside < 200:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-6, 50e-6))
            for _ in range(60):
                try:
                    assert ring.put(seq + 1, b"x")
                except Interruption:
                    assert ring.last_seq == seq
                    break
                seq += 1
                ring.take(1, 1)
                ring.release(seq)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert ring._all_released()


def test_a_release_during_a_sync_does_not_open_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A header stored while fdatasync runs may not be on the disk when it returns; its room waits for the next sync.
    """
    ring = filled(tmp_path, 10)
    ring.sync()
    seq = 10
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1

    def release_meanwhile(_fd: int) -> None:
        take_all(ring)
        ring.release(5)
        ring.release(10)

    with monkeypatch.context() as patch:
        patch.setattr(_ring_disk, "sync_data", release_meanwhile)
        ring.sync()
    assert ring.room_awaits_sync
    assert not ring.put(seq + 1, payload_of(seq + 1))
    ring.sync()
    assert ring.put(seq + 1, payload_of(seq + 1))
    ring.abandon()


def test_an_error_of_the_device_names_the_file(tmp_path: Path) -> None:
    """
    What the operating system said is the cause, and the message names the file and the remedy.
    """
    ring = filled(tmp_path, 1)
    fd = ring._fd
    ring._fd = os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(RingError, match=ring.path.name) as caught:
            RingFile.sync(ring)
        assert isinstance(caught.value.__cause__, OSError)
    finally:
        os.close(ring._fd)
        ring._fd = fd
    ring.abandon()
