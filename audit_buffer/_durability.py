"""
Which durability level is in force, where the ring file lies, and how it is opened. One answer for each buffer.

The level is "process" wherever a place is known: `ring_dir`, or a SQLite file, beside which the ring lies as its
``-wal`` does. A place that cannot be used is an error with its remedy, never a silent step down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from uuid import UUID, uuid4

import attrs
from sqlalchemy import Engine

from audit_buffer import instrumentation
from audit_buffer._kept import Retention
from audit_buffer._ring import MemoryRing, Payload, Ring, Stored
from audit_buffer._ring_file import SUFFIX, UNFINISHED, RingFile
from audit_buffer._ring_header import LABEL_LIMIT
from audit_buffer._ring_recovery import orphans, unsuited_filesystem
from audit_buffer.config import BufferConfig, Durability
from audit_buffer.errors import ConfigError, RingError
from audit_buffer.sinks._engines import database_name, sqlite_file


__all__ = ["Place", "UnopenedRing", "place_for"]

_MEMORY_ENTRIES = 10_000
_MEMORY_BYTES = 32 * 1024 * 1024
_said = Lock()  # taken by the first buffer that says what "memory" means, and never given back


@attrs.frozen(kw_only=True)
class Place:
    """
    Where the entries of a buffer lie until they are committed.

    Attributes:
        level: The durability level in force.
        directory: Folder of the ring files, None at "memory".
        label: What the target is, and in which database; a buffer adopts only rings with its own label.
        size: Bytes of a ring file.
        retention: How long acknowledged entries stay in the ring.
    """

    level: Durability
    directory: Path | None
    label: str
    size: int
    retention: Retention = Retention()  # noqa: RUF009  (frozen)

    def open_ring(self, buffer_id: UUID | None = None) -> Ring:
        """
        Return a new, empty ring.

        Raises:
            ConfigError: The ring file cannot be made there.
        """
        ring = MemoryRing(buffer_id) if self.directory is None else self._create(self.directory, buffer_id)
        ring.retain(self.retention)
        return ring

    def _create(self, directory: Path, buffer_id: UUID | None) -> Ring:
        try:
            return RingFile.create(directory, label=self.label, size=self.size, buffer_id=buffer_id)
        except RingError as error:
            remedy = f"{error} Or set durability='memory', which keeps nothing when the process is killed."
            raise ConfigError("ring_dir", str(directory), remedy) from error

    def may_have_orphans(self, own: Ring) -> bool:
        """
        Tell whether the folder holds any ring file but *own*, finished or not.
        """
        if self.directory is None:
            return False
        try:
            found = [path.name for path in self.directory.iterdir()]
        except OSError:
            return False  # gone, or no longer ours: whoever opens a ring there is told
        mine = own.buffer_id.hex + SUFFIX
        return any(name != mine and name.endswith((SUFFIX, UNFINISHED)) for name in found)

    def orphans(self, on_refused: Callable[[RingError], object]) -> Iterator[RingFile]:
        """
        Yield what ended processes have left for this target.
        """
        return (
            iter(()) if self.directory is None else orphans(self.directory, self.label, on_refused=on_refused)
        )

    def bounds(self, config: BufferConfig) -> BufferConfig:
        """
        Return *config* with the bounds that hold here filled in.
        """
        entries, size = (_MEMORY_ENTRIES, _MEMORY_BYTES) if self.directory is None else (None, self.size)
        return config.evolve(
            queue_maxsize=config.queue_maxsize or entries, queue_max_bytes=config.queue_max_bytes or size
        )


def place_for(config: BufferConfig, label: str, engine: Engine | None) -> Place:
    """
    Decide level and folder, and say once a process what "memory" means where nobody chose it.

    Raises:
        ConfigError: The level needs a folder and none is known.
    """
    if engine is not None:
        label = f"{label}@{database_name(engine)}"
    directory = config.ring_dir or _beside(engine)
    level = config.durability or ("memory" if directory is None else "process")
    if level == "memory":
        if config.durability is None:
            _say_memory()
        directory = None
    elif directory is None:
        raise ConfigError("durability", level, "needs a place for the ring file: set ring_dir")
    elif unsuited := unsuited_filesystem(directory):
        instrumentation.emit(
            instrumentation.RingPlaceUnsuited(buffer_id=None, path=str(directory), why=unsuited)
        )
    return Place(
        level=level,
        directory=directory,
        label=_shortened(label),
        size=config.ring_bytes,
        retention=_retention(config, in_memory=directory is None),
    )


def _retention(config: BufferConfig, *, in_memory: bool) -> Retention:
    """
    Return what the ring retains; in memory, where no file bounds it, at most as much as waits there.
    """
    size = config.retain_bytes
    if in_memory and config.retain_seconds and not size:
        size = config.queue_max_bytes or _MEMORY_BYTES
    return Retention(config.retain_seconds, size)


def _shortened(label: str) -> str:
    """
    Return *label*, or what the header of a ring file holds of it and a checksum of the whole.
    """
    if len(label.encode()) <= LABEL_LIMIT:
        return label
    checksum = blake2b(label.encode(), digest_size=8).hexdigest()
    head = label.encode()[: LABEL_LIMIT - len(checksum) - 1].decode(errors="ignore")
    return f"{head}~{checksum}"


def _beside(engine: Engine | None) -> Path | None:
    path = None if engine is None else sqlite_file(engine)
    return None if path is None else Path(path + "-ring").absolute()


def _say_memory() -> None:
    if _said.acquire(blocking=False):
        instrumentation.emit(
            instrumentation.DurabilityNotice(
                buffer_id=None,
                durability="memory",
                meaning="entries that are not committed are lost when the process is killed",
                remedy="set ring_dir to a folder on a local disk, or durability='memory' if that is meant",
            )
        )


class UnopenedRing:
    """
    The ring of a forked child until it records for the first time: a child that never does makes no file.

    Args:
        open_ring: Makes the real one.
        replace: Puts the real one in this one's place.
    """

    survives_exit = False
    room_awaits_sync = False
    last_seq = 0

    def __init__(self, open_ring: Callable[[UUID], Ring], replace: Callable[[Ring], None]) -> None:
        self.buffer_id = uuid4()
        self._open_ring = open_ring
        self._replace = replace

    def put(self, seq: int, payload: Payload) -> bool:
        """
        Make the real ring and put the entry there.
        """
        ring = self._open_ring(self.buffer_id)
        self._replace(ring)
        return ring.put(seq, payload)

    def has_room(self, size: int) -> bool:
        """
        Tell that there is room.
        """
        return True

    def fits(self, count: int, size: int) -> bool:
        """
        Tell that there is room.
        """
        return True

    def take(self, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return nothing.
        """
        return []

    def rewind(self, after: int) -> None:
        """
        Nothing was taken.
        """

    def skip(self) -> Stored | None:
        """
        Return nothing.
        """
        return None

    def release(self, through: int, now: float = 0.0) -> None:
        """
        Nothing was taken.
        """

    def retain(self, retention: Retention) -> None:
        """
        The real ring is told when it is made.
        """

    def recall(self, after: int, now: float = 0.0) -> int:
        """
        Nothing was released.
        """
        return after

    def recalled(self, after: int, through: int, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return nothing.
        """
        return []

    def sync(self) -> None:
        """
        Nothing was put.
        """

    def successor(self, buffer_id: UUID | None = None) -> Ring:
        """
        Return this ring.
        """
        self.buffer_id = buffer_id or self.buffer_id
        return self

    def close(self) -> None:
        """
        There is no file.
        """
