"""
Moments in the forms that logs and people write them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from audit_buffer._codec import from_micros


__all__ = ["moment_ago", "parse_moment"]

# Microseconds in the unit of a number below each bound: as seconds, 10**11 is the year 5138; and so on.
_UNITS = (
    (10**11, Decimal(10**6)),
    (10**14, Decimal(10**3)),
    (10**17, Decimal(1)),
    (10**20, Decimal("0.001")),
)
_AGO = re.compile(r"(\d+)\s*(s|min|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_moment(value: object) -> datetime:
    """
    Return the moment, in UTC, that *value* of a JSON object means.

    Args:
        value: ISO 8601 text (without a time zone it is taken as UTC), or a number since the epoch, also as text: seconds
            below 10¹¹, milliseconds below 10¹⁴, microseconds below 10¹⁷, nanoseconds above that.

    Raises:
        ValueError: It is none of these, or outside the years 1 to 9999.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("is neither text nor a number")
    number = _number(value)
    try:
        if number is not None:
            return from_micros(_micros(number))
        moment = datetime.fromisoformat(str(value).strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None
    except ValueError:
        raise ValueError("is neither an ISO 8601 time nor a number since 1970") from None


def moment_ago(text: str, now: datetime) -> datetime:
    """
    Return the moment that a person means: ISO 8601, or how long ago (``90s``, ``15m``, ``2h``, ``1d``, ``1w``).

    Raises:
        ValueError: *text* is neither.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is None:
        return parse_moment(text)
    try:
        return now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    except OverflowError:
        raise ValueError("is too long ago") from None


def _number(value: str | float) -> Decimal | None:
    text = value.strip() if isinstance(value, str) else repr(value)
    # A date without separators, 20230710, is more likely a number of seconds in a log than a day.
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _micros(number: Decimal) -> int:
    for bound, unit in _UNITS:
        if abs(number) < bound:
            return round(number * unit)
    raise OverflowError
