"""
`AuditEntry`: one audit fact as it is read back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import attrs


__all__ = ["GAP_EVENT_TYPE", "QUARANTINED_EVENT_TYPE", "AuditEntry"]

# The event type of a gap row: the record of entries that were dropped on purpose.
GAP_EVENT_TYPE = "audit_buffer.gap"
# The event type of the row that stands in the place of an entry that the database refused for good.
QUARANTINED_EVENT_TYPE = "audit_buffer.quarantined"


@attrs.frozen(kw_only=True)
class AuditEntry:
    """
    One row of the audit log.

    Attributes:
        id: Row id; None in a batch that is not in a table yet.
        buffer_id: The buffer that recorded it; None when it was written synchronously.
        seq: Its number in that buffer, from 1 and dense; None when it was written synchronously.
        recorded_at: When `record()` was called, UTC, to the microsecond.
        occurred_at: When the fact happened, UTC; the same as *recorded_at* unless the caller said otherwise.
        event_type: What happened, such as ``plan.updated``.
        actor: Who did it.
        resource: What it was done to.
        outcome: How it ended, ``success`` by default.
        correlation_id: What ties it to other entries.
        details: Anything else, as JSON.
    """

    id: int | None = None
    buffer_id: UUID | None = None
    seq: int | None = None
    recorded_at: datetime
    occurred_at: datetime
    event_type: str
    actor: str | None = None
    resource: str | None = None
    outcome: str = "success"
    correlation_id: str | None = None
    details: dict[str, Any] | None = None
