"""
`BufferStats`: the counters of a buffer. Plain ints, kept always; no metrics library is needed to read them.
"""

from __future__ import annotations

import attrs


__all__ = ["BufferStats"]


@attrs.frozen(kw_only=True)
class BufferStats:
    """
    What a buffer has done and what it holds, at one moment.

    Attributes:
        state: "open", "closing", "closed" or "failed".
        published: The last seq given out.
        synced: The last seq that survives a power cut.
        committed: The last seq that is in the database, with all before it.
        pending: Entries that are not committed.
        pending_bytes: Their encoded size.
        oldest_age: Seconds the oldest of them has waited; 0.0 when there is none.
        batches: Transactions committed.
        retries: Attempts that failed.
        quarantined: Entries the database refused for good.
        dropped: Entries a policy dropped; gap rows tell which.
        blocked_seconds: Time `record()` calls have spent waiting for room, in total.
        last_error: What the writer met last, or None.
    """

    state: str
    published: int
    synced: int
    committed: int
    pending: int
    pending_bytes: int
    oldest_age: float
    batches: int
    retries: int
    quarantined: int
    dropped: int
    blocked_seconds: float
    last_error: BaseException | None
