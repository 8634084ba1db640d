"""
The rows of `audit_buffer_position`: where each buffer stands beside an own table, and whether what lies before is its own.

Guarantees:
    * A row moves in the batch's transaction, and its UPDATE names the position *and* the checksum it moves from: nothing is
      written behind entries of somebody else.
    * What this process has sent of a buffer it knows again, some thousand transactions back, whatever a failover has put in the
      place of it.

Called by one thread at a time; `History` is pure.
"""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

import attrs
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from audit_buffer.errors import SinkError
from audit_buffer.schema import position_table
from audit_buffer.sinks._integrity import Link, chained
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import now


__all__ = ["History", "Positions"]

# Transactions whose end is known again, some 150 bytes each; and buffers: a sink writes its own one, and one orphan at a time.
_MOST_VALUES = 10_000
_MOST_BUFFERS = 16

_columns = position_table.c


@attrs.define
class History:
    """
    What this process knows of one buffer.

    Attributes:
        link: The row as it was read, or was to become, last.
        is_read: Whether it was read.
        values: The chain's values behind what was sent, by seq; committed or not, because what is found again was ours.
    """

    link: Link | None = None
    is_read: bool = False
    values: OrderedDict[int, bytes] = attrs.Factory(OrderedDict)

    def sent(self, link: Link, batch: Batch) -> Link:
        """
        Note that *batch* moves the row from *link*, and return what it becomes; what was sent behind *link* before is not to
        come back.
        """
        while self.values and next(reversed(self.values)) >= batch.after:
            self.values.popitem()
        self.link = moved = link.moved(batch)
        self.is_read = False
        self.values[batch.after], self.values[batch.through] = link.value, moved.value
        while len(self.values) > _MOST_VALUES:
            self.values.popitem(last=False)
        return moved

    def first_foreign(self, link: Link, batch: Batch, sent: int | None) -> int | None:
        """
        Return the first seq of *batch* that is not ours as far as *link*, the row, tells, or None; see `Sink`.

        Where it is told that somebody else wrote before the last transaction, too, but not from where on, that is the
        first seq of *batch*.
        """
        beyond = sent is not None and link.last_seq > sent
        if link.values is None or link.first_seq is None:
            return batch.after + 1 if beyond else None
        if not beyond and self._is_ours(link, batch, living=sent is not None):
            return None
        before = self.values.get(link.first_seq - 1)
        if before is None and not beyond:
            before = self._computed(batch, link.first_seq - 1)
        foreign = link.first_seq if before == link.values[0] else min(batch.after + 1, link.first_seq)
        return foreign if foreign <= batch.through else None

    def _is_ours(self, link: Link, batch: Batch, *, living: bool) -> bool:
        """
        Tell whether all before the position is ours, or nobody can tell.

        Args:
            living: Whether this process wrote all of it, so that it knows where its transactions ended.
        """
        before, behind = link.values or (b"", b"")
        seq, first = link.last_seq, link.first_seq or 0
        if seq in self.values:
            return self.values[seq] == behind
        if seq > batch.through:
            # What is known of an orphan's next batch follows from this one, if this one is ours; then it is told.
            value = None if living else self._computed(batch, batch.through)
            if value is not None:
                self.values[batch.through] = value
            return not living
        value = self._computed(batch, seq)
        if value is None and living and self.values and next(iter(self.values)) <= seq:
            return False  # no transaction of ours ended there
        if value is None and first > batch.after:
            value = chained(before, batch.behind(first - 1).until(seq))
        if value == behind:
            self.values[seq] = behind
        return value in (None, behind)

    def _computed(self, batch: Batch, seq: int) -> bytes | None:
        """
        Return the chain's value behind *seq* if what *batch* has is what was written; None where that does not follow from it.
        """
        start = Link(0).value if batch.after == 0 else self.values.get(batch.after)
        return (
            None
            if start is None or not batch.after <= seq <= batch.through
            else chained(start, batch.until(seq))
        )


class Positions:
    """
    Reads and moves the rows, within transactions that others begin and end.
    """

    def __init__(self) -> None:
        self._histories: OrderedDict[UUID, History] = OrderedDict()

    def history(self, buffer_id: UUID) -> History:
        """
        Return what is known of a buffer.
        """
        history = self._histories.setdefault(buffer_id, History())
        self._histories.move_to_end(buffer_id)
        if len(self._histories) > _MOST_BUFFERS:
            self._histories.popitem(last=False)
        return history

    def read(self, connection: Connection, buffer_id: UUID) -> Link | None:
        """
        Return the row of a buffer, if it has one.
        """
        query = select(_columns.last_seq, _columns.first_seq, _columns.checksum)
        row = connection.execute(query.where(_columns.buffer_id == buffer_id)).first()
        history = self.history(buffer_id)
        history.link, history.is_read = None if row is None else Link(*row), True
        return history.link

    def move(self, connection: Connection, batch: Batch) -> None:
        """
        Move the row from in front of *batch* to its end.

        Raises:
            SinkError: It is not what it was when it was read, or moved, last.
        """
        history = self.history(batch.buffer_id)
        link = Link(0) if batch.after == 0 else history.link
        if link is None or link.last_seq != batch.after:
            link = self.read(connection, batch.buffer_id) or Link(batch.after)
        row = {**attrs.asdict(history.sent(link, batch)), "updated_at": now()}
        if batch.after == 0:
            try:
                connection.execute(insert(position_table).values(buffer_id=batch.buffer_id, **row))
            except IntegrityError as error:
                raise SinkError(f"buffer {batch.buffer_id.hex} has a position already") from error
            return
        moved = connection.execute(
            update(position_table)
            .where(
                _columns.buffer_id == batch.buffer_id,
                _columns.last_seq == batch.after,
                _columns.checksum == link.checksum,  # None becomes IS NULL
            )
            .values(row)
        )
        if moved.rowcount != 1:
            raise SinkError(
                f"the position of buffer {batch.buffer_id.hex} is no longer {batch.after}, or other entries lie before it"
            )

    def begin(self, connection: Connection, buffer_id: UUID, after: int) -> None:
        """
        Set the position of a buffer_id that continues another one; it may be there already.
        """
        if self.read(connection, buffer_id) is None:
            row = {"buffer_id": buffer_id, "last_seq": after, "updated_at": now()}
            connection.execute(insert(position_table).values(row))
