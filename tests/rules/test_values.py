"""
What typed values promise: equal and of the same type after the round trip, or refused at the call.
"""

from __future__ import annotations

import enum
import math
from collections import namedtuple
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_buffer import EntryRejected, _values
from audit_buffer._values import decode_values, encode_values
from tests.rules.values import Flags, Plain, anything, same, typed_values


def back(value: Any) -> Any:
    return decode_values(encode_values({"value": value}))[1]["value"]


@given(typed_values())
def test_values_come_back_equal_and_of_the_same_types(value: Any) -> None:
    """
    All the way down, with zone, fold, sign of zero and order of keys.
    """
    assert same(back(value), value)


@given(st.lists(anything()).map(tuple), st.dictionaries(st.text(), anything()))
def test_any_arguments_come_back_equal_or_are_refused(
    positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """
    The arguments of any call.
    """
    try:
        payload = encode_values(named, positional)
    except EntryRejected:
        return
    args, kwargs = decode_values(payload)
    assert same((args, kwargs), (list(positional), named))


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("-0.00"),
        Decimal("1E+1000"),
    ],
    ids=repr,
)
def test_numbers_that_are_not_equal_to_themselves_come_back(value: Any) -> None:
    """
    They cannot be compared, only looked at.
    """
    assert repr(back(value)) == repr(value)


def test_the_sign_of_zero_is_kept() -> None:
    """
    -0.0 is equal to 0.0, and not the same.
    """
    assert math.copysign(1, back(-0.0)) == -1


@pytest.mark.parametrize("size", [63, 64, 65, 1000, 100_000])
def test_ints_of_any_size_come_back(size: int) -> None:
    """
    Beyond MessagePack's 64 bits, and beyond the digits that Python prints.
    """
    for value in (1 << size, -(1 << size), (1 << size) - 1, -(1 << size) - 1):
        assert back(value) == value


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("UTC")),
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=-5, minutes=-30, microseconds=7))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=UTC),
        datetime(2026, 1, 1, fold=1),  # noqa: DTZ001
        time(2, 30, tzinfo=UTC, fold=1),
        time(2, 30, tzinfo=timezone(timedelta(hours=2))),
    ],
    ids=str,
)
def test_a_moment_keeps_zone_and_fold(moment: datetime | time) -> None:
    """
    The callee sees the hour that was meant, in the zone it was given in.
    """
    found = back(moment)
    assert same(found, moment)
    assert found.tzinfo is moment.tzinfo or found.tzinfo == moment.tzinfo


class Eastern(tzinfo):
    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, dt: datetime | None) -> None:
        return None


class Outer:
    class Inner(enum.Enum):
        A = 1


def test_a_nested_enum_and_combined_flags_come_back() -> None:
    """
    By module, qualified name and member; a combination of flags has no name, and comes back by value.
    """
    for member in (Outer.Inner.A, Plain.TWO, Flags.A | Flags.B, Flags(0)):
        assert back(member) is member


def test_an_enum_that_cannot_be_found_again_is_refused() -> None:
    """
    Its class must be at module level; the writer looks it up by name.
    """

    class Local(enum.Enum):
        A = 1

    with pytest.raises(EntryRejected, match="define the Enum at module level") as caught:
        back([Local.A])
    assert caught.value.field == "value"


class Text(str):
    __slots__ = ()


Pair = namedtuple("Pair", "a b")  # noqa: PYI024


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "is a builtins.object, which cannot be kept as it is; pass text, numbers"),
        (Text("x"), "Text, which cannot be kept"),
        (Pair(1, 2), "Pair, which cannot be kept"),
        (bytearray(b"x"), "bytearray"),
        (lambda: None, "function"),
        (datetime(2026, 1, 1, tzinfo=Eastern()), "has the time zone"),
        (time(1, tzinfo=Eastern()), "value has the time zone"),
        (datetime.fromtimestamp(0, UTC).astimezone(ZoneInfo.no_cache("Europe/Berlin")).tzinfo, "ZoneInfo"),
    ],
)
def test_an_unknown_class_is_refused_with_the_remedy(value: Any, says: str) -> None:
    """
    Nothing is pickled: a file of entries must not be able to run code.
    """
    with pytest.raises(EntryRejected) as caught:
        back(value)
    assert says in str(caught.value)


def test_the_message_leads_to_the_value() -> None:
    """
    Named or positional, with the path inside it; the field is the argument's name.
    """
    with pytest.raises(EntryRejected, match=r"details\['a'\]\[1\] = <object object") as caught:
        encode_values({"details": {"a": (1, object())}})
    assert caught.value.field == "details"
    with pytest.raises(EntryRejected, match="argument 2 = ") as caught:
        encode_values({}, (1, object()))
    assert caught.value.field == "argument 2"


@pytest.mark.parametrize("value", [{"a": "\ud800"}, ["\udfff"], {"\ud800": 1}], ids=ascii)
def test_text_that_is_no_unicode_is_refused(value: Any) -> None:
    """
    A lone surrogate has no bytes.
    """
    with pytest.raises(EntryRejected, match="cannot be encoded"):
        back(value)


@pytest.mark.parametrize("kind", [list, tuple, dict, frozenset])
@pytest.mark.parametrize("depth", [10, 100, 199, 201, 900, 100_000])
def test_deep_nesting_comes_back_or_is_refused(kind: Any, depth: int) -> None:
    """
    What was taken at the call can be decoded by the writer.
    """
    value: Any = 1
    for _ in range(depth):
        try:
            value = {"a": value} if kind is dict else kind((value,))
        except RecursionError:
            return
    try:
        payload = encode_values({"value": value})
    except EntryRejected:
        assert depth > 199
        return
    assert depth < 201
    found = decode_values(payload)[1]["value"]
    for _ in range(depth):
        assert type(found) is kind
        found = found["a"] if kind is dict else next(iter(found))
    assert found == 1


def test_the_format_is_fixed() -> None:
    """
    A ring file of an older version must still mean the same: codes are appended, never changed.
    """
    assert _values._CODES == {
        "int": 1,
        "dict": 2,
        "datetime": 3,
        "enum": 4,
        "tuple": 5,
        "set": 6,
        "frozenset": 7,
        "date": 8,
        "time": 9,
        "timedelta": 10,
        "UUID": 11,
        "Decimal": 12,
    }


def test_a_zone_that_is_missing_here_is_named() -> None:
    """
    The machine that adopts a ring file may have other zones than the one that wrote it.
    """
    packed = msgspec.msgpack.encode(["2026-01-01T00:00:00", 0, "Nowhere/Land"])
    payload = msgspec.msgpack.encode([[], {"value": msgspec.msgpack.Ext(3, packed)}])
    with pytest.raises(LookupError, match="'Nowhere/Land' of a recorded value is not installed here"):
        decode_values(payload)


def test_an_enum_name_that_means_something_else_is_not_called() -> None:
    """
    Only members of Enum classes are looked up, whatever a file says.
    """
    packed = msgspec.msgpack.encode(["os", "system", "true"])
    payload = msgspec.msgpack.encode([[], {"value": msgspec.msgpack.Ext(4, packed)}])
    with pytest.raises(LookupError, match="is not an Enum"):
        decode_values(payload)
