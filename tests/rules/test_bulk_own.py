"""
The strategies in front of an application's own table: every row is the one that executemany makes.
"""

# A column without a time zone takes datetimes without one.
# ruff: noqa: DTZ001

from __future__ import annotations

import datetime as dt
import enum
import itertools
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import mysql, postgresql

from audit_buffer import AuditBuffer, Batch, ConfigError, TableSink
from audit_buffer.sinks._bulk import bulk_for
from audit_buffer.sinks._own_rows import OwnRows
from tests.rules.column_types import Reversed, Shouted
from tests.rules.values import json_values


NUMBERS = itertools.count()
UTC_MOMENT = dt.datetime(2026, 11, 24, 3, 4, 5, 678901, tzinfo=dt.UTC)


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


def text(size: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
    naughty = st.sampled_from(
        [
            "",
            "\\N",
            "\\.",
            "a\tb",
            "line\nline\r",
            "back\\slash\\",
            "it's",
            '"',
            "%s %(x)s %%",
            ":x ?",
            "😀",
            "null",
        ]
    )
    return st.one_of(naughty, st.text(characters, max_size=size))


def moments(*zones: dt.tzinfo | None) -> st.SearchStrategy[dt.datetime]:
    zone = st.sampled_from(zones)
    return st.datetimes(dt.datetime(1000, 1, 2), dt.datetime(9999, 12, 30), timezones=zone)


EAST = dt.timezone(dt.timedelta(hours=5, minutes=30))
COMMON: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (sa.String(40), text(40)),
    "long text": (sa.Text(), text(300)),
    "integer": (sa.Integer(), st.integers(-(2**31), 2**31 - 1)),
    "small": (sa.SmallInteger(), st.integers(-(2**15), 2**15 - 1)),
    "big": (sa.BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "truth": (sa.Boolean(), st.booleans()),
    "double": (sa.Double(), st.floats(allow_nan=False, allow_infinity=False)),
    "number": (
        sa.Numeric(20, 6),
        st.one_of(st.decimals(-(10**9), 10**9, places=6), st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6)),
    ),
    "at": (sa.DateTime(), moments(None)),
    "at zoned": (sa.DateTime(timezone=True), moments(dt.UTC, EAST)),
    "day": (sa.Date(), st.dates(dt.date(1000, 1, 1))),
    "hour": (sa.Time(), st.times()),
    "lasting": (sa.Interval(), st.timedeltas(dt.timedelta(0), dt.timedelta(days=3000))),
    "bytes": (sa.LargeBinary(), st.binary(max_size=40)),
    "id": (sa.Uuid(), st.uuids(version=4)),
    "id as text": (sa.Uuid(as_uuid=False), st.uuids(version=4).map(str)),
    "colour": (sa.Enum(Colour, name="bulk_colour"), st.sampled_from(Colour)),
    "letters": (sa.Enum("a", "b'", name="bulk_letters"), st.sampled_from(["a", "b'"])),
    "json": (sa.JSON(), json_values()),
    "json or null": (sa.JSON(none_as_null=True), st.dictionaries(text(5), text(5), max_size=2)),
    "reversed": (Reversed(), text(40)),
    "pickled": (sa.PickleType(), st.tuples(st.integers(), text(5))),
}
OF_DIALECT: dict[str, dict[str, tuple[Any, st.SearchStrategy[Any]]]] = {
    "sqlite": {},
    "postgresql": {
        "numbers": (
            postgresql.ARRAY(sa.Integer),
            st.lists(st.one_of(st.none(), st.integers(-9, 2**31 - 1)), max_size=3),
        ),
        "texts": (postgresql.ARRAY(sa.Text), st.lists(st.one_of(st.none(), text(5)), max_size=3)),
        "jsonb": (postgresql.JSONB(), st.dictionaries(text(5), st.integers(-9, 9), max_size=2)),
        "zoned, in a column without": (sa.TIMESTAMP(), moments(None, EAST)),
        "single": (sa.REAL(), st.floats(-1e9, 1e9, width=32)),
        "address": (postgresql.INET(), st.ip_addresses().map(str)),
    },
    "mysql": {
        "single": (sa.Float(), st.floats(-1e9, 1e9, width=32)),
        "unsigned": (mysql.BIGINT(unsigned=True), st.integers(0, 2**64 - 1)),
        "a few": (mysql.SET("a", "b"), st.sets(st.sampled_from(["a", "b"]))),
        "to the microsecond": (mysql.DATETIME(fsp=6), moments(None)),
    },
}


