"""
The ring file: a `MappedRing` with a name, an owner and a disk below it.

Guarantees:
    * A file that recovery can find is complete, locked by its owner, and its entries outlive the process.
    * `sync()` goes through fdatasync, which gives up the GIL, never through `mmap.flush`, which keeps it.
    * After a failed fdatasync no sync of the same file succeeds again (the kernel may have thrown the pages
      away); `successor()` takes the entries to a new file, which replaces the old one in one step.
    * A file is unlinked only when all of its entries were released.

Assumptions:
    * The channel calls everything under its lock, except `sync()`: one thread at a time may run it beside the other
      methods, but not beside `close()`, `abandon()`, `set_aside()` or `successor()`.
    * After a fork the child calls `abandon()` and nothing else; `close()` in a child does the same.
    * A 512-byte sector is written as a whole or not at all, for the two headers; records need no such thing.
"""

from __future__ import annotations

import os
import time
from mmap import ACCESS_WRITE, mmap
from pathlib import Path
from typing import Self
from uuid import UUID, uuid4

import attrs

from . import _ring_disk as disk
from ._frame import scan
from ._mapped_ring import MappedRing
from ._ring_header import DATA_START, HEADER_SIZE, LABEL_LIMIT, SLOTS, Header, newest_header
from .errors import RingCorrupt, RingError, RingInUse


__all__ = ["SUFFIX", "UNFINISHED", "RingFile"]

SUFFIX = ".ring"
# Added to the name while a file is being made; recovery removes what carries it and has no owner.
UNFINISHED = ".new"
SMALLEST = DATA_START + 1024


