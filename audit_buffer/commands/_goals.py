"""
The targets of `audit-buffer bench`: what is wanted of which ratio, and whether a run met it.

Every target is a ratio of two candidates that were measured in turn in one run, because absolute figures move with the
machine and with what else runs on it; a few are counts, wanted to be 0. All of this is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from audit_buffer.commands._measure import Figure


__all__ = ["GOALS", "PEERS", "Goal", "Target", "judge"]

Bounds = dict[tuple[str, str], float]


@attrs.frozen(kw_only=True)
class Goal:
    """
    A ratio of two candidates' figures, and what is wanted of it.

    Attributes:
        name: What the ratio says, in words.
        scenario: Where both were measured.
        above: Candidate of the numerator.
        below: Candidate of the denominator; None for a value that stands for itself.
        figure: Name of the value, such as "p50".
        wanted: The goal by (event, where), where there is one.
        slack: By (event, where), what `--check` insists on: between *wanted* or what was measured, and half as good.
        at_least: Whether larger is better.
    """

    name: str
    scenario: str
    above: str
    below: str | None
    figure: str
    wanted: Bounds
    slack: Bounds
    at_least: bool


@attrs.frozen(kw_only=True)
class Target:
    """
    One goal as this run met it, for one kind of event in one place.

    Attributes:
        value: The ratio.
        best: The ratio of the least disturbed repetitions, which is what *slack* is held against.
        wanted: What is wanted; None where nothing is.
        slack: What `--check` insists on; None where nothing is.
        verdict: "pass", "short" (of what is wanted), or "failed" (`--check` ends with 1).
    """

    name: str
    event: str
    where: str
    value: float
    best: float
    wanted: float | None
    slack: float | None
    at_least: bool
    verdict: str


# The names under which `_peers` measures them.
PEERS = (
    "QueueHandler + QueueListener",
    "loguru enqueue=True",
    "OpenTelemetry BatchLogRecordProcessor",
    "queue.Queue + thread, one COMMIT each",
    "queue.Queue + thread, batched",
    "QuestDB client, own buffer only",
)


def _goal(
    scenario: str,
    name: str,
    above: str,
    below: str | None,
    figure: str,
    sign: str,
    wanted: Bounds,
    slack: Bounds | None = None,
) -> Goal:
    return Goal(
        name=name,
        scenario=scenario,
        above=above,
        below=below,
        figure=figure,
        wanted=wanted,
        slack=slack or {},
        at_least=sign == "≥",
    )


def _both(small: float, real: float, *places: str) -> Bounds:
    """
    Return the same two bounds, of the small and of the real event, for each of *places*.
    """
    found = {("small", place): small for place in places}
    return found | {("real", place): real for place in places}


# One line per target: scenario, its name, numerator, denominator, which figure, what is wanted and what --check insists on.
# Slack is given where a ratio is steady enough on a busy machine; the tail (p99.9) belongs to whatever else the machine does.
# fmt: off
GOALS: tuple[Goal, ...] = (
    _goal("record", "buffered p50 / floor p50", "buffered", "floor", "p50", "≤",
          wanted=_both(1.5, 1.3, "memory", "process"),
          # Between what was measured when the line was last touched and twice that: it catches a regression of 2x.
          slack=_both(6.8, 4.4, "memory") | _both(5.1, 3.8, "process")),
    _goal("record", "synchronous p50 / buffered p50", "synchronous", "buffered", "p50", "≥",
          wanted=_both(100, 60, "process") | {("small", "memory"): 80},
          # A third of what is wanted, so that a slow disk or a quick one changes no verdict.
          slack=_both(40, 15, "memory") | _both(30, 15, "process")),
    _goal("record", "buffered p99.9 / floor p99.9", "buffered", "floor", "p999", "≤",
          wanted=_both(3, 3, "memory", "process")),
    _goal("loop", "domain loop with audit / without", "audited", "alone", "rate", "≥",
          # Beside others on the CPUs a second thread costs its share of them: what is insisted on is that there is no convoy.
          wanted=_both(0.95, 0.90, "process"), slack=_both(0.25, 0.25, "process")),
    _goal("drain", "drain / raw sqlite3.executemany", "drain", "sqlite3.executemany", "rate", "≥",
          wanted=_both(0.8, 0.8, "sqlite") | _both(40, 60, "sqlite, busy"),
          # How dear executemany is beside a busy thread depends on who else is on the CPUs: no ratio to insist on.
          slack=_both(0.3, 0.3, "sqlite")),
    _goal("drain", "drain / Core executemany", "drain", "Core executemany", "rate", "≥",
          wanted=_both(2.5, 2.5, "postgresql") | _both(5, 5, "postgresql, busy")
          | _both(1.5, 1.5, "mariadb") | _both(5, 5, "mariadb, busy"),
          slack=_both(0.5, 0.5, "postgresql", "mariadb")),
    _goal("threads", "8 recording threads / 1", "8 threads", "1 thread", "rate", "≥",
          wanted=_both(0.85, 0.85, "memory", "process"), slack=_both(0.2, 0.2, "memory", "process")),
    _goal("processes", "4 processes / 1, one SQLite file", "4 processes", "1 process", "rate", "≥",
          wanted=_both(1, 1, "process")),
    _goal("processes", "“locked” errors of 4 processes", "4 processes", None, "locked", "≤",
          wanted=_both(0, 0, "process")),
    _goal("backlog", "record(): growth of the cost per entry with the backlog", "growth", None, "record", "≤",
          wanted={("small", "memory"): 1.2, ("small", "process"): 1.2}),
    _goal("backlog", "drain: growth of the cost per entry with the backlog", "growth", None, "drain", "≤",
          wanted={("small", "memory"): 1.2, ("small", "process"): 1.2}),
    _goal("backlog", "memory taken / configured limit", "growth", None, "memory", "≤",
          wanted={("small", "memory"): 2.0, ("small", "process"): 1.1}),
    _goal("idle", "idle: wake-ups of the writer", "writer", None, "wakeups", "≤",
          wanted={("", "memory"): 0, ("", "process"): 0}, slack={("", "memory"): 2, ("", "process"): 2}),
    _goal("idle", "idle: CPU of the writer, µs", "writer", None, "cpu", "≤",
          wanted={("", "memory"): 0, ("", "process"): 0}),
    _goal("import", "import audit_buffer / import sqlalchemy", "audit_buffer", "sqlalchemy", "ms", "≤",
          wanted={("", ""): 1.25}),
    _goal("import", "import of AuditBuffer and AuditService / import sqlalchemy", "AuditBuffer", "sqlalchemy", "ms", "≤",
          wanted={("", ""): 1.25}, slack={("", ""): 3.5}),
    *(_goal("peers", f"{peer}: {tail}", *pair, "≥", wanted=_both(1, 1, "process"))
      for peer in PEERS for tail, pair in (
          ("p50 / buffered", (peer, "buffered", "p50")),
          ("p99.9 / buffered", (peer, "buffered", "p999")),
          ("buffered rate / its rate", ("buffered", peer, "rate")))),
    _goal("peers", "buffered: lost with defaults, nothing closed, %", "buffered", None, "lost by default", "≤",
          wanted={("small", "process"): 0}),
)
# fmt: on


def judge(figures: Iterable[Figure], goals: Iterable[Goal] = GOALS) -> list[Target]:
    """
    Return every target that *goals* name and *figures* have both values for.
    """
    figures = list(figures)
    found = {(each.scenario, each.candidate, each.event, each.where): each for each in figures}
    return [target for goal in goals for target in _targets(goal, figures, found)]


_Found = Mapping[tuple[str, str, str, str], Figure]


def _targets(goal: Goal, figures: Sequence[Figure], found: _Found) -> Iterator[Target]:
    for event, where in _places(goal, figures):
        above = _find(found, goal, goal.above, event, where)
        below = None if goal.below is None else _find(found, goal, goal.below, event, where)
        if above is not None and (below is not None or goal.below is None):
            yield _target(goal, event, where, above, below)


def _places(goal: Goal, figures: Sequence[Figure]) -> list[tuple[str, str]]:
    """
    Return each (event, where) that the two candidates were measured for. One that says no where is compared with all.
    """
    candidates = (goal.above, goal.below)
    mine = [each for each in figures if each.scenario == goal.scenario and each.candidate in candidates]
    places = dict.fromkeys((each.event, each.where) for each in mine)
    named = [place for place in places if place[1]]
    return named or list(places)


def _find(found: _Found, goal: Goal, candidate: str, event: str, where: str) -> Figure | None:
    for place in (where, ""):
        figure = found.get((goal.scenario, candidate, event, place))
        if figure is not None and goal.figure in figure.values:
            return figure
    return None


def _target(goal: Goal, event: str, where: str, above: Figure, below: Figure | None) -> Target:
    value, best = above.values[goal.figure], above.best[goal.figure]
    if below is not None:
        value, best = _divide(value, below.values[goal.figure]), _divide(best, below.best[goal.figure])
    wanted, slack = goal.wanted.get((event, where)), goal.slack.get((event, where))
    verdict = "pass"
    if not _is_met(best, slack, goal.at_least):
        verdict = "failed"
    elif not _is_met(value, wanted, goal.at_least):
        verdict = "short"
    return Target(
        name=goal.name,
        event=event,
        where=where,
        value=round(value, 2),
        best=round(best, 2),
        wanted=wanted,
        slack=slack,
        at_least=goal.at_least,
        verdict=verdict,
    )


def _divide(above: float, below: float) -> float:
    # A difference below the clock's resolution is no difference.
    return above / max(below, 0.001)


def _is_met(value: float, bound: float | None, at_least: bool) -> bool:
    return bound is None or (value >= bound if at_least else value <= bound)
