"""
What a ring file asks of the operating system: create, allocate, lock, sync, and who is alive.

Guarantees:
    * An error of the operating system comes out as `RingError` with its cause and a remedy.
    * Files are 0600 in a directory of 0700, never opened through a link, never inherited by another program.
    * A file that could not be completed is not left behind.

Assumptions:
    * Linux. On macOS, which lacks posix_fallocate, fdatasync and queries for open-file locks, `allocate()` writes
      zeros, `sync_data()` uses F_FULLFSYNC and `is_locked()` knows the owner by its process id only.

Two locks are held by an owner, both on the open file (not on the process), so both end with its last descriptor.
flock decides who may write. A lock on the first byte can be *asked about* (F_OFD_GETLK) without taking anything, which
is how `inspect()` sees a living owner without ever being in the way of somebody who adopts; no process id is
involved that could have been given to another process meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from .errors import RingCorrupt, RingError, RingInUse


__all__ = [
    "allocate",
    "boot_id",
    "check_size",
    "discard",
    "is_locked",
    "is_same_file",
    "list_files",
    "lock",
    "make_directory",
    "open_existing",
    "open_new",
    "populate",
    "read_start",
    "reason_for",
    "set_aside",
    "size_of",
    "sync_data",
    "sync_directory",
    "translated",
    "unlink",
    "unlock",
]

# struct flock: type, whence, start, length, pid, in the platform's own layout.
_FLOCK = struct.Struct("hhqqi0q")
_FIRST_BYTE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
# Of madvise(), since Linux 5.14.
_MADV_POPULATE_WRITE = 23
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_RIGHTS_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_REMEDIES = {
    errno.ENOSPC: "The disk is full: free space, or set a smaller ring_bytes or another ring_dir.",
    errno.EDQUOT: "The disk quota is used up: free space, or set a smaller ring_bytes or another ring_dir.",
    errno.EACCES: "Give this user write access to the directory, or set another ring_dir.",
    errno.EPERM: "Give this user write access to the directory, or set another ring_dir.",
    errno.EROFS: "The file system is read-only: set another ring_dir.",
    errno.ELOOP: "A symbolic link lies there: remove it, and find out who made it.",
    errno.EEXIST: "Something lies there already: remove it, or use another buffer_id.",
    errno.EMFILE: "This process has too many open files: raise its limit (ulimit -n).",
    errno.EIO: "The device reports an error: look at the kernel log, and set another ring_dir.",
}


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """
    Turn an `OSError` into a `RingError` that says what was being done and what to do about it.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Look at the cause, or set another ring_dir.")
        raise RingError(f"cannot {doing}: {error.strerror}. {remedy}", path=path) from error


