"""
What the decisions about time promise, as pure functions of numbers.
"""

from __future__ import annotations

import sys
from itertools import islice
from threading import Condition
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_buffer._timing import (
    Deadline,
    FlushReason,
    Growth,
    SystemClock,
    batch_bounds,
    batch_byte_bounds,
    flush_reason,
    retry_delays,
    time_until_flush,
)
from audit_buffer.testing import FakeClock


@pytest.mark.parametrize(
    ("batch_size", "capacity", "bounds"),
    [
        (None, sys.maxsize, (512, 4096)),
        (None, 10_000, (512, 2500)),
        (None, 2048, (512, 512)),
        (None, 1000, (500, 500)),
        (None, 1, (1, 1)),
        (200, sys.maxsize, (200, 200)),
        (100_000, sys.maxsize, (100_000, 100_000)),
        (200, 300, (150, 150)),
        (1, 1, (1, 1)),
    ],
)
def test_a_batch_grows_with_the_backlog_unless_its_size_was_given(
    batch_size: int | None, capacity: int, bounds: tuple[int, int]
) -> None:
    """
    A size that was given is never exceeded, and no batch is more than half of the room.
    """
    assert batch_bounds(batch_size, capacity) == bounds


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("batch_max_bytes", "capacity", "bounds"),
    [
        (None, sys.maxsize, (MIB, 4 * MIB)),
        (None, 32 * MIB, (MIB, 4 * MIB)),
        (None, 8 * MIB, (MIB, 2 * MIB)),
        (None, MIB, (MIB, MIB)),
        (100, sys.maxsize, (100, 100)),
        (64 * MIB, MIB, (64 * MIB, 64 * MIB)),
    ],
)
def test_so_does_a_batch_in_bytes(
    batch_max_bytes: int | None, capacity: int, bounds: tuple[int, int]
) -> None:
    """
    A bound that was given is never exceeded; one that grew is at most a quarter of the room.
    """
    assert batch_byte_bounds(batch_max_bytes, capacity) == bounds


def test_batches_grow_while_they_are_quick_and_full() -> None:
    """
    To eight times the usual size; a small one tells nothing, and a slow one halves the next.
    """
    growth = Growth()
    seen = []
    for seconds, fullness in (
        (0.0, 0.4), (0.01, 1.0), (0.01, 0.5), (0.2, 1.0), (0.09, 1.0), (0.09, 1.0), (0.01, 0.1), (0.3, 1.0), (9.0, 0.01), (9.0, 1.0), (9.0, 1.0),
    ):  # fmt: skip
        growth.committed(seconds, fullness)
        seen.append(growth.factor)
    assert seen == [1, 2, 4, 4, 8, 8, 8, 4, 2, 1, 1]


QUIET: dict[str, Any] = {
    "pending": 1,
    "pending_bytes": 10,
    "age": 0.0,
    "flushing": False,
    "closing": False,
    "batch_size": 5,
    "batch_max_bytes": 100,
    "flush_interval": 1.0,
}


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({}, None),
        ({"pending": 4, "pending_bytes": 99, "age": 0.999}, None),
        ({"pending": 5}, FlushReason.SIZE),
        ({"pending_bytes": 100}, FlushReason.BYTES),
        ({"age": 1.0}, FlushReason.AGE),
        ({"flushing": True}, FlushReason.FLUSH),
        ({"closing": True}, FlushReason.CLOSE),
        ({"flush_interval": 0.0}, FlushReason.AGE),
        ({"pending": 0, "pending_bytes": 0, "age": 9.0, "flushing": True, "closing": True}, None),
        (
            {"pending": 5, "pending_bytes": 100, "age": 9.0, "flushing": True, "closing": True},
            FlushReason.SIZE,
        ),
        ({"pending_bytes": 100, "age": 9.0, "flushing": True, "closing": True}, FlushReason.BYTES),
        ({"age": 9.0, "flushing": True, "closing": True}, FlushReason.CLOSE),
        ({"age": 9.0, "flushing": True}, FlushReason.FLUSH),
    ],
)
def test_a_batch_is_written_for_the_first_reason_that_holds(
    numbers: dict[str, Any], reason: FlushReason | None
) -> None:
    """
    Size, bytes, close, flush, age, in this order; nothing is written while nothing waits.
    """
    assert flush_reason(**{**QUIET, **numbers}) is reason


def test_nobody_waits_when_nothing_is_pending() -> None:
    """
    An idle writer sleeps without a timeout.
    """
    assert time_until_flush(pending=0, age=0.0, flush_interval=1.0) is None


@pytest.mark.parametrize(("age", "seconds"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (7.0, 0.0)])
def test_the_writer_wakes_when_the_oldest_entry_is_old_enough(age: float, seconds: float) -> None:
    """
    The wait is what is left of `flush_interval`, and never negative.
    """
    assert time_until_flush(pending=1, age=age, flush_interval=1.0) == seconds


def test_the_ceilings_of_the_pauses_double_up_to_the_maximum() -> None:
    """
    0.1, 0.2, 0.4, … and then the maximum, without end.
    """
    ceilings = list(islice(retry_delays(0.1, 5.0, lambda low, high: high), 9))
    assert ceilings == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


@given(st.floats(0.001, 10), st.floats(0.001, 100), st.integers(1, 80))
def test_no_pause_is_longer_than_the_maximum(initial: float, maximum: float, count: int) -> None:
    """
    Full jitter: anything from nothing to the ceiling.
    """
    delays = list(islice(retry_delays(initial, maximum), count))
    assert all(0.0 <= delay <= maximum for delay in delays)
    assert delays[0] <= initial


def test_a_deadline_is_one_moment_for_many_waits() -> None:
    """
    What is left shrinks by what has passed, down to zero; wall time plays no part.
    """
    clock = FakeClock()
    deadline = Deadline(clock, 2.0)
    clock.advance(0.5)
    clock.step_wall_time(-3600)
    assert deadline.remaining() == 1.5
    assert not deadline.passed()
    clock.advance(5)
    assert deadline.remaining() == 0.0
    assert deadline.passed()


def test_no_timeout_is_no_deadline() -> None:
    """
    None never passes; zero has passed at once.
    """
    clock = FakeClock()
    assert Deadline(clock, None).remaining() is None
    assert not Deadline(clock, None).passed()
    assert Deadline(clock, 0).passed()


def test_the_system_clock_waits_for_its_condition() -> None:
    """
    With a timeout of nothing it returns at once, holding the lock as before.
    """
    condition = Condition()
    with condition:
        SystemClock.wait(condition, 0)
        with pytest.raises(RuntimeError):
            SystemClock.wait(Condition(), 0)
    assert SystemClock.time_ns() > 0
    assert SystemClock.monotonic() <= SystemClock.monotonic()


def test_a_fake_clock_lets_the_whole_timeout_pass_at_once() -> None:
    """
    Both times move together, but for a step of the wall clock.
    """
    clock = FakeClock(monotonic=10.0, time_ns=5)
    clock.wait(Condition(), 1.5)
    assert (clock.monotonic(), clock.time_ns()) == (11.5, 1_500_000_005)
    clock.step_wall_time(-1.5)
    assert (clock.monotonic(), clock.time_ns()) == (11.5, 5)


def test_a_fake_clock_refuses_to_wait_for_ever() -> None:
    """
    A test that would hang fails instead.
    """
    with pytest.raises(AssertionError, match="never end"):
        FakeClock().wait(Condition(), None)