def table_of(columns: dict[str, Any], **options: Any) -> sa.Table:
    """
    Return a new table with a numbered key and *columns*, name to type.
    """
    made = [sa.Column(name, kind, **options) for name, kind in columns.items()]
    name = f"own {next(NUMBERS)} %"
    return sa.Table(name, sa.MetaData(), sa.Column("key", sa.Integer, primary_key=True), *made)


def stored_by(sink: TableSink, bulk: str, rows: list[dict[str, Any]]) -> list[Any]:
    """
    Return what stands in the table after *rows* were written by *bulk*, as the database has it, in the order of the keys.
    """
    sink.insert_by(bulk)
    stored = [(seq, sink.encode(row)) for seq, row in enumerate(rows, 1)]
    sink.write(Batch(buffer_id=uuid4(), after=0, through=len(stored), stored=stored))
    table, dialect = sink.table, sink.engine.dialect.name
    # As text where the driver would make something of it; hexadecimal, so that bytes are compared.
    shown = {
        "sqlite": lambda column: sa.func.typeof(column) + ":" + sa.func.quote(column),
        "postgresql": lambda column: sa.cast(column, sa.Text),
        "mysql": sa.func.hex,
    }[dialect]
    query = sa.select(*[shown(sa.type_coerce(column, sa.Text)) for column in table.c if column.name != "key"])
    with sink.engine.begin() as connection:
        found = [tuple(row) for row in connection.execute(query.order_by(table.c.key))]
        connection.execute(sa.delete(table))
    return found


@pytest.fixture(scope="module")
def many(kept_engine: Engine) -> Iterator[tuple[TableSink, st.SearchStrategy[Any]]]:
    """
    A table with a column of every type, and rows for it.
    """
    columns = {**COMMON, **OF_DIALECT[kept_engine.dialect.name]}
    table = table_of({name: kind for name, (kind, _) in columns.items()})
    table.create(kept_engine)
    sink = TableSink(kept_engine, table)
    sink.create_schema()
    if kept_engine.dialect.name == "mysql":
        # MariaDB takes JSON of 31 levels and numbers of 65 digits only.
        columns["json"] = (sa.JSON(), st.dictionaries(text(5), text(5), max_size=2))
    # All columns, a few, each row its own.
    values = {name: st.one_of(st.none(), values) for name, (_, values) in columns.items()}
    some = st.sets(st.sampled_from(list(columns)), min_size=1)
    rows = st.one_of(
        st.lists(st.fixed_dictionaries(values), min_size=1, max_size=10),
        some.flatmap(
            lambda names: st.lists(
                st.fixed_dictionaries({n: values[n] for n in names}), min_size=1, max_size=10
            )
        ),
        st.lists(st.fixed_dictionaries({}, optional=values), min_size=1, max_size=6),
    )
    yield sink, rows
    sink.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_every_strategy_stores_what_executemany_stores(many: Any, data: st.DataObject) -> None:
    """
    Every type, every set of columns, to the last byte.
    """
    sink, strategy = many
    rows = [row for row in data.draw(strategy) if _is_taken(sink, row)]
    assert stored_by(sink, "auto", rows) == stored_by(sink, "executemany", rows)


def _is_taken(sink: TableSink, row: dict[str, Any]) -> bool:
    try:
        sink.encode(row)
    except ValueError:
        return False
    return True


def carried(engine: Engine, table: sa.Table, *rows: dict[str, Any]) -> bool:
    """
    Tell whether *rows* went by the chosen strategy; they are in the table in any case.
    """
    sink = TableSink(engine, table)
    sink.table.metadata.create_all(engine)
    sink.create_schema()
    answers: list[bool] = []
    made = OwnRows._plan

    def watched(inserts: OwnRows, keys: tuple[str, ...]) -> Any:
        insert = made(inserts, keys)

        def inserting(connection: Connection, rows: Any) -> int | None:
            stored = None if insert is None else insert(connection, rows)
            answers.append(stored is not None)
            return stored

        return inserting

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OwnRows, "_plan", watched)
        stored = [(seq, sink.encode(row)) for seq, row in enumerate(rows, 1)]
        sink.write(Batch(buffer_id=uuid4(), after=0, through=len(rows), stored=stored))
    sink.close()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == len(rows)
    assert len(set(answers)) == 1
    return answers[0]


