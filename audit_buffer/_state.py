"""
The states of a buffer and the frozen records that cross between its threads. No behaviour.
"""

from __future__ import annotations

import enum

import attrs

from audit_buffer._ring import Stored
from audit_buffer._timing import FlushReason


__all__ = ["TRANSITIONS", "Attention", "Snapshot", "State", "Taken"]


class State(enum.Enum):
    """
    The life of a buffer: OPEN → CLOSING → CLOSED, and FAILED from any of them.
    """

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.CLOSING, State.FAILED}),
    State.CLOSING: frozenset({State.CLOSED, State.FAILED}),
    State.CLOSED: frozenset({State.FAILED}),
    State.FAILED: frozenset(),
}


class Attention(enum.Flag):
    """
    What a call that crossed a threshold must do once it is outside the lock.
    """

    NOTHING = 0
    START_WRITER = enum.auto()
    NEARLY_FULL = enum.auto()


@attrs.frozen(kw_only=True)
class Taken:
    """
    What the writer writes next: everything after seq *after* up to *through*; a seq without an entry was dropped.
    """

    after: int
    through: int
    entries: list[Stored]
    size: int
    reason: FlushReason


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    All numbers of a channel at one moment; `BufferStats` documents them.
    """

    state: State
    published: int
    synced: int
    committed: int
    pending: int
    pending_bytes: int
    oldest_age: float
    dropped: int
    blocked_seconds: float
    last_error: BaseException | None
