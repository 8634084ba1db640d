"""
Times as logs and people write them.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_buffer._codec import to_micros
from audit_buffer.commands._moments import moment_ago, parse_moment


NOON = datetime(2023, 7, 10, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        "2023-07-10T12:00:00.123456Z",
        "2023-07-10 12:00:00.123456",
        "2023-07-10T14:00:00.123456+02:00",
        "2023-07-10T12:00:00.123456789Z",
        " 1688990400123456 ",
        1688990400123456,
        1688990400.123456,
        "1688990400.123456",
        "1688990400123.456",
        1688990400123456000,
    ],
)
def test_every_common_form_is_the_same_moment(written: object):
    """
    ISO 8601, and numbers in seconds, milliseconds, microseconds and nanoseconds, as numbers or text.
    """
    assert parse_moment(written) == NOON


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1973, 4, 1), max_value=datetime(5138, 1, 1)))  # noqa: DTZ001
def test_microseconds_of_the_journal_come_back_exactly(moment: datetime):
    """
    __REALTIME_TIMESTAMP is text with microseconds; from 1973 to 5138 none is taken for another unit.
    """
    assert parse_moment(str(to_micros(moment, "moment"))) == moment


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("soon", "neither an ISO 8601 time nor"),
        ("", "neither an ISO 8601 time nor"),
        ("NaN", "neither an ISO 8601 time nor"),
        (True, "neither text nor a number"),
        ({}, "neither text nor a number"),
        ("0001-01-01T00:00:00+14:00", "outside the years"),
        (10**20, "outside the years"),
        ("9e99", "outside the years"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_reason(written: object, problem: str):
    """
    A wrong time is never taken for another one.
    """
    with pytest.raises(ValueError, match=problem):
        parse_moment(written)


def test_numbers_before_1970_are_told_apart_by_their_size_too():
    """
    Minus 10¹¹ are milliseconds in 1966.
    """
    assert parse_moment(-(10**11)) == datetime(1966, 10, 31, 14, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("90s", "2023-07-10T11:58:30.123456Z"),
        ("15m", "2023-07-10T11:45:00.123456Z"),
        ("15min", "2023-07-10T11:45:00.123456Z"),
        ("2h", "2023-07-10T10:00:00.123456Z"),
        ("1d", "2023-07-09T12:00:00.123456Z"),
        ("1w", "2023-07-03T12:00:00.123456Z"),
        ("2023-01-01", "2023-01-01T00:00:00Z"),
    ],
)
def test_a_person_says_how_long_ago(written: str, moment: str):
    """
    --since 15m is fifteen minutes ago; a date is its first moment in UTC.
    """
    assert moment_ago(written, NOON) == datetime.fromisoformat(moment)


def test_longer_ago_than_there_were_years_is_refused():
    """
    A span that leads out of the calendar is an error, not a crash.
    """
    with pytest.raises(ValueError, match="too long ago"):
        moment_ago("99999999999999w", NOON)