CARRIED_BY_ALL = (
    "text",
    "integer",
    "truth",
    "double",
    "at",
    "day",
    "hour",
    "bytes",
    "id",
    "colour",
    "json",
    "reversed",
    "pickled",
)


@pytest.mark.parametrize("name", CARRIED_BY_ALL)
def test_the_usual_types_are_carried(kept_engine: Engine, name: str) -> None:
    """
    By every strategy, None included.
    """
    values = {
        "text": "x",
        "integer": 5,
        "truth": True,
        "double": 0.5,
        "at": dt.datetime(2026, 1, 1),
        "day": dt.date(2026, 1, 1),
        "hour": dt.time(1),
        "bytes": b"\0",
        "id": uuid4(),
        "colour": Colour.RED,
        "json": {"a": [1]},
        "reversed": "abc",
        "pickled": (1, 2),
    }
    kind = sa.Enum(Colour, name=f"colour_{next(NUMBERS)}") if name == "colour" else COMMON[name][0]
    assert carried(kept_engine, table_of({"it": kind}), {"it": values[name]}, {"it": None})


def test_a_value_wrapped_in_sql_goes_by_executemany(kept_engine: Engine) -> None:
    """
    The statement has to know the type.
    """
    assert not carried(kept_engine, table_of({"it": Shouted()}), {"it": "loud"})


def test_a_row_without_columns_goes_by_executemany(kept_engine: Engine) -> None:
    """
    There is no list of values that means "all defaults".
    """
    assert not carried(kept_engine, table_of({"it": sa.Integer()}), {})


def test_a_default_that_sql_evaluates_goes_by_executemany(kept_engine: Engine) -> None:
    """
    Where the row leaves it out; a server default is the database's own.
    """
    table = table_of({"a": sa.Integer(), "b": sa.Integer()}, default=sa.literal(40) + 2)
    assert not carried(kept_engine, table, {"a": 1})
    assert carried(
        kept_engine, table_of({"a": sa.Integer(), "b": sa.Integer()}, server_default="1"), {"a": 1}
    )


def test_a_table_that_refers_to_itself_goes_by_executemany(kept_engine: Engine) -> None:
    """
    A statement with many rows may check the foreign key after the last of them.
    """
    table = table_of({"a": sa.Integer()})
    table.append_column(sa.Column("parent", sa.ForeignKey(table.c.key)))
    assert not carried(kept_engine, table, {"key": 1, "parent": None}, {"key": 2, "parent": 1})


def test_a_name_that_only_sqlalchemy_knows_goes_by_executemany(kept_engine: Engine) -> None:
    """
    With a schema_translate_map the table of the statement is another one.
    """
    engine = kept_engine.execution_options(schema_translate_map={"nowhere": None})
    table = sa.Table(f"own_{next(NUMBERS)}", sa.MetaData(), sa.Column("a", sa.Integer), schema="nowhere")
    table.to_metadata(sa.MetaData(), schema=None).create(kept_engine)
    assert not carried(engine, table, {"a": 1})
    assert bulk_for(engine, "auto").name == "executemany"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (sa.TIMESTAMP(), UTC_MOMENT),  # would need the session's time zone
        (sa.Date(), UTC_MOMENT),
        (sa.Time(), dt.time(1, tzinfo=dt.UTC)),
        (sa.Numeric(30, 20), 0.1),  # would keep more digits than the cast does
        (sa.REAL(), 0.1),
        (sa.Interval(), dt.timedelta(1)),
        (postgresql.INET(), "10.0.0.1"),
        (postgresql.ARRAY(sa.Float()), [0.5]),
    ],
    ids=repr,
)
def test_copy_declines_what_it_would_read_otherwise(postgresql_engine: Engine, kind: Any, value: Any) -> None:
    """
    Text that means something else in COPY than the value in an INSERT.
    """
    assert not carried(postgresql_engine, table_of({"it": kind}), {"it": value})


