"""
Write-behind audit recording: `record()` costs a few microseconds, and what it returned is not lost.

General layout, from the top; imports go strictly downward:

- `_opening`: `open_audit()`, which may give the plain service instead
- `buffer`: `AuditBuffer`, the wiring and the face of the wrapped service
- `_health`: one look at buffer, ring and database; `_assessment` judges it
- `_lifecycle`: the exit hook and the forked child (`_fork`, `_signals`)
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
"""

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
