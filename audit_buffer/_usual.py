"""
Quick looks: is an entry of the usual kind, which `record()` encodes without a closer look; is a value plain JSON?

There are two ways to take them. `_usual.c` looks at each part's type; where that module was not built (no compiler, a Python
without the interpreter's lock) msgspec makes a copy of an entry's declared types, which has to be equal, or Python walks.

Guarantees:
    * What is usual, or plain, comes back equal from what msgspec writes for it, unless msgspec refuses to write it.
    * The two ways may differ in what they call unusual, but never in what becomes of an entry: the unusual is looked at closely, and what is
      in order there is written in the same bytes.

Any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from audit_buffer._facts import MAX_LENGTHS


__all__ = [
    "HAS_SPEEDUPS",
    "INT64",
    "encode_usual",
    "encode_usual_by_msgspec",
    "is_foreign",
    "is_json",
    "is_json_to_python",
]

_convert = msgspec.convert
INT64 = 1 << 63  # the first int that 64 bits with a sign do not hold


def _json_object(levels: int) -> Any:
    """
    Return the type of a JSON object with at most so many levels in it.

    No float: msgspec would let a Decimal pass for one.
    """
    value: Any = str | int | bool | None
    for _ in range(levels):
        value = str | int | bool | dict[str, value] | list[value] | None
    return dict[str, value]


def _text_type(field: str, *, shortest: int = 0) -> Any:
    return Annotated[str, msgspec.Meta(min_length=shortest, max_length=MAX_LENGTHS[field])]


# In the order of the format. Few events are nested deeper than these levels; the type grows twofold with each.
_ROW: Any = msgspec.defstruct(
    "_ROW",
    [
        ("recorded", int),
        ("occurred", int | None),
        ("event_type", _text_type("event_type", shortest=1)),
        ("actor", _text_type("actor") | None),
        ("resource", _text_type("resource") | None),
        ("outcome", _text_type("outcome")),
        ("correlation_id", _text_type("correlation_id") | None),
        ("details", _json_object(7) | None),
    ],
    array_like=True,
    gc=False,
)
# msgspec takes a type apart at its first use, and crashes if a signal handler that records comes in between: use it now.
_convert((0, None, "first use", None, None, "success", None, None), _ROW)


def encode_usual_by_msgspec(
    row: tuple[Any, ...], buffer: bytearray, encode_into: Callable[[Any, bytearray], None]
) -> bool:
    """
    Encode *row*, which has the fields of the format, into *buffer*, if it needs no closer look; tell whether it did not.

    When it did, *buffer* may hold anything. Types, lengths and NUL are looked at.
    """
    try:
        checked = _convert(row, _ROW)
        encode_into(row, buffer)  # not what was checked: there an int is plain that was none
        _, _, event_type, actor, resource, outcome, correlation_id, details = row
        # Last, because another thread may change it meanwhile. A set became a list, and is not equal to one.
        same = checked.details == details
    except Exception as error:
        # msgspec says so of what is not usual, the encoder of half a surrogate pair; the rest is not theirs.
        if is_foreign(error):
            raise
        return False
    return (
        same
        and "\0" not in event_type
        and (actor is None or "\0" not in actor)
        and (resource is None or "\0" not in resource)
        and "\0" not in outcome
        and (correlation_id is None or "\0" not in correlation_id)
    )


def is_foreign(error: BaseException) -> bool:
    """
    Tell whether *error*, just caught, was raised in a frame below the one that caught it, and not by C code that this one called.

    A signal handler has a frame of its own; so what it raises can be told from what the encoder does.
    """
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None


def is_json_to_python(value: object, levels: int) -> bool:
    """
    Tell whether *value* is made of JSON's own types only, with at most so many *levels* of dicts and lists.

    That is text, bool, None, ints of 64 bits, finite floats; lists; and dicts whose keys are text. None of a class of its own.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return -INT64 <= value < INT64  # type: ignore[operator]
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if levels <= 0:
        return False
    if kind is dict:
        return all(
            type(key) is str and is_json_to_python(item, levels - 1)
            for key, item in value.items()  # type: ignore[attr-defined]
        )
    return kind is list and all(is_json_to_python(item, levels - 1) for item in value)  # type: ignore[attr-defined]


try:
    from audit_buffer._speedups import encode_usual, is_json
except ImportError:
    encode_usual, is_json = encode_usual_by_msgspec, is_json_to_python

# Whether the looks are taken in C.
HAS_SPEEDUPS = is_json is not is_json_to_python