OTHER_THAN_COPY = {
    "rule": 'CREATE RULE other AS ON INSERT TO "{}" WHERE NEW.a = 7 DO INSTEAD NOTHING',
    "row-level security": 'ALTER TABLE "{}" ENABLE ROW LEVEL SECURITY; ALTER TABLE "{}" FORCE ROW LEVEL SECURITY; '
    'CREATE POLICY all_rows ON "{}" USING (true) WITH CHECK (true)',
    "trigger after a row": 'CREATE TRIGGER t AFTER INSERT ON "{}" FOR EACH ROW EXECUTE FUNCTION nothing()',
    "trigger of a statement": 'CREATE TRIGGER t BEFORE INSERT ON "{}" FOR EACH STATEMENT EXECUTE FUNCTION nothing()',
}


@pytest.mark.parametrize("what", [*OTHER_THAN_COPY, None])
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_table_for_which_copy_is_no_insert_gets_its_rows_by_executemany(
    postgresql_engine: Engine, what: str | None, partitioned: bool
) -> None:
    """
    Rules, row-level security, triggers that run after a row or for a statement; on a partition, too.
    """
    name = f"own_{next(NUMBERS)}"
    table = sa.Table(name, sa.MetaData(), sa.Column("a", sa.Integer))
    target = f"{name}_part" if partitioned else name
    with postgresql_engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
        )
        if partitioned:
            connection.exec_driver_sql(f"CREATE TABLE {name} (a INTEGER) PARTITION BY RANGE (a)")
            connection.exec_driver_sql(f"CREATE TABLE {target} PARTITION OF {name} DEFAULT")
        else:
            table.create(connection)
        if what is not None:
            connection.exec_driver_sql(OTHER_THAN_COPY[what].replace("{}", target))
        TableSink(postgresql_engine, table).companion_metadata.create_all(connection)
        connection.exec_driver_sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO pg_write_all_data")
    # As a role that every server has, because a superuser is above row-level security.
    options = {"options": "-c role=pg_write_all_data"}
    engine = sa.create_engine(postgresql_engine.url, connect_args=options)
    assert carried(engine, table, {"a": 1}) is (what is None)
    engine.dispose()


def test_the_configured_strategy_reaches_the_own_table(sqlite_engine: Engine) -> None:
    """
    `bulk` names it, and a name that the database does not have is refused where the buffer is made.
    """
    table = table_of({"a": sa.Integer()})
    table.create(sqlite_engine)
    sink = TableSink(sqlite_engine, table)
    sink.create_schema()
    statements: list[str] = []
    sa.event.listen(sqlite_engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    for bulk, words in (("executemany", "VALUES (?)"), ("values", "LIMIT ?"), ("auto", "LIMIT ?")):
        statements.clear()
        with AuditBuffer(sink, bulk=bulk, durability="memory") as audit:
            audit.record(a=1)
        assert [words in text for text in statements if 'INSERT INTO "own' in text] == [True], bulk
    with pytest.raises(ConfigError, match="auto, values, executemany"):
        AuditBuffer(sink, bulk="copy", durability="memory")


@pytest.mark.parametrize("count", [1, 8, 9, 511, 512, 513, 1500])
def test_any_number_of_rows_keeps_its_order(kept_engine: Engine, count: int) -> None:
    """
    Below, at and above what one statement takes.
    """
    table = table_of({"a": sa.Integer(), "b": sa.String(2000)})
    table.create(kept_engine)
    sink = TableSink(kept_engine, table)
    sink.create_schema()
    rows = [{"a": number, "b": f"{number}é'\\" * (number % 200)} for number in range(count)]
    found = stored_by(sink, "auto", rows)
    assert found == stored_by(sink, "executemany", rows)
    assert len(found) == count
    sink.close()


def test_a_table_wider_than_a_statement_of_many_rows(sqlite_engine: Engine) -> None:
    """
    The number of rows in one statement follows from the number of parameters that SQLite takes.
    """
    table = table_of({f"c{number}": sa.Integer() for number in range(300)})
    table.create(sqlite_engine)
    sink = TableSink(sqlite_engine, table)
    sink.create_schema()

    @sa.event.listens_for(sqlite_engine, "connect")
    def limit(connection: Any, _: object) -> None:
        connection.setlimit(9, 999)  # SQLITE_LIMIT_VARIABLE_NUMBER

    sqlite_engine.dispose()
    rows = [{f"c{number}": number * row for number in range(300)} for row in range(20)]
    assert stored_by(sink, "auto", rows) == stored_by(sink, "executemany", rows)
    sink.close()
