"""
`AuditService`: the synchronous service, one INSERT and one COMMIT per `record()`.

This is what `AuditBuffer` wraps; it is also what is left when `asynchronous` is off. Safe to use from any thread, as
far as the engine is.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import URL, Engine, Select, func, insert, select

from audit_buffer._codec import EntryCodec
from audit_buffer.config import BufferConfig
from audit_buffer.entry import AuditEntry
from audit_buffer.schema import audit_log, create_tables, metadata
from audit_buffer.sinks._engines import engine_of
from audit_buffer.sinks._rows import entry_row


if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


__all__ = ["AuditService"]

_log = audit_log.c


class AuditService:
    """
    Reads and writes the table `audit_log`.

    Args:
        bind: An `Engine`, a `sessionmaker` that has one, or a database URL.
        config: Only `max_entry_bytes` and `redact` matter here.
    """

    metadata = metadata
    table = audit_log

    def __init__(
        self, bind: Engine | sessionmaker[Session] | URL | str, config: BufferConfig | None = None
    ) -> None:
        self.engine = engine_of(bind)
        config = config or BufferConfig()
        self._codec = EntryCodec(config.max_entry_bytes, config.redact)

    def __repr__(self) -> str:
        return f"<AuditService {self.engine.url!r}>"

    def create_schema(self) -> None:
        """
        Create the table unless it exists; several processes may do so at once. With Alembic, let a migration create
        `AuditService.metadata` instead.
        """
        create_tables(self.engine, metadata)

    def record(
        self,
        event_type: str,
        *,
        actor: str | None = None,
        resource: str | None = None,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        occurred_at: datetime | None = None,
        session: Session | None = None,
    ) -> int:
        """
        Write one entry and return its row id.

        Args:
            event_type: What happened; at most 255 characters.
            actor: Who did it; at most 768 characters.
            resource: What it was done to; at most 768 characters.
            outcome: How it ended; at most 255 characters.
            details: Anything else that JSON gives back equal; a tuple becomes an array.
            correlation_id: What ties it to other entries; at most 255 characters.
            occurred_at: When it happened, with a time zone; now by default.
            session: Write through this session and leave the COMMIT to its owner.

        Raises:
            EntryRejected: An argument cannot be stored and come back equal.
        """
        recorded = time.time_ns() // 1000
        payload = self._codec.encode(
            recorded, event_type, actor, resource, outcome, details, correlation_id, occurred_at
        )
        statement = insert(audit_log).values(entry_row(None, None, payload))
        if session is not None:
            return _new_id(session.execute(statement))
        with self.engine.begin() as connection:
            return _new_id(connection.execute(statement))

    def entries(
        self,
        *,
        event_type: str | None = None,
        actor: str | None = None,
        resource: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        buffer_id: UUID | None = None,
        limit: int | None = None,
    ) -> list[AuditEntry]:
        """
        Return the entries that match all filters, in the order of their row ids.

        Args:
            since: Only what occurred at this moment or later.
            until: Only what occurred before this moment.
            limit: At most so many.

        Raises:
            ValueError: *since* or *until* has no time zone.
        """
        query = self._filtered(select(audit_log), event_type, actor, resource, since, until, buffer_id)
        return self._fetch(query.order_by(audit_log.c.id).limit(limit))

    def count(
        self,
        *,
        event_type: str | None = None,
        actor: str | None = None,
        resource: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        buffer_id: UUID | None = None,
    ) -> int:
        """
        Return how many entries match all filters; see `entries()`.
        """
        query = select(func.count()).select_from(audit_log)
        query = self._filtered(query, event_type, actor, resource, since, until, buffer_id)
        with self.engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    def latest(
        self,
        limit: int,
        *,
        after_id: int | None = None,
        event_type: str | None = None,
        actor: str | None = None,
        resource: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        buffer_id: UUID | None = None,
    ) -> list[AuditEntry]:
        """
        Return the last *limit* entries that match all filters, the newest last.

        Args:
            after_id: Only rows behind this id, and then the first *limit* of them; for following the log.
        """
        query = self._filtered(select(audit_log), event_type, actor, resource, since, until, buffer_id)
        query = query.limit(limit)
        if after_id is not None:
            return self._fetch(query.where(audit_log.c.id > after_id).order_by(audit_log.c.id))
        return self._fetch(query.order_by(audit_log.c.id.desc()))[::-1]

    def _fetch(self, query: Select[Any]) -> list[AuditEntry]:
        with self.engine.connect() as connection:
            return [AuditEntry(**row) for row in connection.execute(query).mappings()]

    def _filtered(
        self,
        query: Select[Any],
        event_type: str | None,
        actor: str | None,
        resource: str | None,
        since: datetime | None,
        until: datetime | None,
        buffer_id: UUID | None,
    ) -> Select[Any]:
        for column, text in ((_log.event_type, event_type), (_log.actor, actor), (_log.resource, resource)):
            if text is not None:
                query = query.where(column == text)
                if self.engine.dialect.name in ("mysql", "mariadb"):
                    # utf8mb4_bin compares byte by byte, but for spaces at the end: "a" = "a ".
                    query = query.where(func.octet_length(column) == len(text.encode()))
        if buffer_id is not None:
            query = query.where(_log.buffer_id == buffer_id)
        if since is not None:
            query = query.where(_log.occurred_at >= _moment("since", since))
        if until is not None:
            query = query.where(_log.occurred_at < _moment("until", until))
        return query


def _moment(name: str, moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ValueError(
            f"{name} = {moment!r} has no time zone; use datetime.now(timezone.utc) or .astimezone()"
        )
    return moment


def _new_id(result: Any) -> int:
    return int(result.inserted_primary_key[0])
