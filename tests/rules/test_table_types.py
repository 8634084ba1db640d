"""
Every column type that SQLAlchemy stores, through a `TableSink`, beside the row that a synchronous INSERT makes.
"""

# A column without a time zone takes datetimes without one.
# ruff: noqa: DTZ001, DTZ901

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import itertools
import uuid
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.types import TypeEngine

from audit_buffer import AuditBuffer, EntryRejected, TableSink
from audit_buffer.sinks._conversions import conversion_for
from tests.rules.column_types import Reversed, Shouted


# The tables of one module share a database.
NUMBERS = itertools.count()
MOMENT = dt.datetime(2026, 11, 24, 3, 4, 5, 678901)
UTC_MOMENT = MOMENT.replace(tzinfo=dt.UTC)
NAUGHTY = [
    "",
    " ",
    "a ",
    "'\"`\\",
    "%s %(x)s %%",
    ":name :p0 ::int",
    "\\u0000 \\0",
    "e\u0301 \u0645\u202e\u200f",
    "\U0001f600\U00020000",
    "\x01\x1f\x7f\x85\u2028\ufeff\uffff",
    "line\r\nline\n",
    "NULL",
    "🏳️‍🌈",
]


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]


class PointType(sa.types.TypeDecorator[Point]):
    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else f"{value.x},{value.y}"

    def process_result_value(self, value, dialect):
        return None if value is None else Point(*map(int, value.split(",")))


def both(engine: Engine, kind: Any, values: list[Any]) -> tuple[list[Any], list[Any]]:
    """
    Return what comes back of *values* after synchronous INSERTs, and after a buffer.
    """
    metadata = sa.MetaData()
    number = next(NUMBERS)
    tables = [
        sa.Table(
            f"{name}_{number}",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("value", kind),
        )
        for name in ("synchronous", "buffered")
    ]
    metadata.create_all(engine)
    with engine.begin() as connection:
        for value in values:
            connection.execute(sa.insert(tables[0]), {"value": value})
    sink = TableSink(engine, tables[1])
    sink.create_schema()
    with AuditBuffer(sink) as audit:
        for value in values:
            audit.record(value=value)
    with engine.connect() as connection:
        synchronous, buffered = (
            list(connection.scalars(sa.select(table.c.value).order_by(table.c.id))) for table in tables
        )
    return synchronous, buffered


