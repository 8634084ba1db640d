"""
What the operating system refuses: each system call once (recipe R4), a full disk, and a power cut (recipe R3).
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from uuid import UUID

import pytest

from audit_buffer import _ring_disk
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import inspect, orphans, unsuited_filesystem
from audit_buffer.errors import RingError
from tests.ring.rings import LABEL, SMALL, expected, make, payload_of, take_all
from tests.ring.test_kill_points import Promises


pytestmark = pytest.mark.untraced


STRACE = shutil.which("strace")
# What the ring file asks for. close() is left out: when it reports an error the descriptor is gone all the same.
SYSCALLS = [
    "openat",
    "newfstatat",
    "flock",
    "fcntl",
    "fallocate",
    "mmap",
    "fsync",
    "rename",
    "fdatasync",
    "unlink",
    "pread64",
    "getdents64",
]


def lifetime(directory: Path, promises: Promises) -> None:
    """
    Create, put, sync, release, succeed, close, inspect and recover; each part may be refused, but only by `RingError`.
    """
    try:
        ring = make(directory)
    except RingError:
        assert not list(directory.glob("*.ring")), "a refused creation leaves nothing behind"
        return
    for seq in range(1, 7):
        assert ring.put(seq, payload_of(seq))
        promises["put"] = seq
    try:
        ring.sync()
    except RingError:
        ring = succeed(ring)
    ring = succeed(ring)
    assert ring.put(7, payload_of(7))
    promises["put"] = 7
    ring.take(3, 1 << 20)
    promises["released"] = 3
    ring.release(3)
    close(ring)
    for report in tolerated(lambda: inspect(directory)):
        assert report.entries == 4 or report.damage
    refused: list[RingError] = []
    for orphan in tolerated(lambda: list(orphans(directory, LABEL, on_refused=refused.append))):
        assert take_all(orphan) == expected(4, 7)
        promises["released"] = 7
        orphan.release(7)
        close(orphan)


def succeed(ring: RingFile) -> RingFile:
    try:
        return ring.successor()
    except RingError:
        return ring


def close(ring: RingFile) -> None:
    try:
        ring.close()
    except RingError:
        assert ring._closed


def tolerated(action: Callable[[], list]) -> list:
    try:
        return action()
    except RingError:
        return []


def traced(directory: Path, *options: str) -> tuple[Promises, str]:
    """
    Run `lifetime` in a forked child under strace with *options*; return what was promised and strace's log.
    """
    promises, (read, write) = Promises(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        try:
            lifetime(directory, promises)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(read)
    log = directory.with_suffix(".log")
    command = [STRACE, "-f", "-y", "-o", str(log), *options, "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    attached = tracer.stderr.readline()
    os.write(write, b"x")
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    tracer.communicate()
    if "attached" not in attached:
        pytest.skip(f"strace cannot attach here: {attached.strip()}")
    assert status == 0, f"more than a RingError came out under {options}"
    return promises, log.read_text()


def fail_each(tmp_path: Path, errors: tuple[str, ...], stride: int) -> int:
    """
    Fail the n-th call of every kind, for each n; check what is left; return how many were failed.
    """
    trials, start = 0, random.SystemRandom().randrange(stride)
    # Whatever is imported late is imported here, so that every child makes the same calls.
    lifetime(tmp_path / "warm", Promises())
    for syscall in SYSCALLS:
        plain = tmp_path / syscall
        plain.mkdir(mode=0o700)
        _, log = traced(plain, "-e", f"trace={syscall}")
        calls = len(re.findall(rf"\b{syscall}\(", log))
        assert calls, f"the ring file never calls {syscall}: the list is out of date"
        points = [(when, error) for when in range(1, calls + 1) for error in errors]
        for when, error in points[start % len(points) :: stride]:
            directory = tmp_path / f"{syscall}-{when}-{error}"
            directory.mkdir(mode=0o700)
            inject = f"inject={syscall}:error={error}:when={when}"
            promises, log = traced(directory, "-e", f"trace={syscall}", "-e", inject)
            check_nothing_lost(directory, promises)
            trials += log.count("(INJECTED)")
    return trials


def check_nothing_lost(directory: Path, promises: Promises) -> None:
    found: list[tuple[int, bytes]] = []
    for orphan in orphans(directory, LABEL):
        found += take_all(orphan)
        assert orphan.damage is None
        orphan.release(1 << 40)
        orphan.close()
    first = promises["released"] + 1
    assert found[len(found) - (promises["put"] - first + 1) :] == expected(first, promises["put"])
    assert not list(directory.iterdir())


needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")


@needs_strace
def test_a_failing_system_call_is_a_clean_error(tmp_path: Path) -> None:
    """
    A sample of all: a `RingError` comes out at most, nothing is lost, nothing is left behind.
    """
    assert fail_each(tmp_path, ("EIO", "ENOSPC"), stride=29) >= len(SYSCALLS)


@needs_strace
@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_every_failing_system_call_is_a_clean_error(tmp_path: Path, full: bool) -> None:
    """
    As above for every third call, or every single one at full numbers.
    """
    print(fail_each(tmp_path, ("EIO", "ENOSPC", "EACCES"), stride=1 if full else 3), "calls failed")


@contextmanager
def mounted(source: str, place: Path, *options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", *options, source, str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mount was refused: {done.stderr.strip()}")
    place.chmod(0o700)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_a_clean_error_and_never_a_crash(tmp_path: Path) -> None:
    """
    On 1 MiB of disk, a hundred times: what does not fit is refused and leaves nothing; what fits never meets SIGBUS.
    """
    if os.geteuid():
        pytest.skip("only root may mount a small file system")
    with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=1m") as place:
        assert "memory" in str(unsuited_filesystem(place))
        for _ in range(100):
            with pytest.raises(RingError, match="disk is full"):
                make(place, 2 << 20)
            assert not list(place.iterdir())
            ring = make(place, 512 << 10)
            filler = place / "filler"
            with pytest.raises(OSError, match="No space"):
                filler.write_bytes(bytes(1 << 20))
            seq = 0
            while ring.put(seq + 1, bytes(30_000)):
                seq += 1
            assert seq > 15
            filler.unlink()
            take_all(ring)
            ring.release(seq)
            ring.close()


def test_at_the_limit_of_open_files_there_is_a_remedy(tmp_path: Path) -> None:
    """
    A process at its limit of open files gets the error that says so, and its descriptors back.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tmp_path.chmod(0o700)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(RingError, match="ulimit -n"):
            make(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not list(tmp_path.iterdir())


EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, (2).to_bytes(4, "little")


def powered(place: Path, promises: Promises, chance: random.Random) -> None:
    """
    Record, sync now and then, release what is synced or not, until the power goes.
    """
    ring = RingFile.create(place, label=LABEL, size=SMALL, buffer_id=UUID(int=9))
    seq = 0
    while True:
        if ring.put(seq + 1, payload_of(seq + 1)):
            seq += 1
        elif ring.room_awaits_sync:
            ring.sync()
            promises["put"] = seq
        elif batch := ring.take(9, 1 << 20):
            promises["released"] = batch[-1][0]
            ring.release(batch[-1][0])
        if chance.random() < 0.1:
            ring.sync()
            promises["put"] = seq


def cut_power(image: Path, place: Path, chance: random.Random) -> None:
    """
    One life: make, run for some milliseconds, cut, start again, compare.
    """
    promises = Promises()
    with mounted(str(image), place, "-t", "ext4", "-o", "loop"):
        pid = os.fork()
        if pid == 0:
            try:
                powered(place, promises, chance)
            finally:
                os._exit(1)
        while not promises["put"]:
            os.sched_yield()
        goal = promises["put"] + chance.randrange(200)
        while promises["put"] < goal:
            os.sched_yield()
        fd = os.open(place, os.O_RDONLY)
        ioctl(fd, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        os.close(fd)
        synced = promises["put"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with mounted(str(image), place, "-t", "ext4", "-o", "loop"):
        (orphan,) = orphans(place, LABEL)
        orphan._boot = UUID(int=1)
        entries = take_all(orphan)
        assert orphan.damage is None
        first = entries[0][0] if entries else orphan._committed[0] + 1
        last = entries[-1][0] if entries else orphan._committed[0]
        assert entries == expected(first, last)
        orphan.release(1 << 40)
        orphan.close()
        assert first <= promises["released"] + 1
        assert last >= synced


def new_disk(image: Path, *, journal: bool) -> None:
    if os.geteuid() or not Path("/dev/loop-control").exists() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root, loop devices and mkfs.ext4")
    image.write_bytes(b"")
    os.truncate(image, 32 << 20)
    feature = "has_journal" if journal else "^has_journal"
    subprocess.run(["mkfs.ext4", "-q", "-O", feature, image], check=True)


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_a_power_cut_keeps_what_was_synced(tmp_path: Path, full: bool) -> None:
    """
    10 power cuts (300 at full numbers) of a real ext4 on a loop device: a true prefix, with all that was synced.
    """
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    image = tmp_path / "disk"
    new_disk(image, journal=bool(seed % 2))
    for _ in range(300 if full else 10):
        cut_power(image, tmp_path / "mounted", random.Random(seed))
        seed += 1


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_the_power_cut_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With a sync that does nothing, the same recipe must find entries lost: it does cut.
    """
    new_disk(tmp_path / "disk", journal=True)
    monkeypatch.setattr(_ring_disk, "sync_data", lambda _fd: None)
    lives = (cut_power(tmp_path / "disk", tmp_path / "mounted", random.Random(seed)) for seed in range(50))
    with pytest.raises(AssertionError):
        list(lives)
