"""
Write-behind audit recording: `record()` costs a few microseconds, and what it returned is not lost.

General layout, from the top; imports go strictly downward:

- `_opening`: `open_audit()`, which may give the plain service instead
- `buffer`: `AuditBuffer`, the wiring and the face of the wrapped service
- `_health`: one look at buffer, ring and database; `_assessment` judges it
- `_lifecycle`: the end of the process and the forked child (`_exit`, `_fork`, `_signals`)
- `_admission`: what happens when the ring is full
- `_writer`, `_syncer`: the two steps; `_worker` is the thread around each, `_reports` what they tell
- `_recorders`: `record()` for each kind of target
- `_durability`: which level is in force, and where the ring lies
- `_delivery`: each entry once; `_adoption`: also from the rings of ended processes; `_restoring`: what the database has
  lost since; `_narrowing`: how a refused batch is cut
- `service`: `AuditService`, synchronous
- `sinks`: where batches go, one module for each kind of target
- `schema`: tables and column types
- `_channel`: THE lock and all waiting, in four files (`_channel_core`, `_publishing`, `_syncing`); `_ledger` is the numbers under it,
  `_turn` how `record()` takes it
- `_ring`: the FIFO of encoded entries, in memory; `_ring_file` and below: in a mapped file
- `_codec`: an entry as bytes, validated; `_values`: rows and calls
- `_timing`: clocks, and decisions as pure functions
- `config`, `entry`, `errors`, `events`, `instrumentation`: what everybody uses

A name below is imported when it is first used: nobody waits for SQLAlchemy who only wants to see the version, and a program pays for
what it uses. Only `_exit` comes at once, for its place among the exit hooks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from audit_buffer import _exit as _exit


if TYPE_CHECKING:
    from audit_buffer._assessment import Finding
    from audit_buffer._health import Health, RingUsage
    from audit_buffer._opening import open_audit
    from audit_buffer.buffer import AuditBuffer
    from audit_buffer.config import BufferConfig
    from audit_buffer.entry import AuditEntry
    from audit_buffer.errors import (
        AuditBufferError,
        BufferClosed,
        BufferFull,
        ConfigError,
        EntryQuarantined,
        EntryRejected,
        FlushTimeout,
        IntegrityAlarm,
        RingCorrupt,
        RingError,
        RingInUse,
        RingVersionUnsupported,
        SinkError,
    )
    from audit_buffer.events import DomainEvent, EventBus
    from audit_buffer.service import AuditService
    from audit_buffer.sinks import Batch, Gap, Sink, TableSink
    from audit_buffer.sinks._settings import DatabaseSettings
    from audit_buffer.stats import BufferStats

__version__ = "0.1.0"

__all__ = [
    "AuditBuffer",
    "AuditBufferError",
    "AuditEntry",
    "AuditService",
    "Batch",
    "BufferClosed",
    "BufferConfig",
    "BufferFull",
    "BufferStats",
    "ConfigError",
    "DatabaseSettings",
    "DomainEvent",
    "EntryQuarantined",
    "EntryRejected",
    "EventBus",
    "Finding",
    "FlushTimeout",
    "Gap",
    "Health",
    "IntegrityAlarm",
    "RingCorrupt",
    "RingError",
    "RingInUse",
    "RingUsage",
    "RingVersionUnsupported",
    "Sink",
    "SinkError",
    "TableSink",
    "open_audit",
]

# Where each name comes from; the imports above tell the same to type checkers.
_HOMES = {
    "_assessment": ("Finding",),
    "_health": ("Health", "RingUsage"),
    "_opening": ("open_audit",),
    "buffer": ("AuditBuffer",),
    "config": ("BufferConfig",),
    "entry": ("AuditEntry",),
    "errors": (
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
    ),
    "events": ("DomainEvent", "EventBus"),
    "instrumentation": (),
    "schema": (),
    "service": ("AuditService",),
    "sinks": ("Batch", "Gap", "Sink", "TableSink"),
    "sinks._settings": ("DatabaseSettings",),
    "stats": ("BufferStats",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """
    Import what *name* stands for: one of ``__all__``, or a public module such as ``audit_buffer.errors``. See PEP 562.
    """
    if name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
