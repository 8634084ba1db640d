"""
What a start-up and a curious operator do with the ring files of a directory.

Guarantees:
    * `orphans()` hands out each ring without an owner to one process only, locked, and never touches one with an owner.
    * A file nobody could make sense of does not keep the others from being delivered.
    * Killed anywhere, it can be repeated: a file goes only after all it held was released.
    * `inspect()` takes no lock, not even for a moment, and writes nothing.

Assumptions:
    * Called without locks, from any thread; each `RingFile` then belongs to the caller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from mmap import ACCESS_READ, mmap
from pathlib import Path
from uuid import UUID

import attrs

from . import _ring_disk as disk
from ._frame import scan
from ._ring_file import SUFFIX, UNFINISHED, RingFile
from ._ring_header import DATA_START, Header, newest_header
from ._ring_reader import judge_end
from .errors import RingCorrupt, RingError, RingInUse, RingVersionUnsupported


__all__ = ["RingReport", "RingState", "inspect", "is_for", "orphans", "unsuited_filesystem"]

# RingReport has an attribute of the name `bytes`.
Payload = bytes


def orphans(
    directory: Path, label: str, *, on_refused: Callable[[RingError], object] | None = None
) -> Iterator[RingFile]:
    """
    Yield each ring with *label* whose owner is gone, locked and ready for `take()`, in the order of their creation.

    After a ring is exhausted: release, then `close()` (which unlinks it), or `set_aside(ring.damage)` when there is damage.
    The caller closes each ring it was given; one that is closed before everything was released stays for the next time.

    Args:
        directory: Where to look; one that does not exist holds no orphans.
        label: Only rings of this target; see `is_for()`.
        on_refused: Told of each file that cannot be adopted: `RingVersionUnsupported` (left untouched),
            `RingCorrupt` (set aside), or another `RingError`. Without it the error is raised.
    """
    for path in _oldest_first(directory):
        try:
            ring = _adopt(path, label)
        except RingError as error:
            if on_refused is None:
                raise
            on_refused(error)
            continue
        if ring is not None:
            yield ring


def is_for(found: str, label: str) -> bool:
    """
    Tell whether a ring labelled *found* is for *label*.

    A label ends in ``@`` and the database. Without that it stands for the same target in any database, for whoever says
    otherwise which one is meant.
    """
    return found == label or ("@" not in label and found.startswith(f"{label}@"))


def _oldest_first(directory: Path) -> list[Path]:
    """
    Return the ring files by their creation, as far as it can be read, and remove what was never finished.
    """
    for path in disk.list_files(directory, f"*{SUFFIX}.*{UNFINISHED}"):
        _remove_unfinished(path)
    created: dict[Path, int] = {}
    for path in disk.list_files(directory, f"*{SUFFIX}"):
        try:
            created[path] = _peek(path).created_us
        except (RingError, FileNotFoundError):
            created[path] = 0  # What is wrong with it comes out when it is adopted.
    return sorted(created, key=lambda path: (created[path], path))


def _peek(path: Path) -> Header:
    fd = disk.open_existing(path, writable=False)
    try:
        return newest_header(disk.read_start(fd, DATA_START, path), path)[0]
    finally:
        os.close(fd)


def _adopt(path: Path, label: str) -> RingFile | None:
    """
    Return the ring, or None when it is another target's, or another process's, or gone.
    """
    try:
        if not is_for(_peek(path).label, label):
            return None
    except RingCorrupt:
        pass  # Nobody can tell whose it is; whoever finds it sets it aside.
    except FileNotFoundError:
        return None
    try:
        return RingFile.adopt(path)
    except (RingInUse, FileNotFoundError):
        return None
    except RingCorrupt as error:
        _set_aside(path, error)
        raise


def _set_aside(path: Path, error: RingCorrupt) -> None:
    """
    Set aside a file of which not even the header can be used, unless another process is doing so.
    """
    with suppress(FileNotFoundError, RingInUse):
        fd = disk.open_existing(path, writable=True)
        try:
            disk.lock(fd, path)
            if disk.is_same_file(path, fd):
                disk.set_aside(path, str(error))
        finally:
            os.close(fd)


def _remove_unfinished(path: Path) -> None:
    """
    Remove a file that a killed process was still making; it never held an entry that was promised.
    """
    with suppress(FileNotFoundError, RingError):
        fd = disk.open_existing(path, writable=True)
        try:
            disk.lock(fd, path)
            if disk.is_same_file(path, fd):
                disk.unlink(path)
        finally:
            os.close(fd)


class RingState(Enum):
    """
    What has become of a ring file.
    """

    LIVE = "live"
    ORPHAN = "orphan"
    DAMAGED = "damaged"
    SET_ASIDE = "set aside"
    UNSUPPORTED = "unsupported"


@attrs.frozen(kw_only=True)
class RingReport:
    """
    What `inspect()` found out about one file.

    Attributes:
        path: The file.
        size: Its length in bytes.
        state: What has become of it.
        owner_pid: Process that last held it, or None when the header cannot be read.
        alive: Whether it has an owner now.
        label: Name of the target, or None.
        buffer_id: Whose entries it holds, or None.
        entries: How many entries it offers that are not known to be in the database.
        bytes: Their encoded size.
        first_seq: Number of the oldest of them, or None.
        last_seq: Number of the newest of them, or None.
        oldest_payload: The oldest of them as it was put, or None.
        damage: What is wrong, or None.
        torn: What a power cut took of what had not been synced, or None.
    """

    path: Path
    size: int
    state: RingState
    owner_pid: int | None = None
    alive: bool = False
    label: str | None = None
    buffer_id: UUID | None = None
    entries: int = 0
    bytes: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    oldest_payload: Payload | None = None
    damage: str | None = None
    torn: str | None = None


def inspect(directory: Path) -> list[RingReport]:
    """
    Report on every ring file in *directory*, also on those set aside, by name.

    The entries of a living owner move while they are counted; its figures are a moment's.
    """
    paths = [path for name in ("", ".corrupt") for path in disk.list_files(directory, f"*{SUFFIX}{name}")]
    found = (_report(path) for path in sorted(paths))
    return [report for report in found if report is not None]


def _report(path: Path) -> RingReport | None:
    try:
        fd = disk.open_existing(path, writable=False)
    except FileNotFoundError:
        return None
    except RingError as error:
        return RingReport(path=path, size=0, state=RingState.DAMAGED, damage=str(error))
    size = 0
    try:
        size = disk.size_of(fd, path)
        return _examine(path, fd, size)
    except RingVersionUnsupported as error:
        return RingReport(path=path, size=size, state=RingState.UNSUPPORTED, damage=str(error))
    except RingError as error:
        return RingReport(path=path, size=size, state=RingState.DAMAGED, damage=str(error))
    finally:
        os.close(fd)


def _examine(path: Path, fd: int, size: int) -> RingReport:
    header, _, _ = newest_header(disk.read_start(fd, DATA_START, path), path)
    disk.check_size(fd, header.size, path)
    alive = disk.is_locked(fd, header.owner_pid, path)
    with disk.translated(path, "map the ring file"), mmap(fd, size, access=ACCESS_READ) as mapping:
        report = _count(path, mapping, header, alive=alive)
    if path.name.endswith(".corrupt"):
        return attrs.evolve(report, state=RingState.SET_ASIDE, damage=report.damage or disk.reason_for(path))
    return report


def _count(path: Path, mapping: mmap, header: Header, *, alive: bool) -> RingReport:
    """
    Walk the intact prefix, one entry at a time.
    """
    position, last_seq = header.committed_position, header.committed_seq
    entries, total, first_seq, oldest = 0, 0, None, None
    for seq, payload, following in scan(mapping, header.layout, position, last_seq, header.stop):
        position = following
        if payload is not None:
            if oldest is None:
                first_seq, oldest = seq, payload
            entries, total, last_seq = entries + 1, total + len(payload), seq
    damage = torn = None
    if not alive:
        damage, torn = judge_end(mapping, header, position, last_seq, boot=disk.boot_id())
    return RingReport(
        path=path,
        size=header.size,
        state=RingState.LIVE if alive else RingState.DAMAGED if damage else RingState.ORPHAN,
        owner_pid=header.owner_pid,
        alive=alive,
        label=header.label,
        buffer_id=header.buffer_id,
        entries=entries,
        bytes=total,
        first_seq=first_seq,
        last_seq=last_seq if entries else None,
        oldest_payload=oldest,
        damage=damage,
        torn=torn,
    )


_UNSUITED = {
    "nfs": "locks and syncs over NFS depend on the server; a ring needs a local disk",
    "nfs4": "locks and syncs over NFS depend on the server; a ring needs a local disk",
    "cifs": "locks and syncs over SMB depend on the server; a ring needs a local disk",
    "smb3": "locks and syncs over SMB depend on the server; a ring needs a local disk",
    "overlay": "overlay is a container's own layer and goes with it; mount a volume for the ring",
    "tmpfs": "tmpfs is memory: the ring survives the process, but no reboot and no power cut",
    "ramfs": "ramfs is memory: the ring survives the process, but no reboot and no power cut",
    "btrfs": "btrfs copies on write, so allocated room does not keep a full disk from killing the process",
    "zfs": "zfs copies on write, so allocated room does not keep a full disk from killing the process",
    "bcachefs": "bcachefs copies on write, so allocated room does not keep a full disk from killing the process",
}


def unsuited_filesystem(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """
    Say why the file system below *path* is a poor place for a ring, or return None when it is good or unknown.

    Args:
        path: A directory, or where one will be made.
        mountinfo: The kernel's table of mounts.
    """
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    best, kind = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mount = Path(fields.split()[4].encode().decode("unicode_escape"))
        # Of two mounts at the same place the later one covers the earlier.
        if place.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), rest.split()[0]
    return _UNSUITED.get(kind.removeprefix("fuse."))
