"""
Every error this library raises.

::

    AuditBufferError
    ├── BufferFull              the ring has no room and waiting was not allowed or did not help
    ├── BufferClosed            record() after close()
    ├── FlushTimeout            a barrier was not reached before its deadline
    ├── EntryRejected           an argument of record() cannot be stored as it is (also a ValueError)
    ├── SinkError               the database (or the wrapped object) refused a batch
    │   └── EntryQuarantined    it refused one entry for good, which was set aside under its seq (told, never raised)
    ├── IntegrityAlarm          what is stored under our seqs is not what we recorded (told, never raised)
    ├── RingError               the ring file cannot be used
    │   ├── RingCorrupt         damage in the middle of a ring file
    │   ├── RingInUse           another living process owns the ring file
    │   └── RingVersionUnsupported
    └── ConfigError             a setting has an unknown name or an impossible value (also a ValueError)

Each carries what a program needs as attributes; nobody has to parse a message. Errors of the driver or of
the operating system are translated once, where they enter, and are kept as ``__cause__``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID


__all__ = [
    "AuditBufferError",
    "BufferClosed",
    "BufferFull",
    "ConfigError",
    "EntryQuarantined",
    "EntryRejected",
    "FlushTimeout",
    "IntegrityAlarm",
    "RingCorrupt",
    "RingError",
    "RingInUse",
    "RingVersionUnsupported",
    "SinkError",
]

_MOST_SHOWN = 200


class AuditBufferError(Exception):
    """
    Base of everything raised on purpose by `audit_buffer`.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """
        Pickle message and attributes, not the call that made them: a `multiprocessing.Pool` whose worker raised
        something that cannot be unpickled waits for ever.
        """
        return _restored, (type(self), self.args), self.__dict__


def shown(value: object) -> str:
    """
    Return *value* for a message: its repr, cut short, whatever that raises.
    """
    try:
        text = repr(value)
    except Exception as error:
        # A huge int, or a class of the application whose repr is broken.
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"


def _restored(kind: type[AuditBufferError], args: tuple[Any, ...]) -> AuditBufferError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class BufferFull(AuditBufferError):
    """
    `record()` found no room; nothing was stored.

    Slow the producer, raise `queue_maxsize` / `queue_max_bytes` / `ring_bytes`, or find out from
    *last_error* why the writer does not get on.

    Attributes:
        depth: Entries that wait for the database.
        pending_bytes: Their encoded size in bytes.
        oldest_age: Seconds the oldest of them has waited.
        last_error: What the writer met last, or None when the database is merely slow.
    """

    def __init__(
        self,
        reason: str,
        *,
        depth: int,
        pending_bytes: int,
        oldest_age: float,
        last_error: BaseException | None = None,
    ) -> None:
        message = (
            f"{reason}: {depth} entries ({pending_bytes} bytes) wait for the database, "
            f"the oldest for {oldest_age:.3f} s"
        )
        if last_error is not None:
            message += f"; the writer last met {last_error!r}"
        super().__init__(message)
        self.depth = depth
        self.pending_bytes = pending_bytes
        self.oldest_age = oldest_age
        self.last_error = last_error


class BufferClosed(AuditBufferError):
    """
    The buffer was closed (or has failed for good) and takes no more entries.

    Keep the buffer open for as long as something records, or make a new one.
    """


class FlushTimeout(AuditBufferError):
    """
    `flush()`, `wait()` or `close()` reached its deadline first. Nothing is lost: the entries still wait.

    Attributes:
        remaining: How many entries the barrier still waits for.
        last_error: What the writer met last, or None.
    """

    def __init__(self, remaining: int, timeout: float, last_error: BaseException | None) -> None:
        message = f"{remaining} entries still wait after {timeout:g} s"
        if last_error is not None:
            message += f"; the writer last met {last_error!r}"
        super().__init__(message)
        self.remaining = remaining
        self.last_error = last_error


class EntryRejected(AuditBufferError, ValueError):
    """
    An argument of `record()` cannot be stored and come back equal; nothing was stored.

    The message names the argument, the value and the remedy.

    Attributes:
        field: Name of the refused argument, or None when the entry as a whole is refused.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class SinkError(AuditBufferError):
    """
    The database, or the wrapped object, did not take a batch. The entries are kept.

    The driver's error is the ``__cause__``.

    Attributes:
        advice: What a person can do about it, where that is known; the entries wait until it is done.
    """

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(f"{message}; {advice}" if advice else message)
        self.advice = advice


class EntryQuarantined(SinkError):
    """
    The database refused one entry for good; the entry was quarantined under its seq, and the buffer went on.

    Handed to `on_error`, and kept as `stats().last_error`. Look with ``audit-buffer quarantine list``, remove the cause, and bring
    the entry back with ``audit-buffer quarantine retry``. The database's own error is the ``__cause__``.

    Attributes:
        buffer_id: Whose entry it is.
        seq: Its number.
    """

    def __init__(self, message: str, *, buffer_id: UUID, seq: int) -> None:
        super().__init__(message)
        self.buffer_id = buffer_id
        self.seq = seq


class IntegrityAlarm(AuditBufferError):
    """
    What the database has under this buffer's seqs is not what this buffer recorded.

    Two processes write under one buffer_id (a cloned machine, a copied ring file), or somebody changed rows. Nothing is
    overwritten and nothing is lost: the buffer's entries go on under a new buffer_id. Handed to `on_error`, and kept
    as `stats().last_error`. Find out who wrote the other rows.

    Or rows that the database had committed are gone (a failover to a standby that was behind, a restored backup, a DELETE), and the
    ring does not retain them any more: then *continued_as* is None, the buffer goes on, and a gap row with the policy "lost" stands
    in their place. Make the tail longer (`retain_seconds`, `retain_bytes`), or the standby synchronous.

    Attributes:
        buffer_id: The buffer whose rows these should be.
        first_seq: The first seq in question.
        last_seq: The last one.
        continued_as: The buffer_id under which the entries from *first_seq* on are written, with the seqs that `record()`
            returned; None when the rows are gone.
    """

    def __init__(
        self,
        message: str,
        *,
        buffer_id: UUID,
        first_seq: int,
        last_seq: int,
        continued_as: UUID | None = None,
    ) -> None:
        super().__init__(message)
        self.buffer_id = buffer_id
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.continued_as = continued_as


class RingError(AuditBufferError):
    """
    The ring file cannot be created, mapped, synced or read.

    The one error of `record()` that leaves its entry behind has a *seq*: at "sync", where neither this ring file nor a new one
    can be synced. The entry is in the ring file, survives this process, and is written by the next start. Do not record it
    again; what is not known is whether it survives a power cut.

    Attributes:
        path: The file concerned.
        seq: The entry that is kept, or None.
    """

    def __init__(self, message: str, *, path: Path, seq: int | None = None) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.seq = seq


class RingCorrupt(RingError):
    """
    A record after a damaged one is intact, so the damage is not a torn end.

    The intact prefix was delivered and the file was set aside; keep it for the investigation.
    """


class RingInUse(RingError):
    """
    A living process holds this ring file. Stop that process, or leave the ring to it.
    """


class RingVersionUnsupported(RingError):
    """
    The file was written by a version, or uses a feature, this library does not know. It was left untouched.
    """


class ConfigError(AuditBufferError, ValueError):
    """
    A setting has an unknown name or a value that cannot work.

    Attributes:
        key: Name of the setting.
        value: What was given.
        allowed: What is allowed, or the remedy.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key} = {value!r}: {allowed}")
        self.key = key
        self.value = value
        self.allowed = allowed
