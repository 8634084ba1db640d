"""
What is in quarantine, read back, and how it gets out: the original takes the place of its quarantine row.

Both kinds: rows of `audit_log` that stand in the place of an entry, and rows of `audit_buffer_quarantine` beside an own table.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import attrs
import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from audit_buffer.entry import QUARANTINED_EVENT_TYPE
from audit_buffer.schema import audit_log, quarantine_table
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._rows import entry_row


__all__ = ["Quarantined", "quarantined", "restore_entry"]


@attrs.frozen(kw_only=True)
class Quarantined:
    """
    One entry in quarantine.

    Attributes:
        table: Where it stands: `audit_log`, in its place, or `audit_buffer_quarantine`.
        buffer_id: Whose entry it is.
        seq: Its number.
        recorded_at: When it was recorded (`audit_log`), or set aside.
        error: What the database said.
        payload: The entry as it was encoded: JSON for `audit_log`, tagged msgpack for an own table.
    """

    table: str
    buffer_id: UUID
    seq: int
    recorded_at: datetime
    error: str
    payload: bytes


class _Details(msgspec.Struct):
    error: str
    payload: msgspec.Raw


_decode_details = msgspec.json.Decoder(_Details).decode
_log = audit_log.c
_stands_in = (_log.event_type == QUARANTINED_EVENT_TYPE) & (_log.outcome == "quarantined")


def quarantined(
    engine: Engine, *, buffer_id: UUID | None = None, seq: int | None = None
) -> Iterator[Quarantined]:
    """
    Yield what is in quarantine in both tables, as far as they exist, by buffer and seq; all of it, or one buffer's, or one.
    """
    known = set(sa.inspect(engine).get_table_names())
    with engine.connect() as connection:
        if audit_log.name in known:
            # As text, to the byte: psycopg would take JSON apart.
            text = (
                sa.cast(_log.details, sa.Text)
                if engine.dialect.name == "postgresql"
                else sa.type_coerce(_log.details, sa.Text)
            )
            query = sa.select(_log.buffer_id, _log.seq, _log.recorded_at, text.label("details")).where(
                _stands_in
            )
            for row in _ordered(connection, query, audit_log, buffer_id, seq):
                if (found := _of_the_log(row)) is not None:
                    yield found
        if quarantine_table.name in known:
            for row in _ordered(connection, sa.select(quarantine_table), quarantine_table, buffer_id, seq):
                yield Quarantined(
                    table=str(quarantine_table.name), **{**row, "payload": bytes(row["payload"])}
                )


def _ordered(
    connection: Connection, query: sa.Select[Any], table: sa.Table, buffer_id: UUID | None, seq: int | None
) -> Any:
    if buffer_id is not None:
        query = query.where(table.c.buffer_id == buffer_id)
    if seq is not None:
        query = query.where(table.c.seq == seq)
    return connection.execute(query.order_by(table.c.buffer_id, table.c.seq)).mappings()


def _of_the_log(row: Any) -> Quarantined | None:
    try:
        details = _decode_details(row["details"] or "")
        kept = bytes(details.payload)
        payload = base64.b64decode(msgspec.json.decode(kept, type=str)) if kept.startswith(b'"') else kept
    except (msgspec.MsgspecError, ValueError):
        return None  # recorded by an application under this name
    return Quarantined(
        table=str(audit_log.name),
        buffer_id=row["buffer_id"],
        seq=row["seq"],
        recorded_at=row["recorded_at"],
        error=details.error,
        payload=payload,
    )


def restore_entry(database: Database, found: Quarantined) -> None:
    """
    Put an entry of `audit_log` in the place of its quarantine row, under the same seq and row id, in one transaction.

    Raises:
        LookupError: It is not there any more.
        SQLAlchemyError: The table still refuses it; the quarantine row stays. So does a `msgspec.MsgspecError`.
    """
    row = entry_row(found.buffer_id, found.seq, found.payload)
    place = (_log.buffer_id == found.buffer_id) & (_log.seq == found.seq) & _stands_in
    with database.transaction() as connection:
        row_id = connection.scalar(sa.select(_log.id).where(place))
        if row_id is None or connection.execute(sa.delete(audit_log).where(place)).rowcount != 1:
            raise LookupError(
                f"entry {found.seq} of buffer {found.buffer_id.hex} is not in quarantine any more"
            )
        connection.execute(sa.insert(audit_log).values(id=row_id, **row))
