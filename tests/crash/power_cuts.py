"""
Recipe R3 as a program: record, lose the power, start again, deliver, and compare with what was promised.

    python -m tests.crash.power_cuts --folder /tmp/x --level sync --trials 40 --seed 1

Ring files and the SQLite database lie on one ext4 of their own, on a loop device (root needed). A child records there
and writes what `record()` returned into a pipe (the ack log). Then the file system is shut down without writing its
journal (EXT4_IOC_SHUTDOWN), the child is killed, and the file system mounted anew: data that was not written, and metadata
whose transaction was not, are gone. Some pages of the ring and of the database are on the disk before anybody synced them,
in no order, because this process asks the kernel to write back a few at random. The next child finds another boot_id, as
after a real power cut. In half of the trials it records beside what it adopts; in the others it only delivers, and loses
the power again now and then. After that the ring directory must be empty, and table and ack log are compared.

What must be there: at "sync" all that `record()` returned; at "periodic" what `stats().synced` has named, and whatever was
older than `sync_interval` and two syncs; at "process" what `stats().synced` has named because it was committed. At each
level a prefix without a hole, in order, each entry once. Not modelled: a drive that loses or reorders what it was
given and was not told to flush (for the ring file tests/ring/test_store_trace.py does that); an ext4 with data=writeback,
which uses the room of a deleted file before the deletion is on the disk, and so may bring back a WAL with a valid beginning.

The last line of the output is the tally as JSON. The seed fixes the settings and the moments of the cuts.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import attrs
import sqlalchemy
from sqlalchemy import NullPool

from audit_buffer import AuditBuffer, _ring_disk
from tests.crash.random_kills import ServiceWorld, TableWorld, inversions, listen, pad, run_child


EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, (2).to_bytes(4, "little")
SYNC_FILE_RANGE_WRITE = 2
PAGE = 4096
IMAGE_BYTES = 256 << 20
# buffer_id, kind or thread, number of the call in its thread, seq, monotonic time in ns
ACK = struct.Struct("<16sBIqq")
OPENED, SAFE, ERROR, TORN, SYNC = range(255, 250, -1)
# Entries of one thread at full speed; a disk of this size does not hold seconds of that.
RUSH = 3000
# Seconds that a thread may take to wake up beside busy ones, on top of what is promised in time.
WAKING = 0.5

_libc = ctypes.CDLL(None, use_errno=True)


@attrs.define
class Tally:
    """
    What came of the trials.
    """

    level: str
    target: str
    seed: str
    trials: int = 0
    recovery_cuts: int = 0
    acknowledged: int = 0
    delivered: int = 0
    torn: int = 0  # recoveries that met a hole, and stopped in front of it
    let_go: int = 0  # acknowledged, not promised to survive, and not there
    widest_ms: int = 0  # how old the oldest of these was when the power went
    lost: int = 0
    late: int = 0
    doubled: int = 0
    inverted: int = 0
    holes: int = 0
    phantom: int = 0
    leftovers: int = 0
    failed: int = 0  # errors that were met while there was power
    ended_badly: int = 0
    seconds: float = 0.0


class Disk:
    """
    A file system on a loop device that can lose its power.
    """

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "disk", folder / "mounted"
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-b", str(PAGE), self.image], check=True)
        self.place.mkdir(exist_ok=True)

    @contextmanager
    def powered(self) -> Iterator[None]:
        """
        Mount, and unmount; after a cut that writes nothing but metadata whose transaction is on the disk already.
        """
        subprocess.run(["mount", "-t", "ext4", "-o", "loop,data=ordered", self.image, self.place], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.place], check=True)

    def write_back_some(self, chance: random.Random) -> None:
        """
        Have the kernel start to write some pages of the files, in no order.
        """
        for path in self.place.rglob("*"):
            if path.suffix in (".ring", ".db", ".db-wal") and chance.random() < 0.7:
                self._write_back(path, chance)

    def _write_back(self, path: Path, chance: random.Random) -> None:
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return  # delivered meanwhile
        pages = os.fstat(fd).st_size // PAGE + 1
        for page in chance.sample(range(pages), chance.randrange(pages)):
            offset = ctypes.c_int64(page * PAGE)
            _libc.sync_file_range(fd, offset, ctypes.c_int64(PAGE), SYNC_FILE_RANGE_WRITE)
        os.close(fd)

    def cut_power(self) -> int:
        """
        Let no write begin any more, and return when that was; what is under way comes to its end.
        """
        fd = os.open(self.place, os.O_RDONLY)
        at = time.monotonic_ns()
        ioctl(fd, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        os.close(fd)
        return at


@attrs.define
class Books:
    """
    What was promised since the last comparison.
    """

    promised: dict[tuple[str, int, int], int] = attrs.Factory(dict)
    returned: dict[tuple[str, int, int], int] = attrs.Factory(dict)  # when, in ns
    last: dict[tuple[str, int], int] = attrs.Factory(dict)
    safe: dict[str, int] = attrs.Factory(lambda: defaultdict(int))
    cut: dict[str, int] = attrs.Factory(dict)
    patience: dict[str, int] = attrs.Factory(dict)  # how old an entry may be and be gone at "periodic", in ns


class PowerCuts:
    """
    The trials of one run.
    """

    def __init__(self, folder: Path, tally: Tally, *, sync: bool = True) -> None:
        self.disk = Disk(folder)
        self.engine = sqlalchemy.create_engine(
            f"sqlite:///{self.disk.place / 'audit.db'}", poolclass=NullPool
        )
        self.tally = tally
        self.sync = sync
        self.said = (
            folder / "said"
        )  # by the children, on standard error: errors mostly, once the power has gone
        self.boots = itertools.count(1)
        self.books = Books()
        with self.disk.powered():
            self.world: Any = {"service": ServiceWorld, "table": TableWorld}[tally.target](self.engine)

    def run(self, trials: int) -> None:
        started = time.monotonic()
        for number in range(trials):
            chance = random.Random(f"{self.tally.seed}/{number}")
            with self.disk.powered():
                self.record_and_cut(chance)
            if chance.random() < 0.5 or number == trials - 1:
                self.recover(chance)
        self.tally.seconds = round(time.monotonic() - started, 1)

    def open(self, chance: random.Random, write: int, interval: float) -> AuditBuffer:
        return AuditBuffer(
            self.world.target,
            durability=self.tally.level,
            ring_dir=self.disk.place / "rings",
            ring_bytes=1 << 17,
            max_entry_bytes=1 << 14,
            batch_size=chance.choice([1, 7, 50, 512]),
            flush_interval=chance.choice([0.001, 0.01, 0.1]),
            sync_interval=interval,
            block_timeout=30,
            on_error=lambda error: self.met(write, error),
        )

    def met(self, write: int, error: BaseException) -> None:
        print(f"{time.monotonic_ns()}: {error!r}", file=sys.stderr, flush=True)
        tell(write, bytes(16), TORN if "a power cut took" in str(error) else ERROR)

    # One child records until the power goes -------------------------------------------------------------------------

    def record_and_cut(self, chance: random.Random) -> None:
        interval = chance.choice([0.02, 0.1, 0.3])
        boot = next(self.boots)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            self.restart(boot, write)
            run_child(lambda: self.live(chance, write, interval))
        os.close(write)
        life = chance.uniform(1.0, 2.0) if chance.random() < 0.1 else chance.uniform(0.03, 0.5)
        heard = listen(read, life * 0.7)
        self.disk.write_back_some(chance)
        heard += listen(read, life * 0.3)
        if chance.random() < 0.5:
            self.disk.write_back_some(chance)
        at = self.disk.cut_power()
        os.kill(pid, signal.SIGKILL)
        heard += listen(read, 60)
        os.close(read)
        # A page that is touched after the cut can be SIGBUS; there was no process any more.
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (signal.SIGKILL, signal.SIGBUS):
            self.tally.ended_badly += 1
        self.tally.trials += 1
        self.enter(heard, at, interval)

    def restart(self, boot: int, write: int) -> None:
        """
        Have a child find what it would after the machine was started again; and with `sync` off, a disk that lies.
        """
        with self.said.open("ab") as said:
            os.dup2(said.fileno(), 2)
        _ring_disk.boot_id = lambda: uuid.UUID(int=boot)
        sync_data = _ring_disk.sync_data

        def told(fd: int) -> None:
            tell(write, bytes(16), SYNC)
            if self.sync:
                sync_data(fd)
            tell(write, bytes(16), SYNC)

        _ring_disk.sync_data = told

    def live(self, chance: random.Random, write: int, interval: float) -> None:
        threading.excepthook = lambda _: tell(write, bytes(16), ERROR)
        try:
            self.record_for_ever(chance, write, interval)
        except BaseException:
            tell(write, bytes(16), ERROR)
            raise
        finally:
            signal.pause()  # whatever the disk's end did to it: the parent kills it

    def record_for_ever(self, chance: random.Random, write: int, interval: float) -> None:
        threads = chance.randint(1, 4)
        buffer = self.open(chance, write, interval)
        own = buffer.buffer_id.bytes
        tell(write, own, OPENED)

        def record(thread: int) -> None:
            for number in itertools.count(1):
                tell(write, own, thread, number, self.world.record(buffer, thread, number))
                if number % 20 == 0:
                    tell(write, own, SAFE, 0, buffer.stats().synced)
                if number % 300 == 0 and thread == 0:
                    buffer.flush()
                if number > RUSH:
                    time.sleep(0.001)  # a pace, not a wait: at full speed one ring would take the whole disk

        for thread in range(1, threads):
            threading.Thread(target=record, args=(thread,), daemon=True).start()
        record(0)

    def enter(self, heard: bytes, at: int, interval: float) -> None:
        """
        Enter one life's ack log into the books.
        """
        books, own = self.books, None
        syncs = [0]  # moments at which the ring's syncs began and ended, in turn
        for raw, kind, number, seq, now in ACK.iter_unpack(heard):
            buffer = uuid.UUID(bytes=raw).hex
            if kind == OPENED:
                own = buffer
            elif kind == SAFE:
                if now < at:
                    books.safe[buffer] = max(books.safe[buffer], seq)
            elif kind == ERROR:
                if now < at:
                    self.fail(now, at)
            elif kind == TORN:
                self.tally.torn += 1
            elif kind == SYNC:
                syncs.append(now)
            else:
                key = (buffer, kind, number)
                books.promised[key], books.returned[key] = seq, now
                books.last[buffer, kind] = max(number, books.last.get((buffer, kind), 0))
        if own is not None:
            syncs.append(at)
            slowest = max(
                (end - begin for begin, end in zip(syncs[1::2], syncs[2::2], strict=False)), default=0
            )
            books.cut[own] = at
            books.patience[own] = int((interval + WAKING) * 1e9) + 2 * slowest

    def fail(self, now: int, at: int) -> None:
        """
        Count an error that was met while there was power, and show the first of them.
        """
        if not self.tally.failed:
            print(f"trial {self.tally.trials}: failed at {now}, cut at {at}", file=sys.stderr)
            print(self.said.read_text()[-5000:], file=sys.stderr)
        self.tally.failed += 1

    # Others deliver what it left ------------------------------------------------------------------------------------

    def recover(self, chance: random.Random) -> None:
        done = False
        while not done:
            with self.disk.powered():
                done = self.deliver_or_cut(chance)
                if done:
                    self.compare()

    def deliver_or_cut(self, chance: random.Random) -> bool:
        patience = chance.uniform(0.001, 0.1) if chance.random() < 0.4 else 60
        boot = next(self.boots)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            self.restart(boot, write)
            run_child(lambda: self.deliver(chance, write))
        os.close(write)
        heard = listen(read, patience)
        kinds = [kind for _, kind, *_ in ACK.iter_unpack(heard)]
        delivered = SAFE in kinds
        self.tally.torn += TORN in kinds
        self.tally.failed += kinds.count(ERROR) if delivered else 0
        if not delivered:
            if patience == 60:
                os.kill(pid, signal.SIGABRT)
                raise SystemExit(f"trial {self.tally.trials}: recovery did not come to its end")
            self.disk.write_back_some(chance)
            self.disk.cut_power()
            self.tally.recovery_cuts += 1
        os.close(read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return delivered

    def deliver(self, chance: random.Random, write: int) -> None:
        with self.open(chance, write, 0.1) as buffer:
            buffer.flush(timeout=50)
        tell(write, bytes(16), SAFE)
        os._exit(0)

    # And the books are compared -------------------------------------------------------------------------------------

    def compare(self) -> None:
        tally, books = self.tally, self.books
        rows = self.world.rows(self.engine)
        keys = {row[:3] for row in rows}
        tally.acknowledged += len(books.promised)
        tally.delivered += len(rows)
        tally.doubled += len(rows) - len(keys)
        missing = [key for key in books.promised if key not in keys]
        for key in missing:
            self.judge(key)
        reached: dict[str, int] = defaultdict(int)
        for key in keys & books.promised.keys():
            reached[key[0]] = max(reached[key[0]], books.promised[key])
        tally.holes += sum(books.promised[key] < reached[key[0]] for key in missing)
        for buffer, thread, number, filling, _ in rows:
            # A call that was in the middle may have stored its entry; no second one can have.
            tried = number <= books.last.get((buffer, thread), 0) + 1
            tally.phantom += not (buffer in books.cut and tried and filling == pad(thread, number))
        tally.inverted += sum(inversions(rows, buffer, books.promised) for buffer in books.cut)
        if tally.lost:
            print("lost, before this:", self.said.read_text()[-5000:], file=sys.stderr)
        tally.leftovers += len(list((self.disk.place / "rings").iterdir()))
        self.world.forget(self.engine)
        self.books = Books()

    def judge(self, key: tuple[str, int, int]) -> None:
        """
        An entry whose `record()` returned is not there: was it promised to survive?
        """
        tally, books, buffer = self.tally, self.books, key[0]
        age = books.cut[buffer] - books.returned[key]
        if age <= 0:
            return  # nobody would have seen it return; the sync in flight came too late for the copy of the disk
        if tally.level == "sync" or books.promised[key] <= books.safe[buffer]:
            tally.lost += 1
        elif tally.level == "periodic" and age > books.patience[buffer]:
            tally.late += 1
        else:
            tally.let_go += 1
            tally.widest_ms = max(tally.widest_ms, age // 1_000_000)


def tell(write: int, buffer: bytes, kind: int, number: int = 0, seq: int = 0) -> None:
    os.write(write, ACK.pack(buffer, kind, number, seq, time.monotonic_ns()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--level", default="sync")
    parser.add_argument("--target", default="service")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", default=str(random.randrange(1 << 32)))
    parser.add_argument("--no-sync", action="store_true", help="have the ring's fdatasync do nothing")
    given = parser.parse_args()
    faulthandler.enable()
    tally = Tally(given.level, given.target, given.seed)
    print(f"seed {tally.seed}", file=sys.stderr)
    PowerCuts(given.folder, tally, sync=not given.no_sync).run(given.trials)
    print(json.dumps(attrs.asdict(tally)))


if __name__ == "__main__":
    main()