PORTABLE = {
    "Integer": (sa.Integer, [0, -(2**31), 2**31 - 1, True, Level.HIGH, None]),
    "SmallInteger": (sa.SmallInteger, [-(2**15), 2**15 - 1, Level.LOW]),
    "BigInteger": (sa.BigInteger, [-(2**63), 2**63 - 1]),
    "Numeric": (
        sa.Numeric(20, 6),
        [Decimal("1.5"), Decimal("-0.000001"), 3, 2.5, Decimal(99999999999999), None],
    ),
    "Numeric without precision": (sa.Numeric(), [Decimal(7), 0]),
    "Float": (sa.Float, [0.0, 1.5, -2.25, 3, Decimal("0.5")]),
    "Double": (sa.Double, [0.1, 1e300, 5e-324, -1.7976931348623157e308, -0.0]),
    "Boolean": (sa.Boolean, [True, False, None, 1, 0]),
    "String": (sa.String(40), [*NAUGHTY, "x" * 40, Word.YES, None]),
    "Text": (sa.Text, [*NAUGHTY, "x" * 65_535]),
    "Unicode": (sa.Unicode(40), NAUGHTY),
    "DateTime": (sa.DateTime, [MOMENT, dt.datetime(1000, 1, 1), dt.datetime(9999, 12, 31), UTC_MOMENT, None]),
    "DateTime(timezone)": (sa.DateTime(timezone=True), [UTC_MOMENT]),
    "Date": (sa.Date, [dt.date(2026, 1, 1), dt.date(1000, 1, 1), dt.date.max]),
    "Time": (sa.Time, [dt.time(1, 2, 3), dt.time.min]),
    "Interval": (sa.Interval, [dt.timedelta(days=3, seconds=4, microseconds=5), dt.timedelta()]),
    "LargeBinary": (sa.LargeBinary, [b"", b"\x00\xff'%s", bytearray(b"x"), bytes(range(256)), None]),
    "Uuid": (sa.Uuid, [uuid.UUID(int=5), uuid.UUID(int=2**128 - 1)]),
    "Uuid as text": (sa.Uuid(as_uuid=False), [str(uuid.UUID(int=7))]),
    "Enum": (sa.Enum(Colour, name="colour"), [Colour.RED, Colour.GREEN, "RED", None]),
    "Enum by value": (
        sa.Enum(Colour, name="colour_value", values_callable=lambda kind: [member.value for member in kind]),
        [Colour.RED, Colour.GREEN],
    ),
    "Enum of text": (sa.Enum("a", "b", name="letters"), ["a", "b"]),
    "JSON": (
        sa.JSON,
        [
            {"a": [1, 2.5, None, True, "x\0"], "é": {}},
            [],
            "text",
            0,
            False,
            10**30,
            (1, (2,)),
            None,
            {"f": -0.0},
        ],
    ),
    "JSON(none_as_null)": (sa.JSON(none_as_null=True), [None, {}]),
    "PickleType": (sa.PickleType, [Point(1, 2), {"a": {1, 2}}, None]),
    "TypeDecorator": (PointType, [Point(3, 4), None]),
    "TypeDecorator in SQL": (Shouted, ["loud", None]),
    "TypeDecorator of the driver's": (Reversed, ["abc", None]),
    "with_variant": (
        sa.String(10).with_variant(sa.Integer(), "sqlite", "postgresql", "mysql", "mariadb"),
        [5],
    ),
}


@pytest.mark.parametrize(("kind", "values"), PORTABLE.values(), ids=PORTABLE)
def test_a_buffered_row_is_the_synchronous_row(kept_engine: Engine, kind: Any, values: list[Any]) -> None:
    """
    Whatever the column's type makes of a value, it makes of it behind a buffer, too.
    """
    synchronous, buffered = both(kept_engine, kind, values)
    assert [(type(value), value) for value in buffered] == [(type(value), value) for value in synchronous]


def test_a_local_enum_class_is_stored_by_its_column(kept_engine: Engine) -> None:
    """
    An Enum column turns the member into text at the call, so the class need not be found again.
    """

    class Local(enum.Enum):
        ONE = 1

    synchronous, buffered = both(kept_engine, sa.Enum(Local, name="local_enum"), [Local.ONE])
    assert buffered == synchronous == [Local.ONE]


