"""
Values of an own table's columns in the text format of PostgreSQL's COPY; see "File Formats" in its documentation.

A type is here only if the text means what the same value means as a parameter of an INSERT, with the cast that SQLAlchemy
puts around it. What needs more than the text, the time zone of the session or a cast between numbers, raises `Declined`.

Pure; any thread.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Dialect, types
from sqlalchemy.types import TypeDecorator, TypeEngine

from audit_buffer.sinks._columns import ColumnRule
from audit_buffer.sinks._conversions import is_single


__all__ = ["NULL", "Declined", "escaped", "text_for"]

NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_finds_special = re.compile(r"[\\\t\n\r]").search

_Text = Callable[[Any], str]
# Makes the function for one connection of the driver.
_Maker = Callable[[Any], _Text]


class Declined(Exception):
    """
    A value that only the driver can carry.
    """


def escaped(text: str) -> str:
    """
    Return *text* as it stands in a line of COPY.
    """
    return text.translate(_ESCAPES) if _finds_special(text) else text


def text_for(rule: ColumnRule, dialect: Dialect) -> _Maker | None:
    """
    Return what makes, for a connection of psycopg, the function that turns the values of a column into text; None to decline.
    """
    make = _maker_for(rule.bind_type, dialect)
    if make is None:
        return None
    process = None if isinstance(rule.bind_type, types.LargeBinary) else rule.process

    def make_function(raw: Any) -> _Text:
        text = make(raw)

        def processed(value: Any) -> str:
            if process is not None:
                value = process(value)
            return NULL if value is None else text(value)

        return processed

    return make_function


def _maker_for(kind: TypeEngine[Any], dialect: Dialect) -> _Maker | None:
    if isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, types.JSON):
        return _by_driver
    if isinstance(kind, types.ARRAY):
        plain = isinstance(kind.item_type, types.Integer | types.String)
        return _by_driver if plain else None
    if isinstance(kind, types.Float) and is_single(kind, dialect):
        return None  # a number is rounded to double precision first
    for family, text in _TEXTS:
        if isinstance(kind, family):
            return _constant(text(kind))
    return None


def _constant(text: _Text) -> _Maker:
    return lambda raw: text


def _by_driver(raw: Any) -> _Text:
    """
    Have psycopg write the value: its wrappers around JSON, and lists.
    """
    from psycopg.adapt import PyFormat, Transformer  # noqa: PLC0415  (an extra)

    transformer = Transformer(raw)
    encoding = raw.info.encoding

    def text(value: Any) -> str:
        written = transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        return NULL if written is None else escaped(bytes(written).decode(encoding))

    return text


def _of_kinds(convert: _Text, *kinds: type) -> Callable[[TypeEngine[Any]], _Text]:
    """
    Return a function that takes values of *kinds*, not of their subclasses, and declines others.
    """

    def text(value: Any) -> str:
        if type(value) not in kinds:
            raise Declined
        return convert(value)

    return lambda kind: text


def _moment(kind: TypeEngine[Any]) -> _Text:
    takes_zone = getattr(kind, "timezone", False)

    def text(value: Any) -> str:
        # Without a time zone PostgreSQL would turn it into the session's time; COPY would ignore the offset.
        if type(value) is not dt.datetime or (value.tzinfo is not None and not takes_zone):
            raise Declined
        return str(value)

    return text


def _time(kind: TypeEngine[Any]) -> _Text:
    def text(value: Any) -> str:
        if type(value) is not dt.time or value.tzinfo is not None or getattr(kind, "timezone", False):
            raise Declined
        return str(value)

    return text


# Order matters: the first family a type belongs to decides.
_TEXTS: tuple[tuple[Any, Callable[[TypeEngine[Any]], _Text]], ...] = (
    (types.String, _of_kinds(escaped, str)),  # and Enum
    (types.Boolean, _of_kinds(lambda value: "t" if value else "f", bool)),
    (types.Integer, _of_kinds(str, int)),
    (types.Float, _of_kinds(repr, float, int)),
    (types.Numeric, _of_kinds(str, Decimal, int)),  # a float would be cut to 15 digits by the cast
    (types.DateTime, _moment),
    (types.Date, _of_kinds(str, dt.date)),
    (types.Time, _time),
    (types.LargeBinary, _of_kinds(lambda value: "\\\\x" + value.hex(), bytes)),
    (types.Uuid, _of_kinds(str, UUID, str)),
)
