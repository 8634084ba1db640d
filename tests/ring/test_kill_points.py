"""
Killed at any instruction, a process leaves a ring from which everything promised comes back (recipe R2).

A forked child runs a scenario and dies by SIGKILL in front of its k-th instruction. What it was promised it notes in
memory it shares with the parent, which then recovers the directory and compares. Nothing is mocked.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from mmap import mmap
from pathlib import Path

import pytest

from audit_buffer import _frame
from audit_buffer._frame import ENTRY, HEADER_BYTES, seal
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import orphans
from tests.ring.opcodes import at_opcode
from tests.ring.rings import LABEL, QUICK, expected, make, payload_of, take_all, without_c


pytestmark = pytest.mark.untraced


NEVER = 1 << 40


class Promises:
    """
    What the child was told, in memory that outlives it: one u64 each.

    put: the last seq whose `put()` returned. released: the largest seq `release()` was called with. delivered: the
    last seq that reached the "database". ended: how many instructions the whole scenario has.
    """

    NAMES = ("put", "released", "delivered", "ended")

    def __init__(self) -> None:
        self._shared = mmap(-1, 4096)

    def __getitem__(self, name: str) -> int:
        at = 8 * self.NAMES.index(name)
        return int.from_bytes(self._shared[at : at + 8], "little")

    def __setitem__(self, name: str, value: int) -> None:
        at = 8 * self.NAMES.index(name)
        self._shared[at : at + 8] = value.to_bytes(8, "little")


Scenario = Callable[[Path, Promises], None]


def live(directory: Path, promises: Promises) -> None:
    """
    Two laps of a ring of 1 KiB: put, wrap, take, release, sync, a successor, close with entries left.
    """
    ring = make(directory, 8192 + 1024)
    for seq in range(1, 25):
        if not ring.put(seq, payload_of(seq)):
            ring.sync()
            assert ring.put(seq, payload_of(seq))
        promises["put"] = seq
        if seq % 3 == 0:
            taken = ring.take(3, 1 << 20)
            promises["released"] = taken[-1][0]
            ring.release(taken[-1][0])
        if seq == 10:
            ring.sync()
        if seq == 17:
            ring = ring.successor()
    ring.close()


def recover(directory: Path, promises: Promises) -> None:
    """
    Deliver what the database does not have yet, in batches of two.
    """
    for orphan in orphans(directory, LABEL):
        while batch := orphan.take(2, 1 << 20):
            for seq, payload in batch:
                assert payload == payload_of(seq)
                if seq > promises["delivered"]:
                    assert seq == promises["delivered"] + 1, "a jump: something was lost"
                    promises["delivered"] = seq
            promises["released"] = batch[-1][0]
            orphan.release(batch[-1][0])
        assert (orphan.damage, orphan.torn) == (None, None)
        orphan.close()


def killed_at(
    k: int,
    scenario: Scenario,
    directory: Path,
    promises: Promises,
    only: Callable[..., object] | None = None,
) -> bool:
    """
    Run *scenario* in a child that dies at instruction *k* (of *only*); return whether it got that far.
    """
    pid = os.fork()
    if pid == 0:
        try:
            with at_opcode(k, lambda: os.kill(os.getpid(), signal.SIGKILL), only) as counter:
                scenario(directory, promises)
            promises["ended"] = counter.executed
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}, f"the scenario failed by itself at k={k}"
    return status != 0


@pytest.fixture
def quick_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="audit-ring-", dir=QUICK) as folder:
        yield Path(folder)


def instructions_of(scenario: Scenario, directory: Path) -> int:
    promises = Promises()
    assert not killed_at(NEVER, scenario, directory, promises)
    return promises["ended"]


def check_live(directory: Path, promises: Promises) -> None:
    """
    All that was put and not released is there; at most the entry in flight comes with it; then nothing is left.
    """
    entries: list[tuple[int, bytes]] = []
    for orphan in orphans(directory, LABEL):
        entries += take_all(orphan)
        assert (orphan.damage, orphan.torn) == (None, None)
        orphan.release(1 << 40)
        orphan.close()
    assert not list(directory.iterdir())
    put, released = promises["put"], promises["released"]
    if not entries:
        assert released >= put
        return
    first, last = entries[0][0], entries[-1][0]
    assert entries == expected(first, last), "an entry that was never put"
    assert last in {put, put + 1}
    assert first <= released + 1


def sweep(quick_path: Path, points: Iterable[int], only: Callable[..., object] | None = None) -> int:
    """
    Kill `live` at each of *points*; return how many died.
    """
    died = 0
    for k in points:
        directory, promises = quick_path / "live", Promises()
        directory.mkdir(mode=0o700)
        died += killed_at(k, live, directory, promises, only)
        check_live(directory, promises)
        directory.rmdir()
    return died


def sweep_recovery(quick_path: Path, points: Iterable[int]) -> int:
    """
    Kill `recover` at each of *points*, then let it run again; return how many died.
    """
    template = quick_path / "template"
    ring = make(template, 8192 + 1024)
    for seq in range(1, 13):
        assert ring.put(seq, payload_of(seq))
        if seq <= 5:
            ring.take(1, 1)
            ring.release(seq)
    ring.abandon()
    died = 0
    for k in points:
        directory, promises = quick_path / "recover", Promises()
        shutil.copytree(template, directory)
        (directory / "left.ring.over.new").write_bytes(b"")
        promises["delivered"] = 5
        died += killed_at(k, recover, directory, promises)
        recover(directory, promises)
        assert promises["delivered"] == 12
        assert not list(directory.iterdir())
        directory.rmdir()
    return died


def some_points(total: int, count: int) -> list[int]:
    """
    *count* points, spread evenly over *total* with a random start; the seed for a repetition is printed.
    """
    stride = max(1, total // count)
    start = random.SystemRandom().randrange(stride) + 1
    print(f"{total} instructions; points {start}, {start + stride}, …")
    return list(range(start, total + 1, stride))


def test_a_killed_process_leaves_all_it_was_promised(quick_path: Path) -> None:
    """
    Over create, put, wrap, take, release, sync, successor and close.
    """
    points = some_points(instructions_of(live, quick_path / "count"), 40)
    assert sweep(quick_path, points) == len(points)


def test_a_killed_recovery_is_repeated_exactly_once(quick_path: Path) -> None:
    """
    Over adopt, take, release and unlink: the second attempt delivers the rest, and only the rest.
    """
    points = list(range(random.SystemRandom().randrange(1, 67), 3_000, 67))
    print(f"points {points[0]}, {points[1]}, …")
    assert sweep_recovery(quick_path, points) > 20


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_every_instruction_is_a_good_one_to_die_at(quick_path: Path, full: bool) -> None:
    """
    As the two above: 1,000 points, or every single one at full numbers.
    """
    total = instructions_of(live, quick_path / "count")
    points = range(1, total + 1) if full else some_points(total, 800)
    died = sweep(quick_path, points)
    recovery = itertools.count(1, 1 if full else 10)
    died += sweep_recovery(quick_path, itertools.takewhile(lambda k: k < 4_000, recovery))
    print(f"{died} kills")


def careless_put(self: RingFile, seq: int, payload: bytes) -> bool:
    """
    A `put()` as nobody should write it: the commit word comes first.
    """
    need = len(payload) + 31 & -16
    if not self._has_room(need) or need >= self._layout.lap_end(self._end) - self._end:
        return self._put_slow(seq, payload)
    at, mapping = self._layout.offset(self._end), self._map
    mapping[at : at + HEADER_BYTES] = seal(0, seq, ENTRY, payload, len(payload))
    mapping[at + HEADER_BYTES : at + HEADER_BYTES + len(payload)] = payload
    mapping[at + need : at + need + HEADER_BYTES] = bytes(HEADER_BYTES)
    self._last_seq = seq
    self._end += need
    return True


def test_the_sweep_catches_a_planted_bug(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Commit word first and no checksum: the same sweep must find an entry that was never put.
    """
    monkeypatch.setattr(RingFile, "put", careless_put)
    without_c(monkeypatch)
    monkeypatch.setattr(_frame, "crc32", lambda *_arguments: 0)
    with pytest.raises(AssertionError, match="never put"):
        sweep(quick_path, range(1, 1_000, 2), only=careless_put)