POSTGRESQL = {
    "ARRAY of Integer": (postgresql.ARRAY(sa.Integer), [[1, 2, None], [], (3, 4), [[1, 2], [3, 4]], None]),
    "ARRAY of Text": (postgresql.ARRAY(sa.Text), [NAUGHTY]),
    "ARRAY of Enum": (postgresql.ARRAY(sa.Enum(Colour, name="colours")), [[Colour.RED, Colour.GREEN]]),
    "ARRAY of a custom type": (sa.ARRAY(Reversed), [["ab", "cd"]]),
    "JSONB": (postgresql.JSONB, [{"a": [1, {"b": None}]}, "text", 1e300, 10**30, None]),
    "INET": (postgresql.INET, ["10.0.0.1", "::1/64", ipaddress.ip_address("127.0.0.1")]),
    "CIDR": (postgresql.CIDR, ["10.0.0.0/8", ipaddress.ip_network("fe80::/10")]),
    "native INTERVAL": (postgresql.INTERVAL, [dt.timedelta(days=-1, seconds=3)]),
    "REAL": (sa.REAL, [1.5, -3e38]),
    "TIMESTAMP": (
        sa.TIMESTAMP(timezone=True),
        [UTC_MOMENT, UTC_MOMENT.astimezone(dt.timezone(dt.timedelta(hours=5)))],
    ),
    "BYTEA": (postgresql.BYTEA, [b"\x00"]),
}
MARIADB = {
    "unsigned INTEGER": (mysql.INTEGER(unsigned=True), [0, 2**32 - 1]),
    "unsigned BIGINT": (mysql.BIGINT(unsigned=True), [2**64 - 1]),
    "TINYINT": (mysql.TINYINT, [-128, 127]),
    "MEDIUMINT": (mysql.MEDIUMINT, [-(2**23), 2**23 - 1]),
    "SET": (mysql.SET("a", "b"), [{"a"}, {"a", "b"}, set()]),
    "ENUM": (mysql.ENUM("x", "y"), ["x"]),
    "DATETIME(6)": (mysql.DATETIME(fsp=6), [MOMENT, dt.datetime.max]),
    "TIMESTAMP": (mysql.TIMESTAMP(fsp=6), [MOMENT]),
    "LONGTEXT": (mysql.LONGTEXT, ["x" * 70_000]),
    "VARBINARY": (sa.VARBINARY(4), [b"\x00abc"]),
    "YEAR": (mysql.YEAR, [2026]),
    "JSON": (sa.JSON, [{"a": {"b": [1] * 3}}]),
}


def test_postgresql_types(postgresql_engine: Engine) -> None:
    """
    The same for types that only PostgreSQL has.
    """
    for name, (kind, values) in POSTGRESQL.items():
        synchronous, buffered = both(postgresql_engine, kind, values)
        assert buffered == synchronous, name


def test_mariadb_types(mariadb_engine: Engine) -> None:
    """
    The same for types that only MariaDB has.
    """
    for name, (kind, values) in MARIADB.items():
        synchronous, buffered = both(mariadb_engine, kind, values)
        assert buffered == synchronous, name


REFUSED = {
    "Integer": (sa.Integer, [2**63, "1", 1.0, -(2**63) - 1]),
    "Numeric": (
        sa.Numeric(5, 2),
        [
            Decimal(1000),
            Decimal("999.995"),
            -1e3,
            10**400,
            float("nan"),
            float("inf"),
            Decimal("NaN"),
            "1",
            True,
        ],
    ),
    "Float": (sa.Float, [float("nan"), "1.0", True, 10**400]),
    "Boolean": (sa.Boolean, ["yes", 2]),
    "String": (sa.String(3), ["abcd", "a\0b", 5, b"abc", "\ud800"]),
    "DateTime": (sa.DateTime, ["2026-01-01", dt.date(2026, 1, 1), 0]),
    "Date": (sa.Date, ["2026-01-01"]),
    "Time": (sa.Time, ["10:00"]),
    "Interval": (sa.Interval, [5]),
    "LargeBinary": (sa.LargeBinary, ["text", 5]),
    "Uuid": (sa.Uuid, ["00000000-0000-0000-0000-000000000000", 5]),
    "Uuid as text": (sa.Uuid(as_uuid=False), ["no uuid", uuid.UUID(int=1)]),
    "Enum": (sa.Enum(Colour, name="colour"), ["BLUE", Level.LOW, 5]),
    "JSON": (sa.JSON, [{1: "a"}, {"a": float("nan")}, {"a": {1}}, object(), {"a": MOMENT}, {"a": "\ud800"}]),
    "TypeDecorator": (PointType, ["no point"]),
    "a class nobody knows": (Shouted, [Point(1, 2)]),
    "PickleType": (sa.PickleType, [lambda: None]),
}


def refusals(engine: Engine, kind: Any, values: list[Any]) -> list[Any]:
    """
    Return the *values* that a column of type *kind* takes though it should not.
    """
    table = sa.Table(
        "facts", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", kind)
    )
    sink = TableSink(engine, table)
    taken = []
    for value in values:
        try:
            sink.encode({"value": value})
        except EntryRejected:
            continue
        taken.append(value)
    return taken


