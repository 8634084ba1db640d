"""
Strategies for what applications put into entries, and what "the same" means.
"""

from __future__ import annotations

import enum
import re
from collections import OrderedDict
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st


__all__ = [
    "Flags",
    "Level",
    "Plain",
    "Word",
    "anything",
    "as_json",
    "json_values",
    "naughty_text",
    "same",
    "typed_values",
]

NAUGHTY = (
    "",
    " ",
    "a ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "'\"`\\",
    "%s %(x)s %% %d",
    ":name :p0 ::int",
    "\\u0000 \\0 \\x00",
    "e\u0301 \u0645\u202e\u200f\u2066",
    "\U0001f600\U0010ffff\U00020000",
    "\x01\x1f\x7f\x85\u2028\u2029\ufeff\uffff",
    "\r\n\t",
    "null NULL None",
    "'; DROP TABLE audit_log; --",
    "{}{0} ${x} $1 ?",
    "abc",
    "ABC",
    "ábc",
)


class Plain(enum.Enum):
    ONE = 1
    TWO = "two"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Flags(enum.Flag):
    A = 1
    B = 2


def naughty_text() -> st.SearchStrategy[str]:
    """
    Text that databases, drivers and formatters trip over.
    """
    return st.one_of(
        st.sampled_from(NAUGHTY), st.text(), st.text(st.characters(exclude_categories=()), max_size=5)
    )


def json_values() -> st.SearchStrategy[Any]:
    """
    What JSON gives back equal, tuples aside.
    """
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(10**400), 10**400),
        st.floats(allow_nan=False, allow_infinity=False),
        naughty_text(),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(naughty_text(), inner, max_size=3),
        ),
        max_leaves=8,
    )


def scalars() -> st.SearchStrategy[Any]:
    """
    Values of the classes that rows and calls keep.
    """
    zones = st.one_of(
        st.none(),
        st.just(UTC),
        st.timezones(),
        st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone),
    )
    fixed = st.one_of(st.none(), st.just(UTC), st.just(timezone(timedelta(hours=1))))
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(10**400), 10**400),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=("Cs",))),
        st.binary(max_size=20),
        st.datetimes(timezones=zones, allow_imaginary=True),
        st.dates(),
        st.times(timezones=fixed),
        st.timedeltas(),
        st.uuids(),
        st.decimals(allow_nan=False),
        st.sampled_from(
            [*Plain, *Level, *Word, *Flags, Flags.A | Flags.B, Flags(0), re.IGNORECASE | re.MULTILINE]
        ),
    )


def typed_values() -> st.SearchStrategy[Any]:
    """
    Values of the classes that rows and calls keep, in the containers that they keep.
    """
    return st.recursive(
        scalars(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.frozensets(scalars(), max_size=3),
            st.sets(scalars(), max_size=3),
            st.dictionaries(st.one_of(st.text(max_size=3), scalars()), inner, max_size=3),
        ),
        max_leaves=6,
    )


def anything() -> st.SearchStrategy[Any]:
    """
    All of the above, and what nobody keeps.
    """
    strange = st.sampled_from(
        [
            float("nan"),
            float("inf"),
            float("-inf"),
            object(),
            OrderedDict(a=1),
            OrderedDict(a=float("nan")),
            bytearray(b"x"),
            range(3),
            {1: "a", "1": "b"},
            {None: 1},
            {("a",): 1},
            type("Text", (str,), {})("x"),
            type("Number", (int,), {})(5),
            type("List", (list,), {})([1]),
            Exception("x"),
            int,
        ]
    )
    return st.one_of(json_values(), typed_values(), strange, st.lists(strange, max_size=2))


def as_json(value: Any) -> Any:
    """
    Return *value* as JSON gives it back: tuples are arrays.
    """
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def same(one: Any, other: Any) -> bool:
    """
    Tell whether two values are equal and of the same types all the way down; -0.0 is not 0.0, and NaN is NaN.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b)
            for pair in zip(one.items(), other.items(), strict=True)
            for a, b in zip(*pair, strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):  # in an order of their own, and a NaN in them is equal to nothing
        return one == other or sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, Decimal):  # a signalling NaN cannot even be compared
        return repr(one) == repr(other)
    if hasattr(one, "fold"):
        return one.replace(tzinfo=None) == other.replace(tzinfo=None) and (one.fold, one.tzinfo) == (
            other.fold,
            other.tzinfo,
        )
    return bool(one == other)