class RingFile(MappedRing):
    """
    A `Ring` in one mapped file; make one with `create()`, or take over an orphan with `adopt()`.
    """

    def __init__(self, path: Path, fd: int, mapping: mmap, *, adopted_in: UUID | None = None) -> None:
        super().__init__(path, mapping, adopted_in=adopted_in)
        self._fd = fd
        self._closed = False
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "adopted" if self._adopted else "own"
        return f"<RingFile {self.path.name} {state} last_seq={self._last_seq} committed={self._committed[0]}>"

    @classmethod
    def create(cls, directory: Path, *, label: str, size: int, buffer_id: UUID | None = None) -> RingFile:
        """
        Make a new ring file, owned by this process, all of its room allocated.

        Args:
            directory: Where; made with mode 0700 when missing.
            label: Names the target, at most 200 bytes of UTF-8; orphans are adopted by label.
            size: Bytes of the whole file, rounded down to 512; at least 9 KiB.
            buffer_id: Whose entries these will be; drawn at random when not given.

        Raises:
            RingError: It cannot be made; the message says what to do. Nothing is left behind.
        """
        disk.make_directory(directory, SUFFIX)
        buffer_id = buffer_id or uuid4()
        path = directory / f"{buffer_id.hex}{SUFFIX}"
        if os.path.lexists(path):
            raise RingError("there is a ring of this buffer already. Recover it first.", path=path)
        header = Header(
            size=size & -512,
            buffer_id=buffer_id,
            ring_id=uuid4(),
            boot_id=disk.boot_id(),
            owner_pid=os.getpid(),
            created_us=time.time_ns() // 1000,
            label=label,
        )
        ring = cls._make(path, header)
        try:
            ring._publish(path)  # noqa: SLF001
            disk.sync_directory(directory)
            ring._prepare()  # noqa: SLF001
        except BaseException:
            ring._discard()  # noqa: SLF001
            raise
        return ring

    @classmethod
    def _make(cls, path: Path, header: Header) -> Self:
        """
        Return a ring in a file of its own that still has its unfinished name.
        """
        if len(header.label.encode()) > LABEL_LIMIT:
            raise RingError(f"the label is longer than {LABEL_LIMIT} bytes of UTF-8", path=path)
        if header.size < SMALLEST:
            raise RingError(f"{header.size} bytes are too few; ring_bytes is at least {SMALLEST}", path=path)
        # A name of its own, so that what an interrupted attempt left is never in the way.
        unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}{UNFINISHED}")
        fd = _open_locked(unfinished)
        try:
            disk.allocate(fd, header.size, unfinished)
            with disk.translated(unfinished, "map the ring file"):
                mapping = mmap(fd, header.size, access=ACCESS_WRITE)
                for slot in SLOTS:
                    mapping[slot : slot + HEADER_SIZE] = header.pack()
                os.fsync(fd)
            return cls(unfinished, fd, mapping)
        except BaseException:
            disk.discard(unfinished)
            os.close(fd)
            raise

    def _publish(self, path: Path) -> None:
        """
        Give the file its real name, in place of what has it; from here on it is found by recovery.
        """
        with disk.translated(path, "name the ring file"):
            self.path.rename(path)
        self.path = path

    @classmethod
    def adopt(cls, path: Path) -> RingFile:
        """
        Take over a ring whose owner is gone, to deliver what it holds; it takes no new entries.

        Raises:
            FileNotFoundError: It is gone, which is no fault: somebody else delivered it.
            RingInUse: Its owner lives, or somebody else has adopted it.
            RingVersionUnsupported: It was left untouched.
            RingCorrupt: Neither header can be read, or the file was cut short.
        """
        fd = disk.open_existing(path, writable=True)
        try:
            disk.lock(fd, path)
            if not disk.is_same_file(path, fd):
                raise FileNotFoundError(path)
            header, _, _ = newest_header(disk.read_start(fd, DATA_START, path), path)
            disk.check_size(fd, header.size, path)
            with disk.translated(path, "map the ring file"):
                mapping = mmap(fd, header.size, access=ACCESS_WRITE)
            return cls(path, fd, mapping, adopted_in=disk.boot_id())
        except BaseException:
            os.close(fd)
            raise

    def sync(self) -> None:
        """
        Return when all that was put before the call survives a power cut.

        Raises:
            RingError: It may not, and no later sync of this file can tell; go on with `successor()`.
        """
        self._require_open()
        if self._failure is not None:
            raise RingError("an earlier sync failed; use its successor", path=self.path) from self._failure
        self._durable = True
        seq, marks = self._last_seq, self._marks
        try:
            with disk.translated(self.path, "sync the ring file"):
                disk.sync_data(self._fd)
        except RingError as error:
            if isinstance(error.__cause__, OSError):
                self._failure = error.__cause__
            raise
        self._synced_seq = max(seq, self._synced_seq)
        if not self._adopted:
            self._open_until(self._limit(min(marks)))

    def successor(self, buffer_id: UUID | None = None) -> RingFile:
        """
        Return a ring in a new file, synced, with all unreleased entries, in place of this one.

        It has the name and the buffer_id of this one, unless it is given another *buffer_id*. What was taken stays taken. The new file replaces the old one under its name in one step, so that at no
        moment there are two or none. This ring is closed. Call it under the channel's lock. After an exception that is
        no `RingError` the file may have been replaced already: call it again before anything else is put.

        Raises:
            RingError: The new file cannot be made or synced; this ring stays as it was.
            RingCorrupt: An unreleased entry no longer carries its checksum; this ring stays as it was.
        """
        self._require_writable()
        seq, start = self._committed
        heir = RingFile._make(
            self.path,
            attrs.evolve(
                self._header,
                buffer_id=buffer_id or self.buffer_id,
                ring_id=uuid4(),
                boot_id=disk.boot_id(),
                owner_pid=self._pid,
                committed_seq=seq,
                committed_position=0,
                retained_seq=seq,
                retained_position=0,
                synced_seq=seq,
            ),
        )
        try:
            heir.retain(self._kept.retention)
            heir._inherit(self, start)  # noqa: SLF001
            heir.sync()
        except BaseException:
            heir._discard()  # noqa: SLF001
            raise
        try:
            heir._publish(self.path)  # noqa: SLF001
        except RingError:
            heir._discard()  # noqa: SLF001
            raise
        self._let_go()
        try:
            disk.sync_directory(heir.path.parent)
        except RingError as error:
            # Both names of the past lead to all entries, but the next power cut chooses: the heir must not promise.
            heir._failure = error  # noqa: SLF001
        return heir

    def _inherit(self, old: RingFile, start: int) -> None:
        """
        Put what *old* has not released, and skip here what was taken there.
        """
        last_seq, taken = old.last_seq, old._cursor[0]
        for seq, payload, _ in scan(old._map, old._layout, start, old._committed[0], old._end):
            if payload is not None:
                self.put(seq, payload)
                if seq <= taken:
                    self.skip()
        if self.last_seq != last_seq:
            raise RingCorrupt(f"the entry after seq {self.last_seq} cannot be read", path=old.path)

    def close(self) -> None:
        """
        Give the ring up: unlink it when all was released, else leave it to be adopted. Idempotent.
        """
        if self._closed:
            return
        if self._pid != os.getpid():
            self.abandon()
            return
        try:
            if self._all_released() and disk.is_same_file(self.path, self._fd):
                disk.unlink(self.path)
                disk.sync_directory(self.path.parent)
        finally:
            disk.unlock(self._fd)
            self._let_go()

    def abandon(self) -> None:
        """
        Let go of the descriptor and the mapping without touching the file: what a forked child does. Idempotent.

        The lock stays with the parent, because it belongs to the open file that both share.
        """
        if not self._closed:
            self._let_go()

    def set_aside(self, reason: str) -> Path:
        """
        Rename the file to ``….ring.corrupt``, write *reason* into ``….ring.reason`` beside it, and close.

        Deliver the intact prefix first. Nothing adopts the file again; keep it for the investigation.
        """
        self._require_open()
        try:
            return disk.set_aside(self.path, reason)
        finally:
            disk.unlock(self._fd)
            self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        self._open_until(0)
        # The mapping holds a descriptor of its own; the lock ends with the last of the two.
        self._map.close()
        os.close(self._fd)

    def _discard(self) -> None:
        """
        Undo `_make()`.
        """
        try:
            if disk.is_same_file(self.path, self._fd):
                disk.discard(self.path)
        finally:
            self._let_go()

    def _settle(self) -> None:
        if not self._closed:
            super()._settle()

    def _require_open(self) -> None:
        if self._closed:
            raise RingError("the ring is closed", path=self.path)

    def _require_writable(self) -> None:
        self._require_open()
        super()._require_writable()


def _open_locked(path: Path) -> int:
    """
    Return the descriptor of a new, locked file.

    Recovery in another process may find the file between its creation and its locking, and remove it as left
    over; then it is made anew.
    """
    while True:
        fd = disk.open_new(path)
        try:
            disk.lock(fd, path)
            if disk.is_same_file(path, fd):
                return fd
        except RingInUse:
            pass  # Recovery holds it, and is about to remove it.
        except BaseException:
            disk.discard(path)
            os.close(fd)
            raise
        os.close(fd)
