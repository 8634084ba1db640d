"""
What can be observed: one frozen record per kind of event, handed to small hooks.

The default hook writes structlog events named ``audit_buffer.<kind>`` under the vocabulary of the documentation.
There is no event per record: the rarest useful unit is a batch. Counters are not here; they are plain ints in
`AuditBuffer.stats()`, kept always and pulled by whoever wants them.

Events are emitted by the writer's thread or by the caller's, never under the channel's lock.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, ClassVar
from uuid import UUID

import attrs
import structlog


__all__ = [
    "BatchCommitted",
    "BatchFailed",
    "BufferClosedEvent",
    "BufferOpened",
    "DurabilityNotice",
    "EntriesDropped",
    "EntriesLeft",
    "EntryQuarantinedEvent",
    "Event",
    "Hook",
    "IntegrityAlarmEvent",
    "RingNearlyFull",
    "RingPlaceUnsuited",
    "RingRefused",
    "RingReplaced",
    "RowsLost",
    "SinkUnavailable",
    "WriterFailed",
    "emit",
    "log_event",
    "set_hooks",
]


@attrs.frozen(kw_only=True)
class Event:
    """
    Base of every event.

    Attributes:
        buffer_id: The buffer it is about.
    """

    level: ClassVar[str] = "info"
    buffer_id: UUID | None

    @property
    def name(self) -> str:
        """
        Return the structlog name, ``audit_buffer.`` and the class name in snake case.
        """
        return "audit_buffer." + _snake_case(type(self).__name__.removesuffix("Event"))


@attrs.frozen(kw_only=True)
class BufferOpened(Event):
    """
    A buffer takes entries.
    """

    target: str
    durability: str


@attrs.frozen(kw_only=True)
class DurabilityNotice(Event):
    """
    No place for a ring file is known, so the level is "memory"; said once a process.
    """

    level: ClassVar[str] = "warning"
    durability: str
    meaning: str
    remedy: str


@attrs.frozen(kw_only=True)
class BatchCommitted(Event):
    """
    One transaction was committed.
    """

    level: ClassVar[str] = "debug"
    first_seq: int
    last_seq: int
    entries: int
    reason: str
    seconds: float


@attrs.frozen(kw_only=True)
class BatchFailed(Event):
    """
    A batch was not committed; it is kept and tried again after *retry_in* seconds. With *advice*, it cannot succeed before
    somebody follows that.
    """

    level: ClassVar[str] = "warning"
    first_seq: int
    last_seq: int
    attempt: int
    retry_in: float
    error: str
    advice: str = ""


@attrs.frozen(kw_only=True)
class EntriesDropped(Event):
    """
    The policy dropped entries and the gap row that says so was written.
    """

    level: ClassVar[str] = "warning"
    first_seq: int
    last_seq: int
    dropped: int
    policy: str


@attrs.frozen(kw_only=True)
class EntryQuarantinedEvent(Event):
    """
    The database refused an entry for good; it was set aside under its seq.
    """

    level: ClassVar[str] = "error"
    seq: int
    error: str


@attrs.frozen(kw_only=True)
class IntegrityAlarmEvent(Event):
    """
    What is stored under these seqs is not ours; our entries go on under the buffer_id *continued_as*. If that is None, these rows
    were committed and are gone, as in a failover, and the ring does not retain them any more.
    """

    level: ClassVar[str] = "error"
    first_seq: int
    last_seq: int
    continued_as: str | None


@attrs.frozen(kw_only=True)
class RingNearlyFull(Event):
    """
    Four fifths of the room are taken; said once until the ring is less than half full again.
    """

    level: ClassVar[str] = "warning"
    pending: int
    pending_bytes: int
    last_error: str | None


@attrs.frozen(kw_only=True)
class RingPlaceUnsuited(Event):
    """
    The folder of the ring files lies on a file system that promises less.
    """

    level: ClassVar[str] = "warning"
    path: str
    why: str


@attrs.frozen(kw_only=True)
class RingRefused(Event):
    """
    An orphan could not be adopted, or not to its end: it was set aside, or left untouched.
    """

    level: ClassVar[str] = "error"
    error: str


@attrs.frozen(kw_only=True)
class RingReplaced(Event):
    """
    A sync failed. With *replaced* the live entries are safe in a new ring file; without, look at *error*.
    """

    level: ClassVar[str] = "error"
    error: str
    replaced: bool


@attrs.frozen(kw_only=True)
class RowsLost(Event):
    """
    The database has lost rows that it had committed, as in a failover; at most *resent* of them, the newest, are written again.
    """

    level: ClassVar[str] = "error"
    first_seq: int
    last_seq: int
    resent: int


@attrs.frozen(kw_only=True)
class SinkUnavailable(Event):
    """
    The database could not be reached when the buffer was made; entries wait until it can.
    """

    level: ClassVar[str] = "warning"
    error: str


@attrs.frozen(kw_only=True)
class WriterFailed(Event):
    """
    The writer met an error outside the sink; it goes on, or the buffer has failed.
    """

    level: ClassVar[str] = "error"
    error: str
    failed: bool


@attrs.frozen(kw_only=True)
class EntriesLeft(Event):
    """
    The process ends with entries that are not committed: kept in the ring file, or lost.
    """

    level: ClassVar[str] = "error"
    entries: int
    lost: bool
    last_error: str | None


@attrs.frozen(kw_only=True)
class BufferClosedEvent(Event):
    """
    Everything is committed and the writer has ended.
    """

    committed: int


Hook = Callable[[Event], object]


def log_event(event: Event) -> None:
    """
    Write *event* through structlog.

    While the application has not configured structlog, only warnings and errors are written, to standard error:
    standard output belongs to the program.
    """
    if structlog.is_configured():
        logger: Any = structlog.get_logger("audit_buffer")
    elif event.level in ("warning", "error"):
        logger = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
    else:
        return
    fields = attrs.asdict(event)
    if event.buffer_id is not None:
        fields["buffer_id"] = event.buffer_id.hex
    getattr(logger, event.level)(event.name, **fields)


_hooks: list[Hook] = [log_event]


def set_hooks(hooks: Iterable[Hook]) -> None:
    """
    Replace the hooks; `log_event` is the only one at first. For the whole process, from any thread.
    """
    _hooks[:] = hooks


def emit(event: Event) -> None:
    """
    Hand *event* to every hook. A hook that raises is reported on standard error and harms nobody.
    """
    for hook in tuple(_hooks):
        try:
            hook(event)
        except Exception:
            _complain()


def _complain() -> None:
    try:
        traceback.print_exc()
    except (OSError, ValueError):
        # Standard error is closed, as in some daemons: there is nobody left to tell.
        return


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
