"""
What is wanted of the figures, and what a run is told about it. No test here looks at a clock.
"""

from __future__ import annotations

import pytest

from audit_buffer.commands._goals import GOALS, PEERS, Goal, judge
from audit_buffer.commands._measure import Figure


def figure(candidate, value, *, scenario="record", where="memory", event="small", name="p50", best=None):
    return Figure(
        scenario=scenario,
        candidate=candidate,
        event=event,
        where="" if candidate == "synchronous" else where,
        values={name: value},
        best={name: value if best is None else best},
        records=1,
    )


def goal(*, at_least, wanted, slack):
    return Goal(
        name="synchronous / buffered",
        scenario="record",
        above="synchronous",
        below="buffered",
        figure="p50",
        wanted={} if wanted is None else {("small", "memory"): wanted},
        slack={} if slack is None else {("small", "memory"): slack},
        at_least=at_least,
    )


def verdict(value, **bounds):
    targets = judge([figure("synchronous", value), figure("buffered", 1.0)], [goal(**bounds)])
    return targets[0].verdict


@pytest.mark.parametrize(("value", "expected"), [(80, "pass"), (79, "short"), (40, "short"), (39, "failed")])
def test_a_ratio_that_should_be_large_fails_below_its_slack(value, expected):
    """
    What reaches the goal passes, what misses it is short, and only what is below the slack fails.
    """
    assert verdict(value, at_least=True, wanted=80, slack=40) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1.5, "pass"), (1.6, "short"), (3, "short"), (3.1, "failed")]
)
def test_a_ratio_that_should_be_small_fails_above_its_slack(value, expected):
    """
    The same for ratios to the floor, where less is better.
    """
    assert verdict(value, at_least=False, wanted=1.5, slack=3) == expected


def test_a_disturbed_majority_fails_nothing():
    """
    What is held against the slack is the repetition that was disturbed least: a busy neighbour only ever adds.
    """
    buffered = figure("buffered", 9.0, best=2.0)
    ratios = judge(
        [buffered, figure("floor", 1.0)],
        [
            Goal(
                name="buffered / floor",
                scenario="record",
                above="buffered",
                below="floor",
                figure="p50",
                wanted={("small", "memory"): 1.5},
                slack={("small", "memory"): 3},
                at_least=False,
            )
        ],
    )

    assert (ratios[0].value, ratios[0].best, ratios[0].verdict) == (9.0, 2.0, "short")


def test_a_ratio_with_no_bound_passes():
    """
    A figure that nobody has set a bound for is shown and fails nothing.
    """
    assert verdict(0.001, at_least=True, wanted=None, slack=None) == "pass"


def test_each_level_is_compared_with_its_own_floor_and_the_one_synchronous_service():
    """
    The synchronous service has no level of its own: every level is compared with it, and with the floor of that level.
    """
    figures = [
        figure("synchronous", 400),
        figure("buffered", 2.0, where="memory"),
        figure("floor", 1.0, where="memory"),
        figure("buffered", 5.0, where="process"),
        figure("floor", 2.0, where="process"),
    ]

    values = {(each.name, each.where): each.value for each in judge(figures)}

    assert values["synchronous p50 / buffered p50", "memory"] == 200
    assert values["synchronous p50 / buffered p50", "process"] == 80
    assert values["buffered p50 / floor p50", "memory"] == 2
    assert values["buffered p50 / floor p50", "process"] == 2.5


def test_what_was_not_measured_is_not_judged():
    """
    A level that no buffer was measured at has no ratio, instead of a perfect one.
    """
    assert judge([figure("synchronous", 400), figure("floor", 1.0)]) == []


def test_a_ratio_to_nothing_is_finite():
    """
    A floor below the clock's resolution yields a number that JSON can hold.
    """
    ratios = judge([figure("buffered", 2.0), figure("floor", 0.0)])

    assert all(each.value <= 2000 for each in ratios)


@pytest.mark.parametrize("each", GOALS, ids=lambda each: each.name)
def test_check_never_asks_for_more_than_the_goal(each):
    """
    `--check` has slack: whatever reaches its goal cannot fail.
    """
    for key in each.wanted.keys() & each.slack.keys():
        wanted, slack = each.wanted[key], each.slack[key]
        assert slack <= wanted if each.at_least else slack >= wanted


def test_a_regression_of_two_fails_what_was_measured_when_the_bounds_were_set():
    """
    A buffer twice as slow as it was when the bounds to the floor were set does not get through `--check`.
    """
    measured = {
        ("small", "memory"): 4.4,
        ("real", "memory"): 2.4,
        ("small", "process"): 3.1,
        ("real", "process"): 2.1,
    }
    to_floor = next(each for each in GOALS if each.name == "buffered p50 / floor p50")

    for key, value in measured.items():
        assert value < to_floor.slack[key] < 2 * value


def test_a_count_stands_for_itself():
    """
    A goal without a denominator is about a count, such as errors, and 0 is a value that can be wanted.
    """
    goal_of_none = Goal(
        name="locked", scenario="processes", above="4 processes", below=None, figure="locked",
        wanted={("small", "process"): 0}, slack={}, at_least=False,
    )  # fmt: skip

    def verdict_of(errors):
        found = figure("4 processes", errors, scenario="processes", where="process", name="locked")
        return [target.verdict for target in judge([found], [goal_of_none])]

    assert verdict_of(0.0) == ["pass"]
    assert verdict_of(1.0) == ["short"]


def test_each_database_is_held_against_what_is_wanted_of_it():
    """
    A drain is compared with the usual way of the same database, idle with idle and busy with busy.
    """
    rates = {
        ("drain", "sqlite"): 80.0,
        ("sqlite3.executemany", "sqlite"): 100.0,
        ("drain", "sqlite, busy"): 50.0,
        ("sqlite3.executemany", "sqlite, busy"): 1.0,
        ("drain", "postgresql"): 20.0,
        ("Core executemany", "postgresql"): 10.0,
    }
    figures = [
        figure(candidate, rate, scenario="drain", where=where, name="rate")
        for (candidate, where), rate in rates.items()
    ]

    found = {target.where: (target.value, target.verdict) for target in judge(figures)}

    assert found == {"sqlite": (0.8, "pass"), "sqlite, busy": (50.0, "pass"), "postgresql": (2.0, "short")}


def test_a_peer_that_stores_nothing_is_not_compared_by_its_rate():
    """
    QuestDB's client has a latency and no rate here: there is no target for what was not measured.
    """
    figures = [
        figure("QuestDB client, own buffer only", 1.0, scenario="peers", where=""),
        figure("buffered", 2.0, scenario="peers", where="process"),
    ]

    assert [(target.name, target.verdict) for target in judge(figures)] == [
        ("QuestDB client, own buffer only: p50 / buffered", "short")
    ]


def test_every_peer_is_compared_in_three_ways():
    """
    Ahead of each peer means: in p50, in p99.9, and in the rate at zero loss.
    """
    for peer in PEERS:
        assert sum(each.name.startswith(f"{peer}: ") for each in GOALS) == 3


def test_every_row_of_the_issue_has_a_goal():
    """
    The targets are those that were set: each scenario has at least one, and none has the name of another.
    """
    assert {each.scenario for each in GOALS} == {
        "record", "loop", "drain", "threads", "processes", "backlog", "idle", "import", "peers",
    }  # fmt: skip
    assert len({each.name for each in GOALS}) == len(GOALS)
