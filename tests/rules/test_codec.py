"""
What the bytes of an entry promise: equal after the round trip, or refused at the call.
"""

from __future__ import annotations

import enum
import json
import math
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_buffer import BufferConfig, EntryRejected, _recorders
from audit_buffer._codec import EntryCodec, encode_into, from_micros, to_micros
from audit_buffer._facts import MAX_LENGTHS, check_json
from audit_buffer._recorders import recorder_for
from audit_buffer._usual import (
    encode_usual,
    encode_usual_by_msgspec,
    is_json,
    is_json_to_python,
)
from audit_buffer.testing import FakeClock, MemorySink
from tests.compiled import in_c
from tests.rules.values import anything, as_json, json_values, same


CODEC = EntryCodec(1 << 20)
# The look in C, where there is one, and the one that takes its place.
LOOKS = list(dict.fromkeys((encode_usual, encode_usual_by_msgspec)))
ARGUMENTS: dict[str, Any] = {
    "recorded": 1_700_000_000_000_000,
    "event_type": "plan.updated",
    "actor": None,
    "resource": None,
    "outcome": "success",
    "details": None,
    "correlation_id": None,
    "occurred_at": None,
}


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


class Plain(enum.Enum):
    ONE = 1


class Number(int):
    pass


class Text(str):
    __slots__ = ()


class Items(list[str]):
    pass


def is_usual(row: Any, look: Callable[..., bool] = encode_usual) -> bool:
    return look(row, bytearray(), encode_into)


def encode(codec: EntryCodec = CODEC, **arguments: Any) -> bytes:
    """
    Return what the service and a buffer's `record()` make of the arguments; the two must never differ.
    """
    given = {**ARGUMENTS, **arguments}
    recorder = recorder_for(
        MemorySink(), BufferConfig(max_entry_bytes=codec.max_entry_bytes, redact=codec.redact), FakeClock()
    )
    closely = outcome(codec.encode, **given)
    del given["recorded"]
    for look in LOOKS:
        with patch.object(_recorders, "encode_usual", look):
            check_same(outcome(recorder.encode, **given), closely)
    if isinstance(closely, EntryRejected):
        raise closely
    return closely


def check_same(shortly: bytes | EntryRejected, closely: bytes | EntryRejected) -> None:
    if isinstance(closely, EntryRejected):
        assert isinstance(shortly, EntryRejected)
        assert shortly.field == closely.field
        # How Python says that the stack ends depends on where it ends.
        assert (
            str(shortly).partition("maximum recursion")[0] == str(closely).partition("maximum recursion")[0]
        )
    else:
        assert shortly == closely
        assert type(shortly) is bytes


def outcome(call: Callable[..., bytes], **arguments: Any) -> bytes | EntryRejected:
    try:
        return call(**arguments)
    except EntryRejected as error:
        return error


def details_of(payload: bytes) -> Any:
    return CODEC.decode(payload).details_object()


@given(st.dictionaries(st.text(), json_values()))
def test_json_details_come_back_equal_and_of_the_same_types(details: dict[str, Any]) -> None:
    """
    But for a tuple, which is a JSON array.
    """
    try:
        payload = encode(details=details)
    except EntryRejected:
        # Only a lone surrogate is text that is no UTF-8.
        with pytest.raises(UnicodeEncodeError):
            repr_of_strings(details).encode()
        return
    assert same(details_of(payload), as_json(details))


