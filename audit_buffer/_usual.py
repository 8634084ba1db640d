"""
The quick look at an entry: is it of the usual kind, which `record()` encodes without a closer one?

There are two ways to take it. `_speedups.c` looks at each part's type, in a fifth of the time; where that module was not built (no
compiler, a Python without the interpreter's lock) msgspec makes a copy of the declared types, which has to be equal.

Guarantees:
    * What is usual comes back equal from the JSON that msgspec writes for it, a tuple as an array, unless msgspec refuses to write it.
    * The two ways may differ in what they call unusual, but never in what becomes of an entry: the unusual goes to `encode_closely()`,
      which writes the same bytes for what is in order.

Any thread.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from audit_buffer._facts import MAX_LENGTHS


__all__ = ["HAS_SPEEDUPS", "is_usual", "is_usual_to_msgspec"]

_convert = msgspec.convert


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


def is_usual_to_msgspec(row: tuple[Any, ...]) -> bool:
    """
    Tell whether *row*, which has the fields of the format, needs no closer look: types, lengths, NUL.
    """
    try:
        checked = _convert(row, _ROW)
    except Exception:  # msgspec asks what it does not know for its keys, and that raises what it likes
        return False
    _, _, event_type, actor, resource, outcome, correlation_id, details = row
    return (
        checked.details == details  # a set became a list, and is not equal to one
        and "\0" not in event_type
        and (actor is None or "\0" not in actor)
        and (resource is None or "\0" not in resource)
        and "\0" not in outcome
        and (correlation_id is None or "\0" not in correlation_id)
    )


try:
    from audit_buffer._speedups import is_usual
except ImportError:
    is_usual = is_usual_to_msgspec

# Whether the look is taken in C.
HAS_SPEEDUPS = is_usual is not is_usual_to_msgspec
