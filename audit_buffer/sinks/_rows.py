"""
Rows of `audit_log`: of a batch's entries, as tuples; and as dictionaries, of one entry, of a gap, and of an entry in quarantine.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from audit_buffer._codec import EntryCodec, from_micros
from audit_buffer._ring import Stored
from audit_buffer.entry import GAP_EVENT_TYPE, QUARANTINED_EVENT_TYPE
from audit_buffer.sinks._faults import explained
from audit_buffer.sinks._protocol import Batch, Gap


__all__ = [
    "COLUMNS",
    "Row",
    "entry_row",
    "gap_row",
    "make_rows_in_python",
    "now",
    "quarantined_row",
    "rows_of",
]

COLUMNS = (
    "buffer_id",
    "seq",
    "recorded_at",
    "occurred_at",
    "event_type",
    "actor",
    "resource",
    "outcome",
    "correlation_id",
    "details",
)

# The values of COLUMNS: the id in hexadecimal, times as text, details as JSON text.
Row = tuple[str, int, str, str, str, str | None, str | None, str, str | None, str | None]

# An encoded entry as it lies in the ring, up to its details, and with them as the JSON they are.
_Head = tuple[int, int | None, str, str | None, str | None, str, str | None]
_Entry = tuple[int, int | None, str, str | None, str | None, str, str | None, msgspec.Raw]
_decode_head = msgspec.json.Decoder(_Head).decode
_decode = msgspec.json.Decoder(_Entry).decode


def rows_of(buffer_id: UUID, stored: Sequence[Stored]) -> list[Row]:
    """
    Return the rows of the entries in *stored*.
    """
    return make_rows(buffer_id.hex, stored, _decode_head, _text)


def make_rows_in_python(
    identity: str, stored: Sequence[Stored], decode_head: object, as_text: Callable[[int], str]
) -> list[Row]:
    """
    Return the rows of the entries in *stored*; the part of a time up to the second is made once per second.

    Args:
        identity: The id of their buffer, in hexadecimal.
        decode_head: Takes an entry apart that ends in front of its details; only the twin in C needs it.
        as_text: Makes the text of a time in microseconds, as every database reads it.
    """
    rows: list[Row] = []
    append, decode = rows.append, _decode
    second, head = 0, ""
    for seq, payload in stored:
        recorded, occurred, event_type, actor, resource, outcome, correlation_id, raw = decode(payload)
        micros = recorded - second
        if not head or not 0 <= micros < 1_000_000:
            second = recorded // 1_000_000 * 1_000_000
            micros, head = recorded - second, as_text(second)[:20]
        at = f"{head}{micros:06d}"
        details = str(raw, "utf-8")
        append(
            (
                identity,
                seq,
                at,
                at if occurred is None else as_text(occurred),
                event_type,
                actor,
                resource,
                outcome,
                correlation_id,
                None if details == "null" else details,
            )
        )
    return rows


def _text(micros: int) -> str:
    return from_micros(micros).replace(tzinfo=None).isoformat(" ", "microseconds")


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


try:
    from audit_buffer._speedups import make_rows
except ImportError:
    make_rows = make_rows_in_python