def repr_of_strings(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(repr_of_strings(part) for item in value.items() for part in item)
    return "".join(map(repr_of_strings, value)) if isinstance(value, list | tuple) else ""


@given(st.dictionaries(st.text(max_size=5), anything(), max_size=3))
def test_any_details_come_back_equal_or_are_refused(details: dict[str, Any]) -> None:
    """
    Nothing is changed without a word: NaN, sets, bytes, dates, keys that are no text.
    """
    try:
        payload = encode(details=details)
    except EntryRejected:
        return
    assert details_of(payload) == as_json(details)


FIELDS = st.one_of(st.none(), st.text(), st.text(min_size=250, max_size=900), anything())


@given(st.sampled_from(sorted(MAX_LENGTHS)), FIELDS)
def test_any_field_comes_back_equal_or_is_refused(name: str, value: Any) -> None:
    """
    Text within its length, or None where that is allowed.
    """
    try:
        row = CODEC.decode(encode(**{name: value}))
    except EntryRejected:
        return
    assert getattr(row, name) == value
    assert value is None or (len(value) <= MAX_LENGTHS[name] and "\0" not in value)


@pytest.mark.parametrize("name", MAX_LENGTHS)
def test_a_field_may_be_as_long_as_its_column(name: str) -> None:
    """
    Counted in characters, of four bytes if need be.
    """
    longest = "\U0001f600" * MAX_LENGTHS[name]
    assert getattr(CODEC.decode(encode(**{name: longest})), name) == longest
    with pytest.raises(EntryRejected, match="characters, more than") as caught:
        encode(**{name: longest + "x"})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in MAX_LENGTHS for value in (5, b"x", "a\0b", ["x"], True)),
        ("event_type", None),
        ("event_type", ""),
        ("outcome", None),
        ("occurred_at", "2026-01-01"),
        ("occurred_at", date(2026, 1, 1)),
        ("occurred_at", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("occurred_at", datetime.max.replace(tzinfo=UTC)),
        ("occurred_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))),
        ("details", [("a", 1)]),
        ("details", "text"),
        ("details", 5),
    ],
)
def test_a_refused_argument_is_named(name: str, value: Any) -> None:
    """
    Short entries and long ones alike: the fast path may not let one through.
    """
    for extra in ({}, {"correlation_id": "x" * 255} if name != "correlation_id" else {"actor": "x" * 300}):
        with pytest.raises(EntryRejected) as caught:
            encode(**{**extra, name: value})
        assert caught.value.field == name


@pytest.mark.parametrize(
    ("details", "where"),
    [
        ({"a": float("nan")}, "details['a'] is nan"),
        ({"a": [1, {"b": math.inf}]}, "details['a'][1]['b'] is inf"),
        ({1: "x", "1": "y"}, "details has the key 1"),
        ({"a": {None: 1}}, "details['a'] has the key None"),
        ({"a": {"b": (b"x",)}}, "details['a']['b'][0] is b'x'"),
        ({"a": {1, 2}}, "details['a'] is {1, 2}"),
        ({"a": {"b": ["x", {"c": frozenset({"y"})}]}}, "details['a']['b'][1]['c'] is frozenset({'y'})"),
        ({"a": set()}, "details['a'] is set()"),
        ({"a": Decimal(1)}, "Decimal back"),
        ({"a": UUID(int=1)}, "UUID back"),
        ({"a": datetime.now(UTC)}, "datetime back"),
        ({"a": Plain.ONE}, "Plain back"),
        ({"a": Number(5)}, "Number back"),
        ({"a": object()}, "object back"),
    ],
)
def test_a_refused_part_of_details_is_told_by_its_path(details: dict[Any, Any], where: str) -> None:
    """
    The message leads to the value, and to the remedy.
    """
    with pytest.raises(EntryRejected) as caught:
        encode(details=details)
    assert where in str(caught.value)
    assert caught.value.field == "details"


@pytest.mark.parametrize(
    "value", [Word.YES, Level.LOW, OrderedDict(a=1), -0.0, 1e308, 5e-324, 2**64, -(10**400)]
)
def test_values_that_json_gives_back_equal_are_taken(value: Any) -> None:
    """
    Also when their class is not JSON's own; ints of any size that Python prints.
    """
    back = details_of(encode(details={"a": [value]}))["a"][0]
    assert back == value
    assert not isinstance(value, float) or math.copysign(1, back) == math.copysign(1, value)


@pytest.mark.parametrize("value", [pytest.param("\ud800", id="surrogate"), pytest.param(10**5000, id="huge")])
def test_what_has_no_json_text_is_refused(value: Any) -> None:
    """
    Lone surrogates, and ints of more digits than Python prints.
    """
    with pytest.raises(EntryRejected, match="cannot be encoded"):
        encode(details={"a": value})


@pytest.mark.parametrize("depth", [10, 100, 300, 100_000])
@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_deep_nesting_comes_back_or_is_refused(depth: int, wrap: Any) -> None:
    """
    Beyond the interpreter's depth the call is refused; nothing dies.
    """
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    try:
        payload = encode(details={"a": value})
    except EntryRejected:
        assert depth > 300
        return
    assert details_of(payload) == {"a": value}


def test_a_value_that_contains_itself_is_refused() -> None:
    """
    It has no end, so it has no bytes.
    """
    details: dict[str, Any] = {}
    details["self"] = [details]
    with pytest.raises(EntryRejected):
        encode(details=details)


def test_the_entry_is_what_it_was_at_the_call() -> None:
    """
    Changing an argument afterwards changes nothing.
    """
    details = {"tags": ["a"]}
    payload = encode(details=details)
    details["tags"].append("b")
    assert details_of(payload) == {"tags": ["a"]}


