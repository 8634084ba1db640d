"""
What a column's type accepts, and as what it travels to the writer.

A conversion takes one value, never None, and returns what is to be stored; it raises `ValueError` with the reason for what
the database would refuse. Such a value has to be refused at the call, because in the batch it would stand in the way of
every entry behind it. What a database merely rounds (the scale of a NUMERIC, the zone of a DATETIME) it rounds here as it
does at a synchronous INSERT.

A subclass (an `IntEnum` for an integer, a `StrEnum` for text) becomes the plain value, because drivers differ in what
they make of it. Every function is pure.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import struct
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Dialect, types
from sqlalchemy.types import TypeDecorator, TypeEngine

from audit_buffer._facts import check_json
from audit_buffer._usual import is_json


__all__ = ["Conversion", "conversion_for", "has_own_serializer", "is_single"]

Conversion = Callable[[Any], Any]

_MARIADB = ("mysql", "mariadb")
_BITS = {
    "tinyint": 8,
    "smallint": 16,
    "small_integer": 16,
    "mediumint": 24,
    "integer": 32,
    "bigint": 64,
    "big_integer": 64,
}
# MariaDB's bounds in bytes; on the other databases the same types have none that an entry could reach.
_MOST_BYTES = {
    "tinytext": 255,
    "text": 65_535,
    "unicode_text": 65_535,
    "mediumtext": (1 << 24) - 1,
    "tinyblob": 255,
    "blob": 65_535,
    "large_binary": 65_535,
    "mediumblob": (1 << 24) - 1,
}
# How deep JSON may be nested before MariaDB's json_valid() says no.
_MARIADB_JSON_DEPTH = 32
_WIDE = Context(prec=1000)
_encode_json = msgspec.json.Encoder().encode


def conversion_for(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    """
    Return the conversion for values of the type *kind*; a type that is not known here takes values as they are.
    """
    make = _DIALECTS_OWN.get(_visit_name(kind))
    if make is None:
        make = next((make for family, make in _MAKERS if isinstance(kind, family)), None)
    return make(kind, dialect) if make is not None else _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _instances(*accepted: type) -> Callable[[TypeEngine[Any], Dialect], Conversion]:
    def convert(value: Any) -> Any:
        return _checked(value, *accepted)

    return lambda kind, dialect: convert


def _checked(value: Any, *accepted: type) -> Any:
    if not isinstance(value, accepted):
        raise ValueError("the column takes " + " or ".join(taken.__name__ for taken in accepted))
    return value


def _boolean(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    def convert(value: Any) -> bool:
        if value not in (True, False):
            raise ValueError("the column takes bool")
        return bool(value)

    return convert


def _integer(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    bits = 64 if dialect.name == "sqlite" else _BITS.get(_visit_name(kind), 64)
    lowest, highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if getattr(kind, "unsigned", False):
        lowest, highest = 0, (1 << bits) - 1

    def convert(value: Any) -> int:
        number = int(_checked(value, int))
        if not lowest <= number <= highest:
            raise ValueError(f"the column holds {bits}-bit integers, {lowest} to {highest}")
        return number

    return convert


def _number(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    if isinstance(kind, types.Float):
        return _float(kind, dialect)
    assert isinstance(kind, types.Numeric)
    precision, scale = kind.precision, kind.scale or 0
    if precision is None and dialect.name in _MARIADB:
        precision = 10

    def convert(value: Any) -> int | float | Decimal:
        number = _plain_number(value)
        if not math.isfinite(number):
            raise ValueError("only finite numbers come back from every database; use None")
        if precision is not None:
            # Half up is the worst case: 9.995 needs one digit more than 9.99.
            rounded = Decimal(number).quantize(Decimal(1).scaleb(-scale), "ROUND_HALF_UP", _WIDE)
            if abs(rounded) >= Decimal(10) ** (precision - scale):
                raise ValueError(f"the column holds {precision - scale} digits before the point")
        return number

    return convert


def _float(kind: types.Float[Any], dialect: Dialect) -> Conversion:
    single = dialect.name in (*_MARIADB, "postgresql") and is_single(kind, dialect)

    def convert(value: Any) -> int | float | Decimal:
        number = _plain_number(value)
        if math.isnan(number):
            raise ValueError("NaN does not come back from every database; use None")
        nearest = float(number)
        if math.isinf(nearest):
            if dialect.name in _MARIADB:
                raise ValueError("MariaDB has no infinity")
        elif single and nearest and not struct.unpack("<f", struct.pack("<f", nearest))[0]:
            raise ValueError("the column holds single precision, and the number is too small for it")
        return number

    return convert


def is_single(kind: types.Float[Any], dialect: Dialect) -> bool:
    if dialect.name == "postgresql":
        return isinstance(kind, types.REAL) or (kind.precision is not None and kind.precision <= 24)
    return _visit_name(kind) == "float" and (kind.precision is None or kind.precision <= 24)


def _plain_number(value: Any) -> int | float | Decimal:
    if isinstance(value, bool):
        raise ValueError("the column takes numbers")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    number: Decimal = _checked(value, int, float, Decimal)
    return number


def _text(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    length = getattr(kind, "length", None)
    most = _most_bytes(kind, dialect, length)

    def convert(value: Any) -> str:
        # str.__str__, because that of a subclass may say anything.
        text = str.__str__(_checked(value, str))
        if length is not None and len(text) > length:
            raise ValueError(f"it has {len(text)} characters and the column holds {length}")
        if "\0" in text:
            raise ValueError("it holds a NUL, which PostgreSQL cannot store")
        if most is not None and len(text.encode()) > most:
            raise ValueError(f"it takes more than the {most} bytes the column holds")
        return text

    return convert


def _binary(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    length = getattr(kind, "length", None)
    most = length if length is not None else _most_bytes(kind, dialect, length)

    def convert(value: Any) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError("the column takes bytes")
        data = bytes(value)
        if most is not None and len(data) > most:
            raise ValueError(f"it has {len(data)} bytes and the column holds {most}")
        return data

    return convert


def _most_bytes(kind: TypeEngine[Any], dialect: Dialect, length: int | None) -> int | None:
    bounded = dialect.name in _MARIADB and length is None
    return _MOST_BYTES.get(_visit_name(kind)) if bounded else None


def _uuid(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    if getattr(kind, "as_uuid", True):
        return _instances(UUID)(kind, dialect)

    def convert(value: Any) -> str:
        UUID(_checked(value, str))
        return str.__str__(value)

    return convert


def _moment(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    stamp = dialect.name in _MARIADB and _visit_name(kind) == "timestamp"

    def convert(value: Any) -> dt.datetime:
        moment: dt.datetime = _checked(value, dt.datetime)
        if stamp and not dt.date(1970, 1, 1) < moment.date() < dt.date(2038, 1, 19):
            raise ValueError("a TIMESTAMP of MariaDB lies between 1970-01-02 and 2038-01-18; use DATETIME")
        return moment

    return convert


def _enum(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    assert isinstance(kind, types.Enum)
    processor = kind.bind_processor(dialect)  # type: ignore[no-untyped-call]

    def convert(value: Any) -> str:
        name = value if processor is None else processor(value)
        if not isinstance(name, str) or name not in kind.enums:
            raise ValueError(f"the column takes {kind.enums}")
        return str.__str__(name)

    return convert


def _json(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    own_serializer = has_own_serializer(dialect)
    mariadb = dialect.name in _MARIADB
    usual_levels = (_MARIADB_JSON_DEPTH if mariadb else 64) - 1
    postgresql_jsonb = dialect.name == "postgresql" and _visit_name(kind) == "jsonb"

    def convert(value: Any) -> Any:
        plain = is_json(value, usual_levels)
        if not (plain or own_serializer):
            check_json(value, "it")
        if postgresql_jsonb and _may_hold_nul(value) and _holds_nul(value):
            raise ValueError("it holds a NUL, which jsonb cannot store; use JSON")
        if mariadb and not plain and _depth(value) >= _MARIADB_JSON_DEPTH:
            raise ValueError(f"MariaDB takes JSON of at most {_MARIADB_JSON_DEPTH - 1} levels")
        return value

    return convert


def has_own_serializer(dialect: Dialect) -> bool:
    """
    Tell whether the application has given its engine a `json_serializer`.
    """
    return getattr(dialect, "_json_serializer", None) is not None


def _may_hold_nul(value: Any) -> bool:
    """
    Tell at once, without a walk, that there is none in *value*; True when that cannot be told.
    """
    try:
        return b"\\u0000" in _encode_json(value)
    except Exception:  # whatever msgspec has to say about values that only the application's serializer knows
        return True


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(_holds_nul(item) for item in value)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _array(kind: TypeEngine[Any], dialect: Dialect) -> Conversion:
    assert isinstance(kind, types.ARRAY)
    custom = isinstance(kind.item_type, TypeDecorator)
    # A custom type runs in the writer's statement here, so that its values have to travel as they are.
    item = _as_it_is if custom else conversion_for(kind.item_type, dialect)

    def convert(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [convert(part) for part in value]
        return None if value is None else item(value)

    return lambda value: convert(_checked(value, list, tuple))


def _network(parse: Callable[[str], object]) -> Callable[[TypeEngine[Any], Dialect], Conversion]:
    def convert(value: Any) -> str:
        text = str(value)
        parse(text)
        return text

    return lambda kind, dialect: convert


def _visit_name(kind: TypeEngine[Any]) -> str:
    # A type that is never part of DDL needs none.
    return getattr(kind, "__visit_name__", "").lower()


_Maker = Callable[[TypeEngine[Any], Dialect], Conversion]

# By name, so that no dialect has to be imported that the application does not use.
_DIALECTS_OWN: dict[str, _Maker] = {
    "set": _instances(set, frozenset, str),
    "interval": _instances(dt.timedelta),
    "inet": _network(ipaddress.ip_interface),
    "cidr": _network(ipaddress.ip_network),
}

# Order matters: the first family a type belongs to decides.
_MAKERS: tuple[tuple[Any, _Maker], ...] = (
    (types.Enum, _enum),
    (types.JSON, _json),
    (types.ARRAY, _array),
    (types.Boolean, _boolean),
    (types.Integer, _integer),
    (types.Numeric, _number),
    (types.Float, _number),
    (types.String, _text),
    (types.DateTime, _moment),
    (types.Date, _instances(dt.date)),
    (types.Time, _instances(dt.time)),
    (types.Interval, _instances(dt.timedelta)),
    ((types.LargeBinary, types.BINARY, types.VARBINARY), _binary),
    (types.Uuid, _uuid),
)
