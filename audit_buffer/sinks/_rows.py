"""
Rows of `audit_log` as dictionaries: of an entry, of a gap, and of an entry in quarantine.
"""

from __future__ import annotations

import base64
import time
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from audit_buffer._codec import EntryCodec, from_micros
from audit_buffer.entry import GAP_EVENT_TYPE, QUARANTINED_EVENT_TYPE
from audit_buffer.sinks._faults import explained
from audit_buffer.sinks._protocol import Batch, Gap


__all__ = ["entry_row", "gap_row", "now", "quarantined_row"]


def entry_row(buffer_id: UUID | None, seq: int | None, payload: bytes) -> dict[str, Any]:
    """
    Return the columns of one encoded entry; details stay the JSON text they are.
    """
    row = EntryCodec.decode(payload)
    recorded_at = from_micros(row.recorded)
    return {
        "buffer_id": buffer_id,
        "seq": seq,
        "recorded_at": recorded_at,
        "occurred_at": recorded_at if row.occurred is None else from_micros(row.occurred),
        "event_type": row.event_type,
        "actor": row.actor,
        "resource": row.resource,
        "outcome": row.outcome,
        "correlation_id": row.correlation_id,
        "details": row.details_text(),
    }


def gap_row(batch: Batch, gap: Gap) -> dict[str, Any]:
    """
    Return the columns of the row that says which entries were dropped.
    """
    details = {
        "dropped": gap.dropped,
        "first_seq": gap.first_seq,
        "last_seq": gap.last_seq,
        "policy": batch.policy,
    }
    return _own_row(batch.buffer_id, gap.last_seq, now(), GAP_EVENT_TYPE, "dropped", details)


def quarantined_row(batch: Batch, error: BaseException, *, plainly: bool) -> dict[str, Any]:
    """
    Return the columns of the row that stands in the place of the one entry of *batch*.

    Args:
        plainly: With the entry as the JSON it is, at the time it was recorded, and the error in full; else as base64, now, and
            without the message, so that nothing of the entry can be what the database refuses.
    """
    ((seq, payload),) = batch.stored
    why = explained(error, briefly=not plainly)
    recorded_at, kept = now(), msgspec.json.encode(base64.b64encode(payload).decode())
    if plainly:
        try:
            recorded_at, kept = from_micros(EntryCodec.decode(payload).recorded), payload
        except msgspec.MsgspecError:
            pass  # base64 it is
    details = b'{"error":%s,"payload":%s}' % (msgspec.json.encode(why), kept)
    return _own_row(
        batch.buffer_id, seq, recorded_at, QUARANTINED_EVENT_TYPE, "quarantined", details.decode()
    )


def now() -> datetime:
    """
    Return this moment, as the database keeps it.
    """
    return from_micros(time.time_ns() // 1000)


def _own_row(
    buffer_id: UUID, seq: int, moment: datetime, event_type: str, outcome: str, details: object
) -> dict[str, Any]:
    return {
        "buffer_id": buffer_id,
        "seq": seq,
        "recorded_at": moment,
        "occurred_at": moment,
        "event_type": event_type,
        "actor": None,
        "resource": None,
        "outcome": outcome,
        "correlation_id": None,
        "details": details,
    }
