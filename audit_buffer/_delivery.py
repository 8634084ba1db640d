"""
How batches of one buffer reach a sink, each entry once.

Because one writer commits in order, what is committed is a prefix. So any doubt (an attempt failed, a process died) is
settled by one question: the position is read from the sink, and the batch goes on behind it. What the sink has and this
process has not put there is compared first; if it is something else, that is an `IntegrityAlarm`, and the rest goes on
under a new buffer_id, which follows from the old one and the entry, so that it is the same one if that has to be repeated.
What the sink has lost since comes back first (`_restoring`).

What the sink refuses for good is narrowed (`_narrowing`) and quarantined, where the sink can do that; not one entry after the
other without end, because then it is the table that is wrong.

Called by whoever steps the writer.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from uuid import UUID

from audit_buffer._narrowing import Narrowing, Verdict, is_structural
from audit_buffer._restoring import Restoring
from audit_buffer._timing import USUAL_BATCH, USUAL_BATCH_BYTES
from audit_buffer.errors import EntryQuarantined, IntegrityAlarm, SinkError
from audit_buffer.sinks._faults import Action, classify, explained
from audit_buffer.sinks._protocol import Batch, Sink


__all__ = ["Delivery", "OnQuarantined"]

OnQuarantined = Callable[[EntryQuarantined], object]


class Delivery:
    """
    Writes the batches of one buffer, in order.

    Args:
        in_doubt: Whether some of what comes may be in the sink already.
        on_quarantined: Told of each entry that was set aside.
        restoring: Brings back what the sink has lost, if its position tells (`position_is_stored`).
    """

    def __init__(
        self,
        sink: Sink,
        *,
        in_doubt: bool = False,
        on_quarantined: OnQuarantined = lambda error: None,
        restoring: Restoring | None = None,
    ) -> None:
        self._sink = sink
        self._in_doubt = in_doubt
        self._on_quarantined = on_quarantined
        self._restoring = restoring if getattr(sink, "position_is_stored", False) else None
        # What the sink said it has, when it was asked last; it may be several batches ahead of what is released.
        self._position = 0
        # Through here the sink has our entries: written by this process, or compared.
        self.known = 0
        # Before the first seq of this buffer_id; not 0 after an integrity alarm.
        self._floor = 0
        # The last seq that this process has sent; None where it cannot know what was sent.
        self._sent: int | None = None if in_doubt else 0
        # The last entry that this process has written, alone, unless something else came behind it; and whether it may be gone.
        self._latest: Batch | None = None
        self._may_be_gone = True
        self._narrowing: Narrowing | None = None
        # Entries that were quarantined since the last one that was written.
        self._quarantined_in_a_row = 0
        # Whether the batch in hand failed: it may have been too large for a time limit, and goes on in pieces of the usual size.
        self._cautious = False

    def has(self, batch: Batch) -> bool:
        """
        Tell whether all of *batch* is in the sink.
        """
        return self.known >= batch.through

    def write(self, batch: Batch) -> None:
        """
        Write *batch*, or what the sink does not have of it; a piece of it only, where a batch was refused. See `has()`.

        Raises:
            IntegrityAlarm: The sink has other entries under these seqs; `go_on_as()` comes next.
        """
        if self._in_doubt:
            self._position = max(self._floor, self._sink.position(batch.buffer_id))
            self._in_doubt = False
            self._look_back(batch)
            self._look_for_loss(batch)
        if self._restore(batch):
            return
        self._compare(batch)
        left = batch.behind(self._position)
        if left.after < left.through:
            self._write_piece(left if self._narrowing is None else self._narrowing.piece(left))
        elif not batch.stored:
            self.known = max(self.known, left.after)
        if self.has(batch):
            self._narrowing = None
            self._cautious = False

    def _look_back(self, batch: Batch) -> None:
        """
        Make sure that what the sink has from before *batch* is ours, as far as it is still at hand: the database may be another
        one since, and somebody else may have written there under our seqs.

        One entry is enough: what is committed is a prefix, so the newest one that is ours has only ours before it.
        """
        first_foreign = getattr(self._sink, "first_foreign", None)
        restoring, latest, position = self._restoring, self._latest, self._position
        if first_foreign is None or restoring is None or not self._may_be_gone:
            return
        if latest is None or position < latest.through:
            if position >= batch.after and self._sent is not None:
                return
            self._latest, latest = None, restoring.newest(self._floor, position, batch)
            # Where the position stands apart from the rows (`begin`), a single entry of an orphan is not known again.
            if latest.stored and not (self._sent is None and hasattr(self._sink, "begin")):
                latest = latest.behind(latest.through - 1)
        foreign = first_foreign(latest, self._sent)
        if foreign is None:
            restoring.let_go(position, batch)
            return
        for part in restoring.kept(self._floor, position, batch):
            earlier = first_foreign(part, self._sent)
            if earlier is not None:
                raise self._alarm(part, earlier)
        raise self._alarm(latest, foreign)

    def _look_for_loss(self, batch: Batch) -> None:
        if self._restoring is not None:
            self.known = min(self.known, self._position)
            if self._position < batch.after:
                self._restoring.begin(self._position, batch)

    def _restore(self, batch: Batch) -> bool:
        """
        Write a piece of what the sink had before *batch* and lost; False when there is none.
        """
        restoring = self._restoring
        lost = None if restoring is None else restoring.piece(self._position, batch)
        if restoring is None or lost is None:
            return False
        self._write_piece(lost if self._narrowing is None else self._narrowing.piece(lost))
        restoring.written(self._position)
        return True

    def _compare(self, batch: Batch) -> None:
        """
        Make sure that what the sink has of *batch*, and this process did not write, is ours.
        """
        after = max(batch.after, self.known)
        through = min(batch.through, self._position)
        if through <= after:
            return
        part = batch.behind(after).until(through)
        first_foreign = getattr(self._sink, "first_foreign", None)
        foreign = None if first_foreign is None else first_foreign(part, self._sent)
        if foreign is not None:
            raise self._alarm(part, foreign)
        self._written(part)

    def _alarm(self, part: Batch, foreign: int) -> IntegrityAlarm:
        payload = next((payload for seq, payload in part.stored if seq >= foreign), b"")
        content = part.buffer_id.bytes + foreign.to_bytes(8, "big") + payload
        new = UUID(bytes=blake2b(content, digest_size=16, person=b"continued_as").digest())
        return IntegrityAlarm(
            f"the database has something else under seq {foreign} of buffer {part.buffer_id.hex}, up to seq {self._position}: two "
            f"processes write under one buffer_id, or rows were changed; the entries from {foreign} on go on as buffer {new.hex}",
            buffer_id=part.buffer_id,
            first_seq=foreign,
            last_seq=self._position,
            continued_as=new,
        )

    def go_on_as(self, alarm: IntegrityAlarm) -> None:
        """
        Have the entries from the alarm on written under a buffer_id of their own.
        """
        begin = getattr(self._sink, "begin", None)
        if begin is not None:
            begin(alarm.continued_as, alarm.first_seq - 1)
        self._floor = self._position = self.known = alarm.first_seq - 1
        self._latest = None
        self._in_doubt = True  # this may be the second time
        self._narrowing = None

    def _write_piece(self, piece: Batch) -> None:
        condemned = None if self._narrowing is None else self._narrowing.condemned
        if self._cautious and self._narrowing is None:
            piece = _usual_part(piece)
        # In doubt from here until the sink has returned, whatever ends it.
        self._in_doubt = self._may_be_gone = True
        if self._sent is not None:
            self._sent = max(self._sent, piece.through)
        if condemned is None:
            try:
                self._sink.write(piece)
            except Exception as error:
                if not self._narrow(piece, error):
                    self._cautious = True
                    raise
                self._may_be_gone = False  # it was the same database that refused it
                return
            if piece.stored:
                self._quarantined_in_a_row = 0
        else:
            self._quarantine(piece, condemned)
            self._quarantined_in_a_row += 1
        self._position = piece.through
        self._in_doubt = False  # behind the position: what interrupts this leaves a doubt, no wrong belief
        self._written(piece)

    def _written(self, piece: Batch) -> None:
        self.known = piece.through
        self._latest = piece.behind(piece.through - 1) if piece.stored else None
        plan = self._narrowing
        if plan is not None:
            condemned = plan.condemned
            plan.written(piece)
            if condemned is not None:
                self._tell_quarantined(piece, condemned)

    def _narrow(self, piece: Batch, error: Exception) -> bool:
        """
        Tell whether narrowing deals with *error*, and the next attempt may follow at once.
        """
        fault = classify(error)
        if fault.action is not Action.NARROW or not hasattr(self._sink, "quarantine"):
            return False
        self._narrowing = self._narrowing or Narrowing()
        verdict = self._narrowing.refused(piece, error, may_pass=fault.may_pass)
        if verdict is Verdict.CONDEMNED and is_structural(self._quarantined_in_a_row):
            self._narrowing.pardon()
            raise SinkError(
                f"the database has refused {self._quarantined_in_a_row} entries one after the other and taken none, and now refuses "
                f"entry {piece.through} of buffer {piece.buffer_id.hex} ({explained(error)})",
                advice="remove what refuses every entry (a NOT NULL column, a changed type, a constraint, a trigger); the entries wait, "
                "and those in quarantine can be brought back with audit-buffer quarantine retry",
            ) from error
        return verdict is not Verdict.WAIT

    def _quarantine(self, piece: Batch, error: Exception) -> None:
        quarantine: Callable[[Batch, Exception], None] = self._sink.quarantine  # type: ignore[attr-defined]
        try:
            quarantine(piece, error)
        except Exception as second:
            if self._narrowing is None or classify(second).action is not Action.NARROW:
                raise
            self._narrowing.pardon()
            raise SinkError(
                f"the database refuses entry {piece.through} of buffer {piece.buffer_id.hex} ({explained(error)}), and the row "
                f"that would stand in its place as well ({explained(second)})",
                advice="remove the constraint or trigger that refuses it; everything behind it waits",
            ) from error

    def _tell_quarantined(self, piece: Batch, error: Exception) -> None:
        told = EntryQuarantined(
            f"entry {piece.through} of buffer {piece.buffer_id.hex} was refused for good and quarantined: {explained(error)}",
            buffer_id=piece.buffer_id,
            seq=piece.through,
        )
        told.__cause__ = error
        self._on_quarantined(told)


def _usual_part(batch: Batch) -> Batch:
    """
    Return what of *batch* comes first, as much as a batch usually has; at least one entry.
    """
    size, last = 0, 0
    for count, (seq, payload) in enumerate(batch.stored):
        size += len(payload)
        if count and (count >= USUAL_BATCH or size > USUAL_BATCH_BYTES):
            return batch.until(last)
        last = seq
    return batch
