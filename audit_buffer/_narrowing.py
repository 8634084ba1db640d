"""
The plan by which a refused batch is narrowed to the entries that are refused. Pure: no sink, no clock, no thread.

A batch is refused as a whole, whatever in it is at fault. So it is halved until one entry is refused alone, and that one
is condemned. What was in front of it is written on the way, in order, each piece a transaction of its own. Behind it the
pieces double, 1, 2, 4, …, until the batch is done or the next one is refused.

So one refused entry among n costs some 2 log₂ n transactions wherever it stands, and n of them cost a few each.

Where one entry after the other is refused and none is taken, it is not the entries that are wrong; see `is_structural()`.
"""

from __future__ import annotations

import enum

from audit_buffer.sinks._protocol import Batch


__all__ = ["MOST_IN_A_ROW", "Narrowing", "Verdict", "is_structural"]

# An entry is condemned when it was refused alone so often: twice, at once, because one refusal may have been an accident
# of the connection; more often, with pauses (8 s on average in all), where the cause may end by itself.
_SENTENCE = 2
_SENTENCE_IF_IT_MAY_PASS = 8
# So many entries are quarantined one after the other, and no more: enough for what one faulty caller records in a burst, few
# enough to look at, and to bring back, by hand.
MOST_IN_A_ROW = 100


def is_structural(in_a_row: int) -> bool:
    """
    Tell whether it is the table that is at fault, when *in_a_row* entries were quarantined and none between them was written.

    A column that became NOT NULL, or another type, is refused with the same codes as a bad value. It would send the whole backlog
    into quarantine, entry by entry. So that ends here: the entries wait, like for any fault that somebody must remove.
    """
    return in_a_row >= MOST_IN_A_ROW


class Verdict(enum.Enum):
    """
    What follows from a refusal.
    """

    GO_ON = "go on"  # with the next piece, at once
    WAIT = "wait"  # and try the same again
    CONDEMNED = "condemned"  # the entry goes into quarantine


class Narrowing:
    """
    Where to cut next.

    Attributes:
        condemned: What the entry behind the position was refused with so often that it goes into quarantine; else None.
    """

    def __init__(self) -> None:
        # No piece reaches this seq while the first part of what was refused is looked for; 0 when nothing is.
        self._refused_through = 0
        self._size = 0  # in rows; 0 is all that is left
        self._alone = 0  # how often the entry at the front was refused by itself
        self.condemned: Exception | None = None

    def piece(self, left: Batch) -> Batch:
        """
        Return the part of *left*, what is not written yet, that comes next.
        """
        rows = _last_seqs(left)
        suspects = sum(seq <= self._refused_through for seq in rows)
        size = max(1, suspects // 2) if suspects else self._size
        return left if not 0 < size < len(rows) else left.until(rows[size - 1])

    def refused(self, piece: Batch, error: Exception, *, may_pass: bool) -> Verdict:
        """
        Draw the conclusion from a refusal of *piece*.
        """
        if len(_last_seqs(piece)) > 1:
            self._refused_through = piece.through
            self._alone = 0
            return Verdict.GO_ON
        self._alone += 1
        if not piece.stored:  # a gap row: it is ours, and goes nowhere else
            return Verdict.WAIT
        if self._alone < (_SENTENCE_IF_IT_MAY_PASS if may_pass else _SENTENCE):
            return Verdict.WAIT if may_pass else Verdict.GO_ON
        self.condemned = error
        return Verdict.CONDEMNED

    def written(self, piece: Batch) -> None:
        """
        Note that *piece* is in the sink, by itself or by its place in quarantine.
        """
        if self.condemned is not None:
            self._size = 1
            self.condemned = None
        elif piece.through >= self._refused_through:
            self._size *= 2
        self._alone = 0

    def pardon(self) -> None:
        """
        Begin again with the entry that could not even be quarantined.
        """
        self.condemned = None
        self._alone = 0


def _last_seqs(batch: Batch) -> list[int]:
    """
    Return the last seq of every row that *batch* becomes, entries and gap rows.
    """
    return sorted([seq for seq, _ in batch.stored] + [gap.last_seq for gap in batch.gaps])
