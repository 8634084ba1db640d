"""
What the synchronous service promises: one row per call, and filters that mean what they say.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, orm

from audit_buffer import (
    AuditBuffer,
    AuditService,
    BufferConfig,
    ConfigError,
    EntryRejected,
    TableSink,
    open_audit,
)
from audit_buffer.schema import audit_log


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def service(any_engine: Engine) -> AuditService:
    service = AuditService(any_engine)
    service.create_schema()
    return service


def filled(service: AuditService) -> list[int]:
    """
    Record nine entries, an hour apart, and return their row ids.
    """
    return [
        service.record(
            f"kind.{number % 3}",
            actor=f"actor-{number % 2}",
            resource=None if number == 4 else f"thing/{number}",
            occurred_at=NOON + timedelta(hours=number),
        )
        for number in range(9)
    ]


def test_a_record_is_committed_when_the_call_returns(service: AuditService) -> None:
    """
    It returns the row id; all facts come back, and those not given are None.
    """
    before = datetime.now(UTC) - timedelta(microseconds=1)
    row_id = service.record(
        "plan.updated", actor="a", resource="r", outcome="o", details={"x": 1}, correlation_id="c"
    )
    (entry,) = service.entries()
    assert (entry.id, entry.buffer_id, entry.seq) == (row_id, None, None)
    assert (entry.event_type, entry.actor, entry.resource) == ("plan.updated", "a", "r")
    assert (entry.outcome, entry.details, entry.correlation_id) == ("o", {"x": 1}, "c")
    assert before <= entry.recorded_at == entry.occurred_at <= datetime.now(UTC)
    service.record("bare")
    bare = service.entries(event_type="bare")[0]
    assert (bare.actor, bare.resource, bare.outcome, bare.details, bare.correlation_id) == (
        None,
        None,
        "success",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({}, range(9)),
        ({"event_type": "kind.1"}, [1, 4, 7]),
        ({"actor": "actor-0"}, [0, 2, 4, 6, 8]),
        ({"resource": "thing/5"}, [5]),
        ({"event_type": "kind.1", "actor": "actor-1"}, [1, 7]),
        ({"since": NOON + timedelta(hours=7)}, [7, 8]),
        ({"until": NOON + timedelta(hours=2)}, [0, 1]),
        (
            {
                "since": NOON.astimezone(timezone(timedelta(hours=9))),
                "until": NOON + timedelta(microseconds=1),
            },
            [0],
        ),
        ({"actor": "ACTOR-0"}, []),
        ({"event_type": ""}, []),
        ({"buffer_id": uuid4()}, []),
    ],
)
def test_filters_narrow_what_is_found(sqlite_engine: Engine, filters: dict[str, Any], numbers: Any) -> None:
    """
    All given filters must match; `since` is included, `until` is not. The count is of the same rows.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()
    ids = filled(service)
    expected = [ids[number] for number in numbers]
    assert [entry.id for entry in service.entries(**filters)] == expected
    assert service.count(**filters) == len(expected)
    assert [entry.id for entry in service.entries(limit=2, **filters)] == expected[:2]
    assert [entry.id for entry in service.latest(2, **filters)] == expected[-2:]
    assert [entry.id for entry in service.latest(2, after_id=ids[1], **filters)] == [
        row_id for row_id in expected if row_id > ids[1]
    ][:2]


def test_filters_work_on_every_database(service: AuditService) -> None:
    """
    Text, times and the id of a buffer, alone and together.
    """
    ids = filled(service)
    with AuditBuffer(service, durability="memory") as audit:
        audit.record("kind.1", actor="actor-1", occurred_at=NOON + timedelta(hours=1))
    buffered = service.entries()[-1]
    assert buffered.buffer_id is not None
    assert [entry.id for entry in service.entries(buffer_id=buffered.buffer_id)] == [buffered.id]
    found = service.entries(
        event_type="kind.1",
        actor="actor-1",
        since=NOON + timedelta(hours=1),
        until=NOON + timedelta(hours=1, microseconds=1),
    )
    assert [entry.id for entry in found] == [ids[1], buffered.id]
    assert service.count(resource="thing/3") == 1


@pytest.mark.parametrize("name", ["since", "until"])
def test_a_filter_without_a_time_zone_is_refused(sqlite_engine: Engine, name: str) -> None:
    """
    It would mean another moment on each machine.
    """
    service = AuditService(sqlite_engine)
    for query in (service.entries, service.count):
        with pytest.raises(ValueError, match=f"{name} = .* has no time zone"):
            query(**{name: datetime(2026, 1, 1)})  # noqa: DTZ001


def test_a_session_is_used_as_it_is(service: AuditService) -> None:
    """
    Its owner commits; its rollback takes the entry back with everything else.
    """
    with orm.Session(service.engine) as session:
        kept = service.record("kept", session=session)
        session.commit()
        service.record("gone", session=session)
        session.rollback()
    assert [(entry.id, entry.event_type) for entry in service.entries()] == [(kept, "kept")]


def test_a_buffer_passes_a_session_on(service: AuditService) -> None:
    """
    Injected, it means the caller owns the transaction: nothing is buffered.
    """
    with AuditBuffer(service, durability="memory") as audit, orm.Session(service.engine) as session:
        row_id = audit.record("direct", actor="a", details={"x": 1}, session=session)
        session.commit()
        assert audit.stats().published == 0
    assert [(entry.id, entry.actor, entry.seq) for entry in service.entries()] == [(row_id, "a", None)]


