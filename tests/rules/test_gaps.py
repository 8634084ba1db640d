"""
What the bookkeeping of dropped seqs promises.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from audit_buffer._gaps import Gaps, missing


SEQS = st.lists(st.integers(1, 60), unique=True)


def take_through(gaps: Gaps, seq: int) -> int:
    """
    Do what the ledger does for one batch.
    """
    through = gaps.reach(seq)
    gaps.forget(through)
    return through


@given(SEQS, st.integers(0, 60))
def test_taking_through_a_seq_takes_what_follows_it_without_a_break(dropped: list[int], seq: int) -> None:
    """
    The gap row stands under the last seq of the gap, so a batch ends behind it.
    """
    gaps = Gaps()
    for number in dropped:
        gaps.add(number)
    expected = seq
    while expected + 1 in dropped:
        expected += 1
    assert take_through(gaps, seq) == expected
    left = {number for number in dropped if number > expected}
    assert bool(gaps) == bool(left)
    # What is left comes out in the same way, one run after the other.
    while left:
        first = min(left)
        assert take_through(gaps, first - 1) >= first
        left = {number for number in left if number > first and set(range(first, number)) - left}
        assert bool(gaps) == bool(left)


def test_a_long_outage_takes_no_more_room_than_a_short_one() -> None:
    """
    Ten thousand neighbours dropped are one range.
    """
    gaps = Gaps()
    for seq in range(1, 10_001):
        gaps.add(seq)
    assert len(gaps) == 1
    assert take_through(gaps, 0) == 10_000
    assert len(gaps) == 0


def test_a_gap_that_grows_while_a_batch_is_made_keeps_what_the_batch_does_not_reach() -> None:
    """
    A finalizer may drop one more entry between the look and the forgetting.
    """
    gaps = Gaps()
    gaps.add(3)
    through = gaps.reach(2)
    gaps.add(4)
    gaps.forget(through)
    assert gaps.reach(3) == 4


@given(st.sets(st.integers(1, 40)), st.integers(0, 40), st.integers(0, 40))
def test_missing_ranges_and_present_seqs_make_up_the_whole(present: set[int], after: int, size: int) -> None:
    """
    Every seq is either present or in exactly one range, and no two ranges touch.
    """
    through = after + size
    inside = sorted(seq for seq in present if after < seq <= through)
    ranges = list(missing(after, through, inside))
    named = [seq for first, last in ranges for seq in range(first, last + 1)]
    assert sorted(named + inside) == list(range(after + 1, through + 1))
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))
