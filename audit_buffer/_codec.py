"""
An entry of the audit log as bytes: validation, redaction and encoding in one pass.

Guarantees:
    * What `encode()` returns, `decode()` turns into equal values; what cannot come back equal is an
      `EntryRejected` at the call. The one normalisation: a tuple in *details* is a JSON array.
    * The bytes are a snapshot: changing an argument afterwards changes nothing.

Format: a JSON array ``[recorded, occurred, event_type, actor, resource, outcome, correlation_id, details]``,
the two times in microseconds since the epoch, UTC. JSON because the databases can take it apart themselves.

Every function is pure and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from audit_buffer._facts import check_facts
from audit_buffer.errors import EntryRejected, shown


__all__ = [
    "UNENCODABLE",
    "EntryCodec",
    "EntryRow",
    "encode_closely",
    "encode_into",
    "from_micros",
    "to_micros",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# A day away from Python's limits: a database answers in the time zone of the session, which must not lie beyond them.
_FIRST = (datetime(1, 1, 2, tzinfo=UTC) - EPOCH) // _MICROSECOND
_LAST = (datetime(9999, 12, 31, tzinfo=UTC) - EPOCH) // _MICROSECOND
_encoder = msgspec.json.Encoder()
encode_into = _encoder.encode_into
_decode_json = msgspec.json.Decoder().decode
# What the encoder raises for what it does not write.
UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)


class EntryRow(msgspec.Struct, array_like=True, frozen=True):
    """
    The decoded head of an entry; *details* stay the JSON bytes they are.
    """

    recorded: int
    occurred: int | None
    event_type: str
    actor: str | None
    resource: str | None
    outcome: str
    correlation_id: str | None
    details: msgspec.Raw

    def details_text(self) -> str | None:
        """
        Return the details as JSON text, or None when there are none.
        """
        raw = bytes(self.details)
        return None if raw == b"null" else raw.decode()

    def details_object(self) -> dict[str, Any] | None:
        """
        Return the details as the objects they were.
        """
        details: dict[str, Any] | None = _decode_json(self.details)
        return details


_decode_row = msgspec.json.Decoder(EntryRow).decode


class EntryCodec:
    """
    Encoder and decoder of the service's entries.

    Args:
        max_entry_bytes: No entry may be larger.
        redact: Applied to *details* before anything else sees them.
    """

    def __init__(
        self,
        max_entry_bytes: int,
        redact: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self.max_entry_bytes = max_entry_bytes
        self.redact = redact

    def encode(
        self,
        recorded: int,
        event_type: str,
        actor: str | None,
        resource: str | None,
        outcome: str,
        details: dict[str, Any] | None,
        correlation_id: str | None,
        occurred_at: datetime | None,
    ) -> bytes:
        """
        Return the bytes of one entry. `record()` of a buffer has a short cut to the same bytes.

        Args:
            recorded: Microseconds since the epoch.

        Raises:
            EntryRejected: An argument could not come back equal, or the whole is larger than `max_entry_bytes`.
        """
        if self.redact is not None and details is not None:
            details = dict(self.redact(details))
        occurred = None if occurred_at is None else to_micros(occurred_at, "occurred_at")
        row = (recorded, occurred, event_type, actor, resource, outcome, correlation_id, details)
        return encode_closely(row, self.max_entry_bytes)

    @staticmethod
    def decode(payload: bytes) -> EntryRow:
        """
        Return the fields of an encoded entry.
        """
        return _decode_row(payload)


def encode_closely(row: tuple[Any, ...], max_entry_bytes: int) -> bytes:
    """
    Return the bytes of *row*, which has the fields of the format, after a look at each part.

    `record()` takes a short cut (see `EntryRecorder.bind()`), and comes here with whatever is unusual or wrong.

    Raises:
        EntryRejected: As `EntryCodec.encode()` says.
    """
    try:
        check_facts(*row[2:])
        payload = _encoder.encode(row)
    except EntryRejected:
        raise
    except UNENCODABLE as error:
        raise EntryRejected(f"the entry cannot be encoded: {error}") from error
    if len(payload) > max_entry_bytes:
        raise EntryRejected(
            f"the entry takes {len(payload)} bytes, more than max_entry_bytes = {max_entry_bytes}; "
            "store the large part elsewhere and record a reference"
        )
    return payload


def to_micros(moment: datetime, field: str) -> int:
    """
    Return microseconds since the epoch.

    Raises:
        EntryRejected: *moment* is no datetime, has no time zone and so means no moment, or lies outside the years
            that every database gives back.
    """
    if not isinstance(moment, datetime):
        raise EntryRejected(f"{field} = {shown(moment)} is not a datetime", field=field)
    if moment.utcoffset() is None:
        raise EntryRejected(
            f"{field} = {shown(moment)} has no time zone; use datetime.now(timezone.utc) or .astimezone()",
            field=field,
        )
    micros = (moment - EPOCH) // _MICROSECOND
    if not _FIRST <= micros < _LAST:
        raise EntryRejected(
            f"{field} = {shown(moment)} is not between 0001-01-02 and 9999-12-30, UTC", field=field
        )
    return micros


def from_micros(micros: int) -> datetime:
    """
    Return the moment *micros* microseconds after the epoch, in UTC.
    """
    return EPOCH + timedelta(microseconds=micros)