def test_creating_the_schema_twice_does_no_harm(service: AuditService) -> None:
    """
    What is there stays there.
    """
    service.record("a")
    service.create_schema()
    assert service.count() == 1


def test_the_metadata_is_for_migrations_to_see() -> None:
    """
    One table, with the fence against a second delivery.
    """
    assert list(AuditService.metadata.tables) == ["audit_log"]
    assert AuditService.table is audit_log
    unique = [c for c in audit_log.constraints if isinstance(c, sa.UniqueConstraint)]
    assert [column.name for column in unique[0].columns] == ["buffer_id", "seq"]


def test_alembic_finds_nothing_to_change(service: AuditService) -> None:
    """
    The tables in the database are those of the metadata, on every database.
    """
    autogenerate = pytest.importorskip("alembic.autogenerate")
    migration = pytest.importorskip("alembic.migration")
    with service.engine.connect() as connection:
        context = migration.MigrationContext.configure(connection)
        assert autogenerate.compare_metadata(context, AuditService.metadata) == []


def test_the_service_refuses_what_the_buffer_refuses(service: AuditService) -> None:
    """
    Switching the buffer on or off changes no rule.
    """
    for arguments in ({"details": {"a": {1}}}, {"actor": 5}, {"occurred_at": datetime(2026, 1, 1)}):  # noqa: DTZ001
        with pytest.raises(EntryRejected):
            service.record("a", **arguments)  # type: ignore[arg-type]
    assert service.count() == 0


def test_redaction_and_size_are_those_of_the_configuration(sqlite_engine: Engine) -> None:
    """
    The service reads these two settings.
    """
    config = BufferConfig(max_entry_bytes=200, redact=lambda details: {**details, "secret": "***"})
    service = AuditService(sqlite_engine, config)
    service.create_schema()
    service.record("a", details={"secret": "hunter2"})
    assert service.entries()[0].details == {"secret": "***"}
    with pytest.raises(EntryRejected, match="max_entry_bytes = 200"):
        service.record("a", details={"x": "y" * 200})


def test_a_service_takes_an_engine_a_sessionmaker_or_a_url(sqlite_engine: Engine) -> None:
    """
    A URL as text or as an object.
    """
    url = sqlite_engine.url
    AuditService(sqlite_engine).create_schema()
    for bind in (sqlite_engine, orm.sessionmaker(sqlite_engine), url, str(url)):
        service = AuditService(bind)
        service.record("a")
        service.engine.dispose()
    assert AuditService(sqlite_engine).count() == 4
    assert (
        repr(AuditService("mysql+pymysql://me:secret@db/x")) == "<AuditService mysql+pymysql://me:***@db/x>"
    )


@pytest.mark.parametrize(
    "bind",
    [
        None,
        5,
        "no url",
        "nothing+here://x",
        "postgresql+psycopg://me:secret@host:port/x",
        "oracle+nodriver://me:secret@host/x",
        orm.sessionmaker(),
        "me:secret",
    ],
    ids=str,
)
def test_anything_else_is_refused_without_telling_the_password(bind: Any) -> None:
    """
    The message may end in a log.
    """
    with pytest.raises(ConfigError) as caught:
        AuditService(bind)
    assert "bind" in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "secret@" not in str(caught.value.__cause__)


def test_open_audit_returns_what_the_configuration_says(sqlite_engine: Engine) -> None:
    """
    The plain service when `asynchronous` is off, and a buffer around it otherwise; the table exists.
    """
    plain = open_audit(sqlite_engine, BufferConfig(asynchronous=False))
    assert type(plain) is AuditService
    plain.record("a")
    buffer = open_audit(sqlite_engine, BufferConfig(durability="memory"))
    assert type(buffer) is AuditBuffer
    with buffer:
        buffer.record("b")
        assert buffer.count() == 2


OWN = sa.Table(
    "facts", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("a", sa.Integer)
)
CREATORS = pytest.mark.parametrize(
    "creator", [AuditService, lambda engine: TableSink(engine, OWN)], ids=["service", "table sink"]
)


@CREATORS
def test_a_worker_that_is_overtaken_while_it_creates_the_schema_goes_on(any_engine: Engine, creator) -> None:
    """
    The workers of a server start at once: another one may create each table between the look and the CREATE TABLE.
    """
    quicker = sa.create_engine(any_engine.url)
    overtaken = []

    def overtake(connection, cursor, statement, parameters, context, executemany) -> None:
        (table,) = [table for table in tables if f"CREATE TABLE {table.name} " in statement] or [None]
        if table is not None and table not in overtaken:
            overtaken.append(table)
            table.create(quicker)

    OWN.create(any_engine)
    target = creator(any_engine)
    tables = (
        target.metadata if isinstance(target, AuditService) else target.companion_metadata
    ).sorted_tables
    sa.event.listen(any_engine, "before_cursor_execute", overtake)
    target.create_schema()
    assert overtaken
    assert {table.name for table in tables} <= set(sa.inspect(any_engine).get_table_names())
    quicker.dispose()


def test_a_schema_that_cannot_be_created_is_an_error(sqlite_engine: Engine) -> None:
    """
    Only a table that has appeared meanwhile is a reason to look again.
    """
    sa.event.listen(sqlite_engine, "connect", lambda raw, record: raw.execute("PRAGMA query_only = 1"))
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        AuditService(sqlite_engine).create_schema()