def make_directory(directory: Path, suffix: str) -> None:
    """
    Make *directory* with mode 0700, or see to it that nobody else may write into the one that is there.

    One of this user's own that holds nothing, or only files with *suffix* in their names, is made private. (With an fsGroup
    the kubelet lets the group write into every folder of a volume, each time it mounts it.)
    """
    with translated(directory, "make the ring directory"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if _is_open_to_others(status) and _is_for_rings(directory, status, suffix):
            directory.chmod(
                stat.S_IMODE(status.st_mode) & ~_RIGHTS_OF_OTHERS
            )  # the files may be open to them, too
            status = directory.stat()
    if status.st_uid not in {os.geteuid(), 0} or _is_open_to_others(status):
        raise RingError(
            "others may write into the ring directory. Make it private (chmod 700), "
            "or set another ring_dir, such as a folder of its own in this one.",
            path=directory,
        )


def _is_open_to_others(status: os.stat_result) -> bool:
    return bool(status.st_mode & _WRITTEN_BY_OTHERS)


def _is_for_rings(directory: Path, status: os.stat_result, suffix: str) -> bool:
    # Never a place like /tmp, though it be empty and we be root.
    mine = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    return mine and all(suffix in file.suffixes for file in directory.iterdir())


def open_new(path: Path) -> int:
    """
    Create *path* with mode 0600 and return its descriptor; never follow a link, never open what exists.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with translated(path, "create the ring file"):
        return os.open(path, flags, 0o600)


def open_existing(path: Path, *, writable: bool) -> int:
    """
    Open a ring file that is there; never follow a link, never wait for a pipe.

    Raises:
        FileNotFoundError: It is gone, which is no fault: somebody else delivered it.
        RingError: It cannot be opened, is no regular file, or belongs to another user.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with translated(path, "open the ring file"):
            fd = os.open(path, flags)
    except RingError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise
    try:
        with translated(path, "examine the ring file"):
            status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in {os.geteuid(), 0}:
            raise RingError("no regular file of this user; it was left untouched", path=path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_start(fd: int, size: int, path: Path) -> bytes:
    """
    Return the first *size* bytes, or fewer of a short file.
    """
    with translated(path, "read the ring file"):
        return os.pread(fd, size, 0)


def allocate(fd: int, size: int, path: Path) -> None:
    """
    Give the file *size* bytes of real disk space, so that a later store cannot meet a full disk (SIGBUS).
    """
    with translated(path, f"allocate {size} bytes for the ring file"):
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
            return
        os.ftruncate(fd, size)
        block = bytes(1 << 20)
        for start in range(0, size, len(block)):
            os.pwrite(fd, block[: size - start], start)


def populate(mapping: mmap.mmap, start: int, stop: int) -> None:
    """
    Have the pages between two offsets of *mapping* in memory and writable, so that a store need not wait for them.

    Where the system cannot do that, each comes when it is touched.
    """
    start &= -mmap.PAGESIZE
    if sys.platform == "linux":
        with suppress(OSError):
            mapping.madvise(_MADV_POPULATE_WRITE, start, stop - start)


def sync_data(fd: int) -> None:
    """
    Return when the file's bytes survive a power cut; gives up the GIL meanwhile.

    Raises:
        OSError: They may or may not; asking again proves nothing (the kernel forgets the error).
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    elif sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_directory(directory: Path) -> None:
    """
    Return when the names in *directory* survive a power cut.
    """
    with translated(directory, "sync the ring directory"):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def lock(fd: int, path: Path) -> None:
    """
    Become the owner of the open file, or raise `RingInUse` at once.
    """
    try:
        with translated(path, "lock the ring file"):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except RingError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise RingInUse("a living process owns this ring file", path=path) from error.__cause__
        raise
    if hasattr(fcntl, "F_OFD_SETLK"):
        with translated(path, "mark the ring file as owned"):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FIRST_BYTE)


def unlock(fd: int) -> None:
    """
    Stop being the owner, also when a forked child still has the open file.
    """
    # Closing the file, which follows, does the same, except for such a child; so an error changes nothing.
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
        if hasattr(fcntl, "F_OFD_SETLK"):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0))


def unlink(path: Path) -> None:
    """
    Remove the name; the file goes with its last descriptor.
    """
    with translated(path, "unlink the ring file"):
        path.unlink()


def discard(path: Path) -> None:
    """
    Remove what could not be completed, as far as that is possible; recovery removes it otherwise.
    """
    with suppress(OSError):
        path.unlink(missing_ok=True)


def list_files(directory: Path, pattern: str) -> list[Path]:
    """
    Return what lies in *directory* under such a name, sorted; nothing when there is no directory.
    """
    with translated(directory, "list the ring directory"):
        return sorted(directory.glob(pattern))


def set_aside(path: Path, reason: str) -> Path:
    """
    Rename *path* to ``….corrupt`` with *reason* in a text file beside it, and return the new name.
    """
    aside = path.with_name(f"{path.name}.corrupt")
    note = path.with_name(f"{path.name}.reason")
    with translated(path, "set the damaged ring file aside"):
        # The reason first: killed in between, the next recovery finds the ring again and does both.
        note.unlink(missing_ok=True)
        fd = open_new(note)
        try:
            os.write(fd, f"{reason}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        path.rename(aside)
    sync_directory(path.parent)
    return aside


def is_locked(fd: int, owner_pid: int, path: Path) -> bool:
    """
    Tell whether the file behind *fd* has a living owner, without taking a lock, not even for a moment.
    """
    if hasattr(fcntl, "F_OFD_GETLK"):
        with translated(path, "ask for the owner of the ring file"):
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FIRST_BYTE)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    try:
        os.kill(owner_pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_same_file(path: Path, fd: int) -> bool:
    """
    Tell whether *path* still names the open file, and not a newer one or nothing.
    """
    with translated(path, "examine the ring file"):
        try:
            return os.path.samestat(path.lstat(), os.fstat(fd))
        except FileNotFoundError:
            return False


def size_of(fd: int, path: Path) -> int:
    """
    Return the length of the open file in bytes.
    """
    with translated(path, "examine the ring file"):
        return os.fstat(fd).st_size


def check_size(fd: int, size: int, path: Path) -> None:
    """
    Refuse a file that was cut short: touching the mapping behind its end would kill the process (SIGBUS).
    """
    actual = size_of(fd, path)
    if actual != size:
        raise RingCorrupt(f"{actual} bytes long where its header says {size}", path=path)


def boot_id() -> UUID:
    """
    Return the id the kernel drew when the machine was started, or the nil uuid where there is none.
    """
    try:
        return UUID(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    except OSError:
        return UUID(int=0)


def reason_for(aside: Path) -> str | None:
    """
    Return the reason that `set_aside()` wrote for this file, or None when it is gone.
    """
    note = aside.with_name(f"{aside.name.removesuffix('.corrupt')}.reason")
    try:
        return note.read_text(encoding="utf-8").strip()
    except OSError:
        return None
