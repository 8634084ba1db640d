"""
The rows of a batch are the same, in C and in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit_buffer.sinks import _rows
from audit_buffer.sinks._rows import Row, make_rows, make_rows_in_python, rows_of
from tests.compiled import in_c
from tests.rules.values import naughty_text


IDENTITY = UUID(int=0xA0D17)
# In older releases msgspec's errors are no ValueErrors.
REFUSED = (ValueError, msgspec.MsgspecError)
TEXTS = naughty_text().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
# The first and the last day that the codec takes, and around a second.
MICROS = st.one_of(
    st.integers(-62_135_510_400_000_000, 253_402_214_400_000_000 - 1),
    st.integers(1_795_000_000_000_000, 1_795_000_000_000_000 + 3_000_000),
    st.sampled_from([-1, 0, 1, 999_999, 1_000_000]),
)
ENTRIES = st.tuples(
    MICROS,
    st.none() | MICROS,
    TEXTS,
    st.none() | TEXTS,
    st.none() | TEXTS,
    TEXTS,
    st.none() | TEXTS,
    st.none() | st.dictionaries(TEXTS, VALUES, max_size=3),
)


def in_python(stored: list[tuple[int, bytes]]) -> list[Row]:
    with patch.object(_rows, "make_rows", make_rows_in_python):
        return rows_of(IDENTITY, stored)


@in_c
@given(entries=st.lists(ENTRIES, max_size=6))
@example(entries=[(0, None, 'a"],[\\', "\\", '","', '\\"', ",", {"]": ["}"]})])
@example(entries=[(0, 0, "", None, None, "", None, None), (0, 0, "null", "null", "n", "[", "null", {})])
def test_rows_are_made_alike(entries: list[tuple[Any, ...]]) -> None:
    """
    Whatever the texts are, before the epoch and after, within a second and across.
    """
    stored = [(seq, msgspec.json.encode(entry)) for seq, entry in enumerate(entries, 1)]
    rows = rows_of(IDENTITY, stored)
    assert rows == in_python(stored)
    for row, entry in zip(rows, entries, strict=True):
        assert row[4:9] == entry[2:7]
        assert row[9] == (None if entry[7] is None else msgspec.json.encode(entry[7]).decode())


@in_c
@given(
    cut=st.integers(0, 60),
    flip=st.tuples(st.integers(0, 59), st.integers(0, 255)),
    entry=st.sampled_from(
        [
            (0, None, "a", None, None, "b", None, None),
            (0, 5, "a\\", '"', "c", 'b"\\', "d", {"e": [1, "f"]}),
        ]
    ),
)
def test_what_is_no_entry_is_refused(cut: int, flip: tuple[int, int], entry: tuple[Any, ...]) -> None:
    """
    Cut short or changed in front of its details, it is refused in C where it is refused in Python.
    """
    whole = bytearray(msgspec.json.encode(entry))
    whole[flip[0] % len(whole)] = flip[1]
    payload = bytes(whole[:cut] if cut < len(whole) // 2 else whole)
    expected, found = outcome(in_python, payload), outcome(lambda stored: rows_of(IDENTITY, stored), payload)
    # Behind the head C looks at nothing but the encoding.
    assert found == expected or (expected is None and isinstance(found, list))


def outcome(make: Callable[[list[tuple[int, bytes]]], list[Row]], payload: bytes) -> Any:
    try:
        return make([(1, payload)])
    except REFUSED:
        return None


@in_c
@pytest.mark.parametrize("recorded", [1 << 61, 1 << 62, (1 << 63) - 1, -(1 << 62), -(1 << 63), 1 << 63])
@pytest.mark.parametrize("first", [None, 0, -1])
def test_a_time_that_no_calendar_has_is_refused(recorded: int, first: int | None) -> None:
    """
    In front of the first entry and behind another, as recorded and as occurred: an OverflowError, in C and in Python.
    """
    for times in ((recorded, None), (0, recorded)):
        entries = [
            (micros, occurred, "a", None, None, "b", None, None)
            for micros, occurred in [(first, None), times]
        ]
        stored = [(1, msgspec.json.encode(entry)) for entry in entries if entry[0] is not None]
        for make in (in_python, lambda stored: rows_of(IDENTITY, stored)):
            with pytest.raises(OverflowError):
                make(stored)


@in_c
@pytest.mark.parametrize("details", [b'{"a":"\xff"}', b'{"a":"\n"}', b"{}\n1\t2", b'"\x1f"', b"\x00"])
def test_details_that_no_encoder_writes_are_refused(details: bytes) -> None:
    """
    A line break would be a row of its own in a COPY.
    """
    stored = [(1, b'[0,1,"a",null,null,"b",null,' + details + b"]")]
    for make in (in_python, lambda stored: rows_of(IDENTITY, stored)):
        with pytest.raises(REFUSED):
            make(stored)


@in_c
def test_an_entry_without_details_is_none() -> None:
    """
    Seven fields are what the part in front of the details looks like.
    """
    with pytest.raises(ValueError, match="entry 9 is no array of eight"):
        rows_of(IDENTITY, [(9, msgspec.json.encode((0, None, "a", None, None, "b", None)))])


@in_c
def test_what_is_called_in_another_way_is_refused() -> None:
    """
    Whoever calls it wrongly gets an error, and no crash.
    """
    entry = (1, msgspec.json.encode((0, None, "a", None, None, "b", None, None)))
    decode, text = _rows._decode_head, _rows._text
    for arguments in [
        (),
        ("", [1], decode, text),
        ("", [(1, "")], decode, text),
        ("", 7, decode, text),
        ("", [entry], list, text),
        ("", [entry], decode, int),
    ]:
        with pytest.raises(TypeError):
            make_rows(*arguments)
    with pytest.raises(ValueError, match="no time"):
        make_rows("", [entry], decode, str)
