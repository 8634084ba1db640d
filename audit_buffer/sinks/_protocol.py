"""
`Sink`: where batches go, and `Batch`: what one transaction writes.

A sink is called by one thread at a time, nearly always the writer's; it needs no lock of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable
from uuid import UUID

import attrs

from audit_buffer._codec import EntryCodec, from_micros
from audit_buffer._gaps import missing
from audit_buffer._ring import Stored
from audit_buffer.entry import AuditEntry


__all__ = ["Batch", "Gap", "Sink"]


@attrs.frozen
class Gap:
    """
    Entries that were dropped on purpose.

    Attributes:
        first_seq: The first of them.
        last_seq: The last of them; the gap row stands under this seq.
    """

    first_seq: int
    last_seq: int

    @property
    def dropped(self) -> int:
        """
        Return how many entries that are.
        """
        return self.last_seq - self.first_seq + 1


@attrs.frozen(kw_only=True)
class Batch:
    """
    Consecutive entries of one buffer, in seq order.

    Attributes:
        buffer_id: Whose entries these are.
        after: The seq before the first one of the batch.
        through: The last seq of the batch; after the transaction it is the buffer's position.
        stored: Seq and encoded bytes of each entry.
        policy: What dropped the missing ones.
    """

    buffer_id: UUID
    after: int
    through: int
    stored: list[Stored]
    policy: str = ""

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def gaps(self) -> list[Gap]:
        """
        Return the ranges of seqs that are missing from the batch because a policy dropped them.
        """
        if len(self.stored) == self.through - self.after:
            return []
        return [Gap(*seqs) for seqs in missing(self.after, self.through, (seq for seq, _ in self.stored))]

    def entries(self) -> Iterator[AuditEntry]:
        """
        Yield the entries as they were recorded; for sinks that take the service's `record()` arguments.
        """
        for seq, payload in self.stored:
            row = EntryCodec.decode(payload)
            yield AuditEntry(
                buffer_id=self.buffer_id,
                seq=seq,
                recorded_at=from_micros(row.recorded),
                occurred_at=from_micros(row.recorded if row.occurred is None else row.occurred),
                event_type=row.event_type,
                actor=row.actor,
                resource=row.resource,
                outcome=row.outcome,
                correlation_id=row.correlation_id,
                details=row.details_object(),
            )

    def behind(self, position: int) -> Batch:
        """
        Return the part of the batch behind seq *position*: what is left to write once the database is at *position*.
        """
        if position <= self.after:
            return self
        return attrs.evolve(
            self,
            after=min(position, self.through),
            stored=[stored for stored in self.stored if stored[0] > position],
        )

    def until(self, seq: int) -> Batch:
        """
        Return the part of the batch through *seq*.
        """
        return attrs.evolve(self, through=seq, stored=[stored for stored in self.stored if stored[0] <= seq])


@runtime_checkable
class Sink(Protocol):
    """
    Where batches go. Implement this to write somewhere of your own.

    Exactly once is the sink's to give: `write()` stores the batch and the position in one atomic step, and
    `position()` reads it back. A sink that cannot do that returns from `position()` what it knows, and delivers at
    least once.

    A sink may also have

    * ``quarantine(batch, error)``: set aside the one entry of *batch*, which `write()` refused for good with *error*, and
      move the position past it, in one atomic step. Refused for good is what raises a `ValueError`, a `TypeError`, or an
      error of a driver that says so. Without this method such an entry is tried again and again.
    * ``first_foreign(batch, sent) -> int | None``: compare what is stored under the seqs of *batch* with it, and return the
      first seq where it differs. Called when more is stored than this process knows of, and after every doubt with an entry that
      was committed before, if `position_is_stored`; then the batch may be empty, and stands for its position. *sent* is the last seq
      that this process has tried to write, or None for an orphan.
    * ``position_is_stored = True``, if `position()` is read from where the rows are, so that it falls when rows are lost in a
      failover: then lost rows are written again, or are an `IntegrityAlarm`. A batch without entries stands for what is lost for
      good: it has one gap, and the policy "lost".
    * ``takes_large_batches = True``, if a backlog is better written in batches of up to 4,096 entries or 4 MiB than of 512 or
      1 MiB, where the user has not set `batch_size` or `batch_max_bytes`.
    * ``begin(buffer_id, after)``: make ready for a buffer_id whose first seq comes behind *after*; see `IntegrityAlarm`.
    * ``before_fork()``, ``after_fork()``: close what a forked child must not inherit; in the child, forget it.
    """

    def open(self) -> None:
        """
        Check that batches can be written; called once, by the thread that makes the buffer.

        Raises:
            ConfigError: What is wrong, and the remedy.
        """
        ...

    def position(self, buffer_id: UUID) -> int:
        """
        Return the last seq of *buffer_id* that is stored for good, 0 if there is none. Called after any doubt.
        """
        ...

    def write(self, batch: Batch) -> None:
        """
        Store *batch*, all or nothing. Any exception means "not, or perhaps not"; the batch comes again.
        """
        ...

    def close(self) -> None:
        """
        Give up connections. Called once, after the last batch, or in a forked child.
        """
        ...
