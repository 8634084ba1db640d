"""
What `audit-buffer bench` makes of its timings: percentiles, and one `Figure` for each candidate.

What is done with the figures is in `_goals`. All of this is pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import attrs


__all__ = ["Figure", "curve", "figure", "flatness", "latency", "percentile"]

_PERCENTILES = {"p50": 50.0, "p99": 99.0, "p999": 99.9}
# Of these more is better, of everything else less.
_MORE_IS_BETTER = ("rate",)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """
    Return the smallest value that at least *percent* % of the values do not exceed (nearest rank).

    Args:
        ordered: Values, the smallest first; at least one.

    Raises:
        ValueError: There is no value, or *percent* is not above 0 and at most 100.
    """
    if not ordered or not 0 < percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(ordered)} values")
    # Rounded first: 99.9 / 100 * 1000 is a little more than 999 in binary.
    return ordered[math.ceil(round(percent * len(ordered) / 100, 9)) - 1]


@attrs.frozen(kw_only=True)
class Figure:
    """
    What was measured of one candidate.

    Attributes:
        scenario: What was done, such as "record" or "drain".
        candidate: Who did it, such as "buffered" or "floor".
        event: The kind of event, "small" or "real"; "" where there is none.
        where: The durability level or the database; "" for a candidate that is compared with each of them.
        values: By name, the median over the repetitions: "p50", "p99" and "p999" in microseconds, "rate" in entries or
            operations a second, and what a scenario has of its own.
        best: The same of the repetition that was disturbed least: whatever else the machine does only ever adds.
        records: Entries or operations measured, in all repetitions.
        curve: Pairs of a percentage and the latency that it does not exceed, for a plot.
    """

    scenario: str
    candidate: str
    event: str
    where: str
    values: Mapping[str, float]
    best: Mapping[str, float]
    records: int
    curve: Sequence[tuple[float, float]] = ()


def figure(
    scenario: str,
    candidate: str,
    event: str,
    where: str,
    rounds: Sequence[Mapping[str, float]],
    records: int,
) -> Figure:
    """
    Return the figure of *candidate* from the values of each repetition, at least one.
    """
    values, best = {}, {}
    for name in rounds[0]:
        of_this = [each[name] for each in rounds]
        values[name] = round(median(of_this), 3)
        best[name] = round(max(of_this) if name in _MORE_IS_BETTER else min(of_this), 3)
    return Figure(
        scenario=scenario,
        candidate=candidate,
        event=event,
        where=where,
        values=values,
        best=best,
        records=records,
    )


def latency(
    scenario: str,
    candidate: str,
    event: str,
    where: str,
    rounds: Sequence[Sequence[int]],
    rates: Sequence[float] = (),
) -> Figure:
    """
    Return the figure of *candidate* from the nanoseconds of each call, one sequence a repetition.

    Args:
        rates: Entries a second of each repetition, from the first `record()` until all were committed; none for a candidate
            that commits nothing.
    """
    ordered = [sorted(calls) for calls in rounds]
    values: list[dict[str, float]] = [
        {name: percentile(calls, percent) / 1000 for name, percent in _PERCENTILES.items()}
        for calls in ordered
    ]
    for each, rate in zip(values, rates, strict=False):
        each["rate"] = rate
    made = figure(scenario, candidate, event, where, values, sum(map(len, rounds)))
    return attrs.evolve(made, curve=curve(sorted(call for calls in rounds for call in calls)))


def curve(ordered: Sequence[int]) -> list[tuple[float, float]]:
    """
    Return latencies in microseconds by percentage, denser towards the tail, up to what so many values can say.
    """
    percents = [*range(1, 90), *(100 - 10 ** (1 - step / 10) for step in range(31))]
    known = [percent for percent in percents if len(ordered) * (100 - percent) >= 99]
    return [(round(percent, 4), percentile(ordered, percent) / 1000) for percent in known]


def flatness(costs: Sequence[float]) -> float:
    """
    Return how many times the first cost the highest of the others is; 1.0 or less says that nothing grows.

    Args:
        costs: Cost per entry by size of the backlog, the smallest backlog first; at least two.

    Raises:
        ValueError: There are fewer, or the first is not above 0.
    """
    if len(costs) < 2 or costs[0] <= 0:
        raise ValueError(f"no flatness of {list(costs)}")
    return max(costs[1:]) / costs[0]