def test_an_entry_may_be_as_large_as_it_is_allowed_to() -> None:
    """
    Counted in encoded bytes, the whole of it.
    """
    size = len(encode(details={"a": "x" * 1000}))
    assert len(encode(EntryCodec(size), details={"a": "x" * 1000})) == size
    with pytest.raises(EntryRejected, match=f"takes {size} bytes, more than max_entry_bytes = {size - 1}"):
        encode(EntryCodec(size - 1), details={"a": "x" * 1000})


def test_small_bounds_hold_for_short_entries_too() -> None:
    """
    The smallest bound that can be set refuses an entry that says next to nothing.
    """
    with pytest.raises(EntryRejected, match="max_entry_bytes = 64"):
        encode(EntryCodec(64))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    "details",
    [
        None,
        {},
        {"text": 'a "quoted" C:\\path\n', "n": 1, "flag": True, "nothing": None, "tags": ["a", ["b", {}]]},
        json.loads('{"k": ' * 7 + "[1]" + "}" * 7),
    ],
)
def test_the_usual_entry_takes_the_short_cut(
    look: Callable[..., bool], details: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Text of every kind, numbers, lists and the nesting of real events need no closer look, which costs several times as much.
    """
    monkeypatch.delattr(_recorders, "encode_closely")
    monkeypatch.setattr(_recorders, "encode_usual", look)
    recorder = recorder_for(MemorySink(), BufferConfig(), FakeClock())
    assert details_of(recorder.encode("plan.updated", actor="a", details=details)) == details


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", MAX_LENGTHS)
def test_a_field_as_long_as_its_column_takes_the_short_cut(
    name: str, look: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each field has a length of its own.
    """
    monkeypatch.delattr(_recorders, "encode_closely")
    monkeypatch.setattr(_recorders, "encode_usual", look)
    recorder = recorder_for(MemorySink(), BufferConfig(), FakeClock())
    longest = "\U0001f600" * MAX_LENGTHS[name]
    row = CODEC.decode(recorder.encode(**{"event_type": "plan.updated", name: longest}))
    assert getattr(row, name) == longest


@in_c
@pytest.mark.parametrize("value", [Word.YES, Level.LOW, OrderedDict(a=1), Number(5), Text("a"), Items("a")])
def test_classes_of_their_own_are_not_usual_to_the_look_in_c(value: Any) -> None:
    """
    What they are to JSON is for the closer look to find out.
    """
    assert is_usual((0, None, "e", None, None, "success", None, {"k": [1]}))
    assert not is_usual((0, None, "e", None, None, "success", None, {"k": [value]}))
    assert not is_usual((0, None, "e", value, None, "success", None, None))
    assert not is_usual((0, None, "e", None, None, "success", None, value))


@in_c
@pytest.mark.parametrize(
    "details",
    [
        {"price": 9.99, "zero": -0.0},
        json.loads('{"k": ' * 30 + "[" * 30 + "1" + "]" * 30 + "}" * 30),
    ],
)
def test_the_look_in_c_finds_more_usual(details: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Finite floats, and any nesting that a person would write.
    """
    monkeypatch.delattr(_recorders, "encode_closely")
    recorder = recorder_for(MemorySink(), BufferConfig(), FakeClock())
    assert details_of(recorder.encode("plan.updated", details=details)) == as_json(details)


@pytest.mark.parametrize(
    "row", [None, (), [0] * 8, (0,) * 9, (0, None, "e", None, None, "success", None, [])]
)
def test_what_is_no_row_is_not_usual(row: Any) -> None:
    """
    The look in C takes nothing for granted.
    """
    assert not is_usual(row)


@given(anything(), st.integers(-2, 5))
def test_both_looks_find_the_same_values_plain(value: Any, levels: int) -> None:
    """
    Whatever it is, and however deep it may be.
    """
    assert is_json(value, levels) is is_json_to_python(value, levels)


@given(json_values())
def test_what_is_plain_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    """
    From JSON and from MessagePack, unless it has no UTF-8.
    """
    if is_json(value, 64):
        for kind in (msgspec.json, msgspec.msgpack):
            try:
                payload = kind.encode(value)
            except UnicodeEncodeError:
                return
            assert same(kind.decode(payload), value)


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, math.nan, math.inf, (), (1,), b"", {1: 2}, set(), Word.YES, Items("a"), Number(5)],
)
def test_what_is_not_plain_json(value: Any) -> None:
    """
    Also inside of others.
    """
    for look in (is_json, is_json_to_python):
        assert look([{"k": 2**63 - 1}, -(2**63), 0.5, "a", None, True], 64)
        assert not look(value, 64)
        assert not look([{"k": [value]}], 64)


def test_levels_are_dicts_and_lists_around_a_value() -> None:
    """
    As many as are allowed, and not one more; the look in C ends at a depth of its own.
    """
    deep: Any = 1
    for level in range(1, 2000):
        deep = [deep] if level % 2 else {"k": deep}
        if level < 500:
            assert is_json(deep, level)
            assert not is_json(deep, level - 1)
        if level < 300:
            assert is_json_to_python(deep, level)
            assert not is_json_to_python(deep, level - 1)
    assert not is_json(deep, 1500)


@pytest.mark.parametrize("key", [Word.YES, Text("k")])
def test_a_key_may_be_text_of_a_class_of_its_own(key: str) -> None:
    """
    It is that text; what else is in *details* changes nothing about it.
    """
    for value in (1, 0.5, "x", [1], (1,)):
        assert details_of(encode(details={key: value})) == as_json({str(key): value})


@in_c
def test_a_look_comes_to_an_end() -> None:
    """
    Lists that contain one another many times are more parts than an entry could hold.
    """
    parts: Any = [1]
    for _ in range(45):
        parts = [parts, parts]
    assert not is_json(parts, 64)
    assert not is_usual((0, None, "e", None, None, "success", None, {"k": parts}))


@in_c
def test_nothing_comes_between_the_look_and_the_encoding() -> None:
    """
    What encodes is called by the look itself, and what it raises is raised.
    """
    row = (0, None, "e", None, None, "success", None, {"k": 1})
    buffer, calls = bytearray(), list[Any]()
    assert encode_usual(row, buffer, lambda *given: calls.append(given))  # type: ignore[arg-type]
    assert calls == [(row, buffer)]
    assert calls[0][1] is buffer
    assert not encode_usual((), buffer, calls.remove)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        encode_usual((*row[:-1], {"k": "\ud800"}), buffer, encode_into)
    for call in (is_json, encode_usual):
        with pytest.raises(TypeError, match="takes a"):
            call()  # type: ignore[operator]
    with pytest.raises(TypeError):
        is_json(1, "x")  # type: ignore[arg-type]


def test_the_look_keeps_nothing() -> None:
    """
    No reference to what it has seen, usual or not.
    """
    parts: list[Any] = ["text" * 3, 2**62, 2**70, 0.5, ["a"], ("b",), {"c": 1}, {"a", "set"}, object()]
    before = [sys.getrefcount(part) for part in parts]
    for look in LOOKS:
        for part in parts:
            is_json(part, 3)
            is_json([part, {"k": part}], 3)
            is_usual((0, None, "e", None, None, "success", None, {"k": part}), look)
            is_usual((0, None, part, part, part, part, part, part), look)
    del part
    assert [sys.getrefcount(part) for part in parts] == before


def test_a_large_entry_leaves_no_large_buffer_behind() -> None:
    """
    What `record()` uses again stays small, whatever came through it once.
    """
    recorder = recorder_for(MemorySink(), BufferConfig(), FakeClock())
    details = {"a": "x" * 500_000}
    recorder.encode("plan.updated")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert len(recorder.encode("plan.updated", details=details)) > 500_000
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


def test_redaction_runs_before_anything_is_encoded() -> None:
    """
    The secret is in no byte; what the function returns is checked as any other details.
    """
    codec = EntryCodec(1 << 20, lambda details: {**details, "password": "***"})
    payload = encode(codec, details={"password": "hunter2", "a": 1})
    assert b"hunter2" not in payload
    assert details_of(payload) == {"password": "***", "a": 1}
    assert encode(codec) == encode()
    with pytest.raises(EntryRejected):
        encode(EntryCodec(1 << 20, lambda details: {"a": {1}}), details={"x": 1})


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.timezones()))  # noqa: DTZ001
def test_a_moment_is_kept_to_the_microsecond_in_utc(moment: datetime) -> None:
    """
    Whatever its zone, fold included.
    """
    back = from_micros(to_micros(moment, "occurred_at"))
    assert back == moment.astimezone(UTC)
    assert back.tzinfo is UTC


def test_the_two_readings_of_a_doubled_hour_stay_apart() -> None:
    """
    `fold` tells which of them is meant.
    """
    early = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    later = early.replace(fold=1)
    assert to_micros(later, "x") - to_micros(early, "x") == 3_600_000_000


def test_check_json_says_nothing_about_what_json_gives_back() -> None:
    """
    For columns of JSON: any JSON value, not only objects.
    """
    check_json([1, "a", None, {"b": (True, 2.5)}], "column")
    with pytest.raises(EntryRejected, match=r"column\[0\]"):
        check_json([float("inf")], "column")
