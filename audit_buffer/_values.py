"""
Python values as bytes, each with its type: what rows of an own table and replayed calls are made of.

Guarantees:
    * A value that is decoded is equal to the one encoded and of the same type: None, bool, int of any size, float,
      str, bytes, datetime (with fold and zone), date, time, timedelta, UUID, Decimal, Enum members, list, tuple, set,
      frozenset and dict of these.
    * Any other type is an `EntryRejected`. Nothing is pickled: a ring file must not be able to run code.

Format: MessagePack; what it does not know is an extension whose code names the type (`_CODES`).

Every function is pure and may be called from any thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from audit_buffer._usual import INT64, is_json
from audit_buffer.errors import EntryRejected, shown


__all__ = ["decode_values", "encode_values"]

_Packer = Callable[[Any], Any]
# The writer takes apart what the caller packed, and needs more of the stack for it: well below Python's limit of 1,000.
_DEEPEST = 200
_AS_THEY_ARE = frozenset({str, bytes, bool, float, type(None)})
_encode = msgspec.msgpack.Encoder().encode


def encode_values(named: dict[str, Any], positional: tuple[Any, ...] = ()) -> bytes:
    """
    Return the bytes of the arguments of one call.

    Raises:
        EntryRejected: A part of an argument has a type that would not come back.
    """
    try:
        return _encode(
            [
                [_pack(value, f"argument {number}") for number, value in enumerate(positional, start=1)],
                {
                    name: value if type(value) in _AS_THEY_ARE else _pack(value, name)
                    for name, value in named.items()
                },
            ]
        )
    except (UnicodeError, OverflowError, RecursionError) as error:
        raise EntryRejected(f"the entry cannot be encoded: {error}") from error


def decode_values(payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """
    Return the positional and the named arguments that `encode_values()` was given.
    """
    positional, named = _decode(payload)
    return positional, named


def _pack(value: object, path: str, level: int = 0) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE or (level == 0 and is_json(value, _DEEPEST)):
        return value
    if kind is int:
        return value if -INT64 <= value < INT64 else _extension("int", hex(value))  # type: ignore[arg-type, operator]
    if level >= _DEEPEST:
        raise EntryRejected(f"{_field(path)} is nested more than {_DEEPEST} levels deep", field=_field(path))
    if kind is list:
        return [_pack(item, f"{path}[{position}]", level + 1) for position, item in enumerate(value)]  # type: ignore[arg-type, var-annotated]
    if kind is dict:
        return _pack_dict(value, path, level)  # type: ignore[arg-type]
    if kind in _COLLECTIONS:
        packed = [_pack(item, f"{path}[{position}]", level + 1) for position, item in enumerate(value)]  # type: ignore[arg-type, var-annotated]
        return _extension(kind.__name__, packed)
    if kind in _SCALARS:
        return _extension(kind.__name__, _SCALARS[kind][0](value))
    if kind in _ZONED:
        return _extension(kind.__name__, _ZONED[kind](value, path))
    if isinstance(value, Enum):
        return _extension("enum", _pack_enum(value, path))
    raise EntryRejected(
        f"{path} = {shown(value)} is a {kind.__module__}.{kind.__qualname__}, which cannot be kept as it is; "
        "pass text, numbers, bytes, dates, UUID, Decimal, Enum members, or containers of these",
        field=_field(path),
    )


def _field(path: str) -> str:
    return path.partition("[")[0]


def _pack_dict(value: dict[Any, Any], path: str, level: int) -> Any:
    if all(type(key) is str for key in value):
        return {key: _pack(item, f"{path}[{shown(key)}]", level + 1) for key, item in value.items()}
    pairs = [
        [_pack(key, path, level + 1), _pack(item, f"{path}[{shown(key)}]", level + 1)]
        for key, item in value.items()
    ]
    return _extension("dict", pairs)


def _pack_datetime(value: datetime, path: str) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _pack_zone(value.tzinfo, path)]


def _pack_zone(zone: tzinfo | None, path: str) -> str | float | None:
    if zone is None or zone is UTC:
        return None if zone is None else "UTC+0"
    if type(zone) is timezone:
        return zone.utcoffset(None).total_seconds()
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return zone.key
    raise EntryRejected(
        f"{path} has the time zone {shown(zone)}; use timezone or zoneinfo.ZoneInfo", field=_field(path)
    )


def _pack_enum(value: Enum, path: str) -> list[str | int]:
    kind = type(value)
    # A combination of flags has no name of its own.
    packed = [kind.__module__, kind.__qualname__, value.value if isinstance(value, Flag) else value.name]
    try:
        found = _unpack_enum(packed)
    except (LookupError, AttributeError, ImportError, ValueError):
        found = None
    if found is not value:
        raise EntryRejected(
            f"{path} = {shown(value)} cannot be found again by its name; define the Enum at module level",
            field=_field(path),
        )
    return packed


def _find_enum(module: str, qualname: str) -> type[Enum]:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    if not (isinstance(found, type) and issubclass(found, Enum)):
        raise LookupError(f"{module}.{qualname} is not an Enum")
    return found


def _unpack_enum(packed: list[Any]) -> Enum:
    module, qualname, member = packed
    kind = _find_enum(module, qualname)
    return kind[member] if isinstance(member, str) else kind(member)


def _unpack_datetime(packed: list[Any]) -> datetime:
    text, fold, zone = packed
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_unpack_zone(zone))


def _unpack_zone(zone: str | float | None) -> tzinfo | None:
    if zone is None:
        return None
    if zone == "UTC+0":
        return UTC
    if isinstance(zone, str):
        return _zone_info(zone)
    return timezone(timedelta(seconds=zone))


def _zone_info(key: str) -> tzinfo:
    try:
        return ZoneInfo(key)
    except ZoneInfoNotFoundError as error:
        raise LookupError(f"the time zone {key!r} of a recorded value is not installed here") from error


def _pack_time(value: time, path: str) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _pack_zone(value.tzinfo, path)]


def _unpack_time(packed: list[Any]) -> time:
    text, fold, zone = packed
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_unpack_zone(zone))


def _pack_timedelta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_ZONED: dict[type, Callable[[Any, str], Any]] = {datetime: _pack_datetime, time: _pack_time}
_COLLECTIONS: dict[type, Callable[[list[Any]], Any]] = {tuple: tuple, set: set, frozenset: frozenset}
_SCALARS: dict[type, tuple[_Packer, _Packer]] = {
    date: (date.isoformat, date.fromisoformat),
    timedelta: (_pack_timedelta, lambda packed: timedelta(*packed)),
    UUID: (lambda value: value.bytes, lambda packed: UUID(bytes=packed)),
    Decimal: (str, Decimal),
}
_UNPACKERS: dict[str, _Packer] = {
    "int": lambda text: int(text, 16),  # str() refuses more than 4,300 digits
    "dict": dict,
    "datetime": _unpack_datetime,
    "enum": _unpack_enum,
    "time": _unpack_time,
    **{kind.__name__: make for kind, make in _COLLECTIONS.items()},
    **{kind.__name__: unpack for kind, (_, unpack) in _SCALARS.items()},
}
# The codes are part of the format of a ring file: never renumber, only append.
_CODES = {
    name: code
    for code, name in enumerate(
        (
            "int",
            "dict",
            "datetime",
            "enum",
            "tuple",
            "set",
            "frozenset",
            "date",
            "time",
            "timedelta",
            "UUID",
            "Decimal",
        ),
        start=1,
    )
}
_NAMES = {code: name for name, code in _CODES.items()}


def _extension(name: str, packed: object) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_CODES[name], _encode(packed))


def _unpack_extension(code: int, data: memoryview) -> Any:
    return _UNPACKERS[_NAMES[code]](_decode(data))


_decode = msgspec.msgpack.Decoder(ext_hook=_unpack_extension).decode
