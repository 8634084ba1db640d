"""
What `audit-buffer bench` makes of timings: percentiles, figures, growth. No test here looks at a clock.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_buffer.commands._drains import batches_of
from audit_buffer.commands._measure import curve, figure, flatness, latency, percentile


@pytest.mark.parametrize(("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0.01, 1)])
def test_a_percentile_is_the_nearest_rank(percent, expected):
    """
    Of the values 1 to 1000, p50 is 500 and p99.9 is 999: a measured value, never one in between.
    """
    assert percentile(range(1, 1001), percent) == expected


@given(st.lists(st.integers(), min_size=1).map(sorted), st.floats(0.001, 100))
def test_enough_values_are_within_a_percentile(ordered, percent):
    """
    At least the wanted share of the values is not above the percentile, which is one of them.
    """
    value = percentile(ordered, percent)

    assert value in ordered
    assert sum(each <= value for each in ordered) >= percent * len(ordered) / 100 - 1e-6


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1], 0), ([1], 101)])
def test_a_percentile_that_does_not_exist_is_refused(values, percent):
    """
    Nothing has no median, and there is no 0th or 101st percentile.
    """
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, percent)


def test_a_disturbed_repetition_does_not_move_the_figures():
    """
    A figure is the median over the repetitions, in microseconds, so that one disturbed repetition of three counts for nothing.
    """
    quiet, disturbed = [1000, 2000, 3000], [900_000] * 3

    found = latency("record", "buffered", "small", "memory", [quiet, disturbed, quiet], [10.0, 1.0, 12.0])

    assert found.values == {"p50": 2.0, "p99": 3.0, "p999": 3.0, "rate": 10.0}
    assert found.best == {"p50": 2.0, "p99": 3.0, "p999": 3.0, "rate": 12.0}
    assert found.records == 9


def test_a_floor_has_no_rate():
    """
    A floor stores nothing in a database, so that it has no entries a second.
    """
    assert "rate" not in latency("record", "floor", "small", "memory", [[5]]).values


def test_the_least_disturbed_repetition_has_the_most_a_second_and_the_least_of_anything_else():
    """
    More is better for a rate only; time, wake-ups and errors are best when they are few.
    """
    found = figure("x", "y", "small", "", [{"rate": 5.0, "locked": 1.0}, {"rate": 7.0, "locked": 0.0}], 2)

    assert found.best == {"rate": 7.0, "locked": 0.0}


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=3000).map(sorted))
def test_a_curve_says_no_more_than_its_values_do(ordered):
    """
    A curve rises, and ends where fewer than one value would be beyond it: ten values have no 99th percentile.
    """
    points = curve(ordered)

    assert points == sorted(points)
    assert all(percent < 100 and len(ordered) * (100 - percent) >= 99 for percent, _ in points)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [([2.0, 2.0], 1.0), ([2.0, 1.0, 1.0], 0.5), ([2.0, 5.0, 1.0], 2.5), ([2.0, 1.0, 3.0], 1.5)],
)
def test_the_dearest_size_decides_about_flatness(costs, expected):
    """
    Flatness is the highest cost per entry beside that of the smallest backlog: a hump in the middle counts.
    """
    assert flatness(costs) == expected


@pytest.mark.parametrize("costs", [[], [1.0], [0.0, 1.0]])
def test_one_size_has_no_flatness(costs):
    """
    Nothing is flat by itself, or beside nothing.
    """
    with pytest.raises(ValueError, match="no flatness"):
        flatness(costs)


@given(st.lists(st.integers(), max_size=300), st.lists(st.integers(0, 50), max_size=20))
def test_the_comparison_gets_the_rows_of_the_drain_in_its_batches(rows, sizes):
    """
    Whatever the sizes of the drain's batches were, every row comes once, in order, and the sizes are the drain's.
    """
    batches = list(batches_of(rows, sizes))

    assert [row for batch in batches for row in batch] == rows
    assert all(len(batch) <= max(1, size) for batch, size in zip(batches, sizes, strict=False))
