"""
Whether what is stored under a batch's seqs is that batch: by the rows themselves, or by a chain of checksums where rows carry no
seq.

The chain has a value behind each entry, which follows from the value before it and the entry's seq and bytes. So one value stands
for everything through its seq, however it was cut into batches.

Pure; any thread.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Self

import attrs
import msgspec
from sqlalchemy import RowMapping

from audit_buffer._codec import EntryCodec, from_micros
from audit_buffer.entry import GAP_EVENT_TYPE, QUARANTINED_EVENT_TYPE
from audit_buffer.sinks._protocol import Batch


__all__ = ["Link", "chained", "first_difference", "quarantined_payload"]

_decode = msgspec.json.Decoder().decode

# Bytes of a value: two of them, as text with a full stop between, are what a column of 32 characters takes.
_SIZE = 11


def chained(start: bytes, batch: Batch) -> bytes:
    """
    Return the chain's value behind *batch*, *start* being the one in front of it.
    """
    value = start
    for seq, payload in batch.stored:
        value = blake2b(b"%b%d %d:%b" % (value, seq, len(payload), payload), digest_size=_SIZE).digest()
    return value


@attrs.frozen
class Link:
    """
    What a position row says of the entries before it.

    Attributes:
        last_seq: The position.
        first_seq: Where the last transaction began; None where nothing was written under this buffer_id.
        checksum: The chain's values in front of the last transaction and behind it, as text. Versions before the chain put 32
            hexadecimal digits there that say nothing of it, and None stands where nothing was written: a chain begins there.
    """

    last_seq: int
    first_seq: int | None = None
    checksum: str | None = None

    @property
    def values(self) -> tuple[bytes, bytes] | None:
        """
        Return the two values, or None where no chain is behind the row.
        """
        before, stop, behind = (self.checksum or "").partition(".")
        return (_value(before), _value(behind)) if stop else None

    @property
    def value(self) -> bytes:
        """
        Return the chain's value from which to go on.
        """
        values = self.values
        return (
            blake2b((self.checksum or "").encode(), digest_size=_SIZE).digest()
            if values is None
            else values[1]
        )

    def moved(self, batch: Batch) -> Self:
        """
        Return what the row says once *batch* is written behind it.
        """
        before = self.value
        text = f"{_text(before)}.{_text(chained(before, batch))}"
        return attrs.evolve(self, last_seq=batch.through, first_seq=batch.after + 1, checksum=text)


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _value(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=")


def first_difference(batch: Batch, rows: Iterable[RowMapping]) -> int | None:
    """
    Return the first seq under which *rows*, those of `audit_log` in the batch's range, have something else; None if none.

    A row that says that our entry was quarantined is ours. So is a gap row under a seq that we dropped.
    """
    stored = {row["seq"]: row for row in rows}
    ours = {seq for seq, payload in batch.stored if seq in stored and _is_entry(stored[seq], payload)}
    missing = {seq for seq, _ in batch.stored} - ours
    others = {seq for seq, row in stored.items() if seq not in ours and row["event_type"] != GAP_EVENT_TYPE}
    return min(missing | others, default=None)


def quarantined_payload(details: Any) -> bytes | None:
    """
    Return the entry that a quarantine row with these *details* keeps; None when they are something else's.
    """
    payload = details.get("payload") if isinstance(details, dict) else None
    if isinstance(payload, str):
        try:
            return base64.b64decode(payload, validate=True)
        except ValueError:
            return None
    return msgspec.json.encode(payload) if isinstance(payload, list) else None


def _is_entry(row: RowMapping, payload: bytes) -> bool:
    if row["event_type"] == QUARANTINED_EVENT_TYPE and _is_quarantine_of(row, payload):
        return True
    try:
        entry = EntryCodec.decode(payload)
    except msgspec.MsgspecError:
        return False
    recorded = from_micros(entry.recorded)
    return (
        bool(row["recorded_at"] == recorded)
        and row["occurred_at"] == (recorded if entry.occurred is None else from_micros(entry.occurred))
        and row["event_type"] == entry.event_type
        and row["actor"] == entry.actor
        and row["resource"] == entry.resource
        and row["outcome"] == entry.outcome
        and row["correlation_id"] == entry.correlation_id
        and row["details"] == entry.details_object()
    )


def _is_quarantine_of(row: RowMapping, payload: bytes) -> bool:
    kept = quarantined_payload(row["details"])
    if kept is None or kept == payload:
        return kept is not None
    try:
        return bool(_decode(kept) == _decode(payload))
    except msgspec.MsgspecError:
        return False
