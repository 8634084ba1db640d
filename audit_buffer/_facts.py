"""
What an entry may hold, looked at part by part: the slow look, taken where the quick one of `_usual` found something.

Guarantees:
    * What passes comes back equal from JSON, a tuple as an array; for the rest the error has the path to the part that
      would not, and the remedy.

Every function is pure and may be called from any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from audit_buffer.errors import EntryRejected, shown


__all__ = ["MAX_LENGTHS", "check_details", "check_facts", "check_json"]

# Lengths in characters. MariaDB indexes at most 3,072 bytes, which is 768 characters of four bytes.
MAX_LENGTHS = {"event_type": 255, "actor": 768, "resource": 768, "outcome": 255, "correlation_id": 255}
_LEAVES = frozenset({str, int, float, bool, type(None)})
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def _is_json(value: dict[str, Any]) -> bool:
    """
    Tell whether *value* holds only what JSON gives back equal.

    The encoder would turn a UUID into text, a set into an array and NaN into null without a word.
    """
    for key, item in value.items():
        if type(key) is not str:
            return False
        kind = type(item)
        if kind is str or item is None:
            continue
        if kind is dict:
            if not _is_json(item):
                return False
        elif kind is list or kind is tuple:
            if not _is_json_array(item):
                return False
        elif kind not in _LEAVES or (kind is float and not math.isfinite(item)):
            return False
    return True


def _is_json_array(value: list[Any] | tuple[Any, ...]) -> bool:
    for item in value:
        kind = type(item)
        if kind is dict:
            if not _is_json(item):
                return False
        elif kind is list or kind is tuple:
            if not _is_json_array(item):
                return False
        elif kind not in _LEAVES or (kind is float and not math.isfinite(item)):
            return False
    return True


def check_details(details: object) -> None:
    if not isinstance(details, dict):
        raise EntryRejected(f"details must be a dict or None, not {shown(details)}", field="details")
    check_json(details, "details")


def check_json(value: object, field: str) -> None:
    """
    Raise for the first part of *value* that JSON would not give back equal.

    Raises:
        EntryRejected: The message has the path to that part, and the remedy.
    """
    if _is_json_array((value,)):
        return
    for path, problem in _problems(value, field):
        raise EntryRejected(f"{path} {problem}", field=field)


def _problems(value: object, path: str) -> Iterator[tuple[str, str]]:
    if type(value) is dict:
        for key, item in value.items():
            # Text of a class of its own, such as a StrEnum's member, is that text.
            if type(key) is str or (isinstance(key, str) and _comes_back_equal({key: None})):
                yield from _problems(item, f"{path}[{shown(key)}]")
            else:
                yield path, f"has the key {shown(key)}; JSON keys are text, so write {shown(str(key))}"
    elif type(value) is list or type(value) is tuple:
        for position, item in enumerate(value):
            yield from _problems(item, f"{path}[{position}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"is {shown(value)}, which JSON does not have; use None or text"
    elif type(value) not in _LEAVES and not _comes_back_equal(value):
        yield (
            path,
            f"is {shown(value)}; JSON would not give a {type(value).__name__} back, so convert it first",
        )


def _comes_back_equal(value: object) -> bool:
    """
    Tell whether JSON gives *value* back equal though its type is not JSON's, as with a `StrEnum`.
    """
    try:
        return bool(_decode(_encode(value)) == value)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return False


def check_facts(
    event_type: object,
    actor: object,
    resource: object,
    outcome: object,
    correlation_id: object,
    details: object,
) -> None:
    """
    Raise for the first argument that cannot be stored and come back equal, if there is one.
    """
    values = {
        "event_type": event_type,
        "actor": actor,
        "resource": resource,
        "outcome": outcome,
        "correlation_id": correlation_id,
    }
    for field, value in values.items():
        required = field in ("event_type", "outcome")
        if value is None and not required:
            continue
        if not isinstance(value, str):
            expected = "text" if required else "text or None"
            raise EntryRejected(f"{field} must be {expected}, not {shown(value)}", field=field)
        if "\0" in value:
            raise EntryRejected(
                f"{field} = {shown(value)} holds a NUL, which PostgreSQL cannot store", field=field
            )
        if len(value) > MAX_LENGTHS[field]:
            raise EntryRejected(
                f"{field} has {len(value)} characters, more than {MAX_LENGTHS[field]}; put the rest into details",
                field=field,
            )
    if event_type == "":
        raise EntryRejected("event_type is empty; name what happened", field="event_type")
    if details is not None and not (type(details) is dict and _is_json(details)):
        check_details(details)