@pytest.mark.parametrize(("kind", "values"), REFUSED.values(), ids=REFUSED)
def test_what_a_column_cannot_store_is_refused_at_the_call(
    dialect_only: Engine, kind: Any, values: list[Any]
) -> None:
    """
    In the batch it would stand in the way of every entry behind it.
    """
    assert refusals(dialect_only, kind, values) == []


REFUSED_BY_POSTGRESQL = {
    "Integer": (sa.Integer, [2**31, -(2**31) - 1]),
    "SmallInteger": (sa.SmallInteger, [2**15]),
    "ARRAY": (postgresql.ARRAY(sa.SmallInteger), [[2**15], 5, "abc", [["x"]]]),
    "JSONB": (postgresql.JSONB, [{"a": "\0"}, {"a\0": [1]}, [["\0"]]]),
    "INET": (postgresql.INET, ["no address", 5.5]),
    "REAL": (sa.REAL, [1e39, 1e-60]),
}
REFUSED_BY_MARIADB = {
    "unsigned": (mysql.INTEGER(unsigned=True), [-1, 2**32]),
    "TINYINT": (mysql.TINYINT, [128]),
    "MEDIUMINT": (mysql.MEDIUMINT, [2**23]),
    "Integer": (sa.Integer, [2**31]),
    "Float": (sa.Float, [float("inf"), 1e39, 1e-60]),
    "Double": (sa.Double, [float("inf")]),
    "Numeric without precision": (sa.Numeric(), [10**10]),
    "Text": (sa.Text, ["é" * 40_000]),
    "LargeBinary": (sa.LargeBinary, [b"x" * 65_536]),
    "PickleType": (sa.PickleType, ["x" * 70_000]),
    "VARBINARY": (sa.VARBINARY(4), [b"12345"]),
    "TIMESTAMP": (mysql.TIMESTAMP(), [dt.datetime(1969, 1, 1), dt.datetime(2040, 1, 1)]),
    "SET": (mysql.SET("a", "b"), [5]),
}


@pytest.mark.parametrize(("kind", "values"), REFUSED_BY_POSTGRESQL.values(), ids=REFUSED_BY_POSTGRESQL)
def test_the_bounds_of_postgresql(nowhere_postgresql: Engine, kind: Any, values: list[Any]) -> None:
    """
    What PostgreSQL would refuse is refused at the call.
    """
    assert refusals(nowhere_postgresql, kind, values) == []


@pytest.mark.parametrize(("kind", "values"), REFUSED_BY_MARIADB.values(), ids=REFUSED_BY_MARIADB)
def test_the_bounds_of_mariadb(nowhere_mariadb: Engine, kind: Any, values: list[Any]) -> None:
    """
    What MariaDB would refuse, or cut short where it is not strict, is refused at the call.
    """
    assert refusals(nowhere_mariadb, kind, values) == []


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_json_is_taken_as_deep_as_the_database_takes_it(kept_engine: Engine) -> None:
    """
    MariaDB's json_valid() gives up at 32 levels: what is deeper is refused there, and stored elsewhere.
    """
    deepest = 31 if kept_engine.dialect.name in ("mysql", "mariadb") else 200
    synchronous, buffered = both(kept_engine, sa.JSON, [nested(deepest), {"a": nested(deepest - 1)}])
    assert buffered == synchronous
    if deepest == 31:
        assert refusals(kept_engine, sa.JSON, [nested(32), {"a": nested(31)}]) == []
        with pytest.raises(sa.exc.DatabaseError):
            both(kept_engine, sa.JSON, [nested(33)])


class Nameless(TypeEngine[Any]):
    """
    A type that is in no DDL, so that SQLAlchemy has no name to ask for.
    """


def test_a_type_without_a_name_takes_values_as_they_are() -> None:
    """
    The types of single databases are known by name; one that has none is none of them.
    """
    value = object()
    assert conversion_for(Nameless(), sqlite.dialect())(value) is value
