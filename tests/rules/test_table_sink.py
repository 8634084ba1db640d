"""
What `TableSink` promises: the application's own table, exactly once, and refusals at the call.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, orm
from sqlalchemy.dialects import mysql, postgresql

from audit_buffer import AuditBuffer, ConfigError, EntryRejected, SinkError, TableSink
from audit_buffer.schema import gap_table, position_table
from audit_buffer.sinks import Batch
from audit_buffer.sinks._database import Database


@pytest.fixture
def numbers() -> Iterator[int]:
    return itertools.count()


def own_table(*columns: sa.Column[Any], **options: Any) -> sa.Table:
    """
    Return a table `facts` of an own MetaData, with a numbered id and *columns*.
    """
    return sa.Table(
        "facts", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns, **options
    )


def ready(engine: Engine, table: sa.Table | type[Any]) -> TableSink:
    """
    Return a sink whose tables exist.
    """
    sink = TableSink(engine, table)
    sink.table.metadata.create_all(engine)
    sink.create_schema()
    return sink


def rows_of(sink: TableSink) -> list[dict[str, Any]]:
    with sink.engine.connect() as connection:
        return [
            dict(row) for row in connection.execute(sa.select(sink.table).order_by(sa.text("id"))).mappings()
        ]


def batch_of(sink: TableSink, buffer_id: UUID, first: int, *rows: dict[str, Any]) -> Batch:
    return Batch(
        buffer_id=buffer_id,
        after=first - 1,
        through=first + len(rows) - 1,
        stored=[(first + place, sink.encode(row)) for place, row in enumerate(rows)],
        policy="drop_newest",
    )


def test_rows_of_differing_keys_keep_their_order(any_engine: Engine) -> None:
    """
    A key that is missing from one row is not missing from the next; each row has its own columns.
    """
    sink = ready(
        any_engine, own_table(sa.Column("a", sa.Integer), sa.Column("b", sa.String(9), server_default="db"))
    )
    given: list[dict[str, Any]] = [
        {"a": 1},
        {"b": "x", "a": 2},
        {"a": 3, "b": "y"},
        {},
        {"b": None},
        {"a": 6},
    ]
    with AuditBuffer(sink, durability="memory") as audit:
        for row in given:
            audit.record(**row)
    assert [(row["a"], row["b"]) for row in rows_of(sink)] == [
        (1, "db"),
        (2, "x"),
        (3, "y"),
        (None, "db"),
        (None, None),
        (6, "db"),
    ]


def test_client_side_defaults_are_evaluated_at_the_call(any_engine: Engine, numbers: Iterator[int]) -> None:
    """
    Scalars, callables and those that look at the row, each seeing the ones before it; None given is None stored.
    """
    table = own_table(
        sa.Column("name", sa.String(9)),
        sa.Column("scalar", sa.String(9), default="plain"),
        sa.Column("number", sa.Integer, default=lambda: next(numbers)),
        sa.Column("at", sa.Uuid, default=uuid4),
        sa.Column(
            "echo", sa.String(30), default=lambda context: context.get_current_parameters()["name"] + "!"
        ),
        sa.Column("sum", sa.Integer, default=lambda context: context.current_parameters["number"] + 100),
    )
    sink = ready(any_engine, table)
    with AuditBuffer(sink, durability="memory", flush_interval=60.0) as audit:
        audit.record(name="a")
        audit.record(name="b", scalar=None, number=7)
        assert next(numbers) == 1, "the writer has not run, and the defaults have"
    first, second = rows_of(sink)
    assert (first["scalar"], first["number"], first["echo"], first["sum"]) == ("plain", 0, "a!", 100)
    assert (second["scalar"], second["number"], second["echo"], second["sum"]) == (None, 7, "b!", 107)
    assert first["at"] != second["at"]


def test_what_the_database_sets_is_left_to_it(any_engine: Engine) -> None:
    """
    Server defaults, SQL expressions and the numbering of rows.
    """
    table = own_table(
        sa.Column("a", sa.Integer, nullable=False),
        sa.Column("set_by_server", sa.String(9), nullable=False, server_default="server"),
        sa.Column("set_by_sql", sa.Integer, nullable=False, default=sa.literal(40) + 2),
    )
    sink = ready(any_engine, table)
    with AuditBuffer(sink, durability="memory") as audit:
        audit.record(a=1)
        audit.record(id=50, a=2)
    assert rows_of(sink) == [
        {"id": 1, "a": 1, "set_by_server": "server", "set_by_sql": 42},
        {"id": 50, "a": 2, "set_by_server": "server", "set_by_sql": 42},
    ]


def test_columns_that_only_the_database_may_set_are_unknown_to_record(dialect_only: Engine) -> None:
    """
    A value for a computed column would make the whole batch fail.
    """
    sink = TableSink(
        dialect_only,
        own_table(
            sa.Column("a", sa.Integer),
            sa.Column("twice", sa.Integer, sa.Computed("a * 2")),
            sa.Column("always", sa.Integer, sa.Identity(always=True)),
            sa.Column("usually", sa.Integer, sa.Identity(always=False)),
        ),
    )
    assert sink.prepare({"a": 1, "usually": 5}) == {"a": 1, "usually": 5}
    for name in ("twice", "always"):
        with pytest.raises(TypeError, match=f"unexpected column '{name}'"):
            sink.prepare({name: 1})


STRICT = own_table(
    sa.Column("a", sa.String(3), nullable=False),
    sa.Column("b", sa.SmallInteger),
    sa.Column("c", sa.JSON, nullable=False, default=dict),
)


@pytest.mark.parametrize(
    ("row", "error", "field", "says"),
    [
        ({"a": "x", "nope": 1}, TypeError, None, "unexpected column 'nope'; facts has"),
        ({}, EntryRejected, "a", "is missing: the column is NOT NULL and has no default"),
        ({"a": None}, EntryRejected, "a", "the column is NOT NULL"),
        ({"a": "abcd"}, EntryRejected, "a", "4 characters and the column holds 3"),
        ({"a": 5}, EntryRejected, "a", "the column takes str"),
        ({"a": "\0"}, EntryRejected, "a", "NUL"),
        ({"a": "x", "b": "1"}, EntryRejected, "b", "the column takes int"),
        ({"a": "x", "b": 2**63}, EntryRejected, "b", "-bit integers"),
        ({"a": "x", "c": {1: 2}}, EntryRejected, "c", "JSON keys are text"),
    ],
)
def test_a_row_that_cannot_be_stored_is_refused_at_the_call(
    dialect_only: Engine, row: dict[str, Any], error: type[Exception], field: str | None, says: str
) -> None:
    """
    The error names the column, the value and what is wrong with it.
    """
    sink = TableSink(dialect_only, STRICT)
    with pytest.raises(error) as caught:
        sink.encode(row)
    assert says in str(caught.value)
    assert getattr(caught.value, "field", None) == field


class Capitals(mysql.JSON):
    """
    JSON whose text the application makes. (In the place of another dialect's JSON, SQLAlchemy would take its own.)
    """

    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        def process(value: Any) -> str:
            if value != str(value).upper():
                raise ValueError("capitals only")
            return f'"{value}"'

        return process


def test_what_writes_json_in_the_place_of_sqlalchemy_is_asked_at_the_call() -> None:
    """
    A type of the application's own, and an engine's `json_serializer`; also for values that are plain JSON.
    """

    def serialize(value: Any) -> str:
        if value == "loud":
            raise ValueError("capitals only")
        return f'"{value}"'

    url = "mysql+pymysql://"
    for engine, kind in (
        (sa.create_engine(url), Capitals()),
        (sa.create_engine(url, json_serializer=serialize), sa.JSON()),
    ):
        sink = TableSink(engine, own_table(sa.Column("what", kind)))
        assert sink.encode({"what": "LOUD"})
        with pytest.raises(EntryRejected, match="capitals only") as caught:
            sink.encode({"what": "loud"})
        assert caught.value.field == "what"


@pytest.mark.parametrize("value", ["a\0b", {"k": ["\0"]}, {"\0": 1}, {"k": object(), "nul": "\0"}])
def test_jsonb_refuses_a_nul_also_in_what_only_the_application_can_write(value: Any) -> None:
    """
    Wherever it is; a text that only looks like one is taken.
    """
    jsonb = sa.create_engine("postgresql+psycopg://", json_serializer=repr)
    sink = TableSink(jsonb, own_table(sa.Column("what", postgresql.JSONB)))
    with pytest.raises(EntryRejected, match="holds a NUL"):
        sink.encode({"what": value})
    assert sink.encode({"what": {"k": "\\u0000"}})


def test_a_refused_row_leaves_nothing_behind(sqlite_engine: Engine) -> None:
    """
    It takes no seq, and the rows around it are written.
    """
    sink = ready(sqlite_engine, own_table(sa.Column("a", sa.String(3))))
    with AuditBuffer(sink, durability="memory") as audit:
        assert audit.record(a="one") == 1
        with pytest.raises(EntryRejected):
            audit.record(a="four")
        with pytest.raises(TypeError):
            audit.record(b="x")
        assert audit.record(a="two") == 2
    assert [row["a"] for row in rows_of(sink)] == ["one", "two"]


def _told(context: Any) -> str:
    return f"{context.get_current_parameters()['group by']} did it"


class Base(orm.DeclarativeBase):
    pass


class Fact(Base):
    __tablename__ = "order"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    when: orm.Mapped[datetime] = orm.mapped_column(
        "select", sa.DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )
    who: orm.Mapped[str | None] = orm.mapped_column("group by", sa.String(20))
    what: orm.Mapped[str] = orm.mapped_column("naïve 100%", sa.String(20), default=_told)


def test_a_mapped_class_is_recorded_by_its_attributes(any_engine: Engine) -> None:
    """
    Its columns may have other names, reserved or not even words.
    """
    sink = ready(any_engine, Fact)
    with AuditBuffer(sink, durability="memory") as audit:
        audit.record(who="ann")
        audit.record(who=None, what="nothing")
        with pytest.raises(TypeError, match="unexpected column 'select'"):
            audit.record(select=datetime.now(UTC))
    with orm.Session(any_engine) as session:
        facts = session.scalars(sa.select(Fact).order_by(Fact.id)).all()
        assert [(fact.who, fact.what) for fact in facts] == [("ann", "ann did it"), (None, "nothing")]


class Special(Fact):
    __tablename__ = "special"

    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("order.id"), primary_key=True)


@pytest.mark.parametrize(
    ("target", "says"),
    [(Special, "mapped to more than one table"), (object, "must be a Table or a mapped class")],
)
def test_a_target_that_is_not_one_table_is_refused(dialect_only: Engine, target: Any, says: str) -> None:
    """
    A row goes into one table.
    """
    with pytest.raises(ConfigError, match=says):
        TableSink(dialect_only, target)


def test_a_bigint_key_that_sqlite_would_not_number_is_required(dialect_only: Engine) -> None:
    """
    SQLite numbers INTEGER PRIMARY KEY only; elsewhere BIGINT is numbered, too.
    """
    table = sa.Table("facts", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True))
    sink = TableSink(dialect_only, table)
    if dialect_only.dialect.name == "sqlite":
        with pytest.raises(EntryRejected, match="id is missing"):
            sink.prepare({})
    else:
        assert sink.prepare({}) == {}


def test_a_table_without_a_primary_key_will_do(any_engine: Engine) -> None:
    """
    Nothing about the own table is asked for.
    """
    table = sa.Table("facts", sa.MetaData(), sa.Column("a", sa.Integer))
    sink = ready(any_engine, table)
    with AuditBuffer(sink, durability="memory") as audit:
        for a in range(10):
            audit.record(a=a)
        with orm.Session(any_engine) as session:
            assert audit.record(session=session, a=10) == 0
            session.commit()
    with any_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(table.c.a))) == 55


def test_a_session_writes_at_once_and_its_owner_commits(any_engine: Engine) -> None:
    """
    Checked and converted like any other row; a rollback takes it back.
    """
    sink = ready(any_engine, Fact)
    with AuditBuffer(sink, durability="memory") as audit:
        with orm.Session(any_engine) as session:
            kept = audit.record(session=session, who="kept")
            session.commit()
            audit.record(session=session, who="gone")
            session.rollback()
            with pytest.raises(EntryRejected):
                audit.record(session=session, who="x" * 21)
        assert audit.stats().published == 0
    with orm.Session(any_engine) as session:
        assert [(fact.id, fact.who) for fact in session.scalars(sa.select(Fact))] == [(kept, "kept")]


def test_tables_of_a_schema(postgresql_engine: Engine) -> None:
    """
    The own table may live elsewhere; the companion tables stand in the default schema.
    """
    with postgresql_engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema("other"))
    sink = ready(postgresql_engine, own_table(sa.Column("a", sa.Integer), schema="other"))
    with AuditBuffer(sink, durability="memory") as audit:
        audit.record(a=1)
    assert rows_of(sink) == [{"id": 1, "a": 1}]
    missing = own_table(sa.Column("a", sa.Integer), schema="public")
    with pytest.raises(ConfigError, match="is not a table of"):
        AuditBuffer(TableSink(postgresql_engine, missing), durability="memory")


def test_redaction_sees_the_columns(sqlite_engine: Engine) -> None:
    """
    It runs before the row is checked and encoded, for a session as well.
    """
    sink = ready(sqlite_engine, own_table(sa.Column("password", sa.String(9))))

    def redact(columns: Any) -> Any:
        return {**columns, "password": "***"}

    with AuditBuffer(sink, durability="memory", redact=redact) as audit:
        audit.record(password="hunter2hunter2")
        with orm.Session(sqlite_engine) as session:
            audit.record(session=session, password="hunter2")
            session.commit()
    assert {row["password"] for row in rows_of(sink)} == {"***"}


def test_missing_tables_are_told_with_the_remedy(any_engine: Engine) -> None:
    """
    At the start, not with the first batch.
    """
    sink = TableSink(any_engine, own_table())
    with pytest.raises(ConfigError, match=r"'facts'.*create it first"):
        AuditBuffer(sink, durability="memory")
    sink.table.metadata.create_all(any_engine)
    with pytest.raises(ConfigError, match=r"call TableSink.create_schema\(\) first"):
        AuditBuffer(sink, durability="memory")
    sink.create_schema()
    gap_table.drop(any_engine)
    with pytest.raises(ConfigError, match=r"audit_buffer_gap.*call TableSink.create_schema\(\) first"):
        AuditBuffer(sink, durability="memory")
    sink.create_schema()
    sink.create_schema()
    AuditBuffer(sink, durability="memory").close()


def test_the_position_moves_with_the_rows(any_engine: Engine) -> None:
    """
    It is the last seq of the last batch, gaps included, and gaps have rows of their own.
    """
    sink = ready(any_engine, own_table(sa.Column("a", sa.Integer)))
    buffer_id = uuid4()
    assert sink.position(buffer_id) == 0
    sink.write(batch_of(sink, buffer_id, 1, {"a": 1}, {"a": 2}))
    assert sink.position(buffer_id) == 2
    sink.write(
        Batch(
            buffer_id=buffer_id, after=2, through=9, stored=[(5, sink.encode({"a": 5}))], policy="drop_newest"
        )
    )
    assert sink.position(buffer_id) == 9
    assert [row["a"] for row in rows_of(sink)] == [1, 2, 5]
    with any_engine.connect() as connection:
        gaps = connection.execute(sa.select(gap_table).order_by(gap_table.c.last_seq)).mappings().all()
    assert [(gap["first_seq"], gap["last_seq"], gap["dropped"], gap["policy"]) for gap in gaps] == [
        (3, 4, 2, "drop_newest"),
        (6, 9, 4, "drop_newest"),
    ]
    assert {gap["buffer_id"] for gap in gaps} == {buffer_id}
    sink.close()


def test_a_batch_cannot_be_written_twice(any_engine: Engine) -> None:
    """
    The position fences it off, the first batch of a buffer and any other, and nothing of it stays behind.
    """
    sink = ready(any_engine, own_table(sa.Column("a", sa.Integer)))
    buffer_id = uuid4()
    for seq in (1, 2):
        batch = batch_of(sink, buffer_id, seq, {"a": seq})
        sink.write(batch)
        with pytest.raises((SinkError, sa.exc.IntegrityError)):
            sink.write(batch)
    assert [row["a"] for row in rows_of(sink)] == [1, 2]
    sink.close()


def test_a_failure_in_the_middle_leaves_nothing(any_engine: Engine) -> None:
    """
    Rows, gaps and position are one transaction.
    """
    sink = ready(any_engine, own_table(sa.Column("a", sa.Integer, unique=True)))
    buffer_id = uuid4()
    with pytest.raises(sa.exc.IntegrityError):
        sink.write(batch_of(sink, buffer_id, 1, {"a": 1}, {"a": 2}, {"id": 77, "a": 1}))
    assert sink.position(buffer_id) == 0
    assert rows_of(sink) == []
    sink.write(batch_of(sink, buffer_id, 1, {"a": 1}))
    assert len(rows_of(sink)) == 1
    sink.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_exactly_once_when_the_answer_to_a_commit_is_lost(
    any_engine: Engine, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """
    Whether the transaction was committed or not, no row is lost and none comes twice.
    """
    sink = ready(any_engine, own_table(sa.Column("a", sa.Integer)))
    transaction, calls = Database.transaction, itertools.count()

    @contextmanager
    def unreliable(self: Database) -> Iterator[sa.Connection]:
        fail = next(calls) % 3 == 0
        with transaction(self) as connection:
            yield connection
            if fail and when == "before":
                raise ConnectionError("cut before COMMIT")
        if fail and when == "after":
            raise ConnectionError("cut after COMMIT")

    monkeypatch.setattr(Database, "transaction", unreliable)
    with AuditBuffer(
        sink, durability="memory", batch_size=3, retry_backoff=0.001, retry_backoff_max=0.002
    ) as audit:
        for a in range(20):
            audit.record(a=a)
        audit.flush(timeout=30)
        assert audit.stats().retries > 0
    assert [row["a"] for row in rows_of(sink)] == list(range(20))
    with any_engine.connect() as connection:
        assert connection.scalars(sa.select(position_table.c.last_seq)).all() == [20]


def test_the_repr_names_table_and_database_and_no_password() -> None:
    """
    It may stand in a log.
    """
    engine = sa.create_engine("postgresql+psycopg://me:secret@db/x")
    assert repr(TableSink(engine, own_table())) == "<TableSink facts postgresql+psycopg://me:***@db/x>"
