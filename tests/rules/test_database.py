"""
What the writing connection promises on each database.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, orm
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool

from audit_buffer import AuditBuffer, AuditService, ConfigError, SinkError, TableSink, instrumentation
from audit_buffer.instrumentation import Event, SinkUnavailable
from audit_buffer.schema import metadata
from audit_buffer.sinks import _database, _sqlite
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._engines import sqlite_file
from audit_buffer.sinks._entries import EntrySink


TABLE = sa.Table("facts", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), mysql_engine="InnoDB")


@pytest.fixture
def database(any_engine: Engine) -> Iterator[Database]:
    TABLE.create(any_engine)
    database = Database(any_engine)
    yield database
    database.close()


@pytest.fixture
def shared() -> Iterator[Engine]:
    """
    An in-memory database on the one connection of a static pool.
    """
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield engine
    engine.dispose()


@pytest.fixture
def events() -> Iterator[list[Event]]:
    seen: list[Event] = []
    instrumentation.set_hooks([seen.append])
    yield seen
    instrumentation.set_hooks([instrumentation.log_event])


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(TABLE)) or 0)


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    """
    An exception rolls back and drops the connection; the next transaction has a new one.
    """
    with database.transaction() as connection:
        connection.execute(sa.insert(TABLE), [{"id": 1}, {"id": 2}])
    with pytest.raises(LookupError), database.transaction() as connection:  # noqa: PT012
        connection.execute(sa.insert(TABLE), [{"id": 3}])
        raise LookupError
    assert count(database.engine) == 2
    with database.transaction() as connection:
        connection.execute(sa.insert(TABLE), [{"id": 3}])
    assert count(database.engine) == 3


def test_a_statement_error_never_leaves_half_a_batch(database: Database) -> None:
    """
    Also where the database alone would keep the statements before it (MariaDB), or has aborted (PostgreSQL).
    """
    with pytest.raises(sa.exc.IntegrityError), database.transaction() as connection:  # noqa: PT012
        connection.execute(sa.insert(TABLE), [{"id": 1}])
        connection.execute(sa.insert(TABLE), [{"id": 1}])
    with database.transaction() as connection:
        connection.execute(sa.insert(TABLE), [{"id": 9}])
    assert count(database.engine) == 1


def test_the_connection_is_kept_between_transactions(database: Database) -> None:
    """
    One connection for the life of the writer.
    """
    with database.transaction() as connection:
        first = connection.connection.dbapi_connection
    with database.transaction() as connection:
        assert connection.connection.dbapi_connection is first


def test_the_pool_does_not_run_short_of_it(any_engine: Engine) -> None:
    """
    An application with a pool of one goes on as before.
    """
    engine = sa.create_engine(
        any_engine.url, pool_size=1, max_overflow=0, pool_timeout=0.01, poolclass=QueuePool
    )
    database = Database(engine)
    with database.transaction(), engine.connect() as connection:
        assert connection.scalar(sa.select(1)) == 1
    database.close()
    engine.dispose()


def test_a_dropped_connection_is_closed(any_engine: Engine) -> None:
    """
    Dropped in whatever state it is, closed already or not, and more than once.
    """
    database = Database(any_engine)
    for close_first in (False, True):
        with database.transaction() as connection:
            raw: Any = connection.connection.dbapi_connection
        if close_first:
            raw.close()
        database.discard()
        database.discard()
        with pytest.raises(any_engine.dialect.loaded_dbapi.Error):
            raw.cursor().execute("SELECT 1")


def test_the_servers_end_of_a_connection_is_noticed_once(postgresql_engine: Engine) -> None:
    """
    The transaction fails; the next one has a new connection.
    """
    database = Database(postgresql_engine)
    with database.transaction() as connection:
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with postgresql_engine.connect() as other:
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(sa.exc.OperationalError), database.transaction() as connection:
        connection.scalar(sa.select(1))
    with database.transaction() as connection:
        assert connection.scalar(sa.select(1)) == 1
    database.close()


# SQLite -----------------------------------------------------------------------------------------------------------


def test_sqlite_keeps_what_it_committed_through_a_power_cut(sqlite_engine: Engine) -> None:
    """
    WAL and synchronous=FULL on the writer's connection; the application's own keep their settings.
    """
    with sqlite_engine.connect() as connection:
        before = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
    database = Database(sqlite_engine)
    with database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()
    with sqlite_engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() in (1, before)


class Answers:
    """
    A connection that answers as scripted.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def exec_driver_sql(self, statement: str) -> Answers:
        self.asked.append(statement)
        return self

    def scalar(self) -> Any:
        return next(answer for part, answer in self.answers.items() if part in self.asked[-1])

    def rollback(self) -> None:
        self.asked.append("ROLLBACK")


def test_sqlite_without_wal_takes_the_safest_rollback_journal() -> None:
    """
    EXTRA, which syncs the folder, too.
    """
    connection: Any = Answers(journal_mode="delete", synchronous=3)
    _sqlite.set_durable(connection)
    assert "PRAGMA synchronous=EXTRA" in connection.asked


def test_settings_that_do_not_hold_are_an_error() -> None:
    """
    They are read back: a promise is not made on a hope.
    """
    durable: Any = Answers(journal_mode="wal", synchronous=1)
    with pytest.raises(SinkError, match="PRAGMA synchronous is 1 after it was set to FULL"):
        _sqlite.set_durable(durable)
    strict: Any = Answers(sql_mode="ANSI")
    with pytest.raises(SinkError, match="sql_mode is not strict"):
        _database._set_strict(strict)


def test_a_writer_beside_a_reader_does_not_fail(sqlite_engine: Engine) -> None:
    """
    BEGIN IMMEDIATE: a deferred transaction that has read would be refused as soon as it writes.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()
    sink = EntrySink(sqlite_engine)
    assert sink.position(uuid4()) == 0
    with sqlite_engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        assert reader.scalar(sa.select(sa.func.count()).select_from(service.table)) == 0
        with AuditBuffer(service, durability="memory") as audit:
            for _ in range(10):
                audit.record("a")
        assert reader.scalar(sa.select(sa.func.count()).select_from(service.table)) == 0
    assert service.count() == 10
    sink.close()


def test_a_writer_behind_another_writer_waits_its_turn(sqlite_engine: Engine) -> None:
    """
    A busy database is tried again; nothing is lost.
    """
    engine = sa.create_engine(sqlite_engine.url, connect_args={"timeout": 0.01})
    service = AuditService(engine)
    service.create_schema()
    audit = AuditBuffer(service, durability="memory", retry_backoff=0.001, retry_backoff_max=0.01)
    with sqlite_engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        audit.record("a")
        with pytest.raises(SinkError, match="database is locked"):
            audit.flush()
        other.rollback()
    audit.close()
    assert service.count() == 1
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
@pytest.mark.parametrize("pool", [SingletonThreadPool, NullPool, QueuePool])
def test_a_database_that_is_another_in_every_connection_is_refused(url: str, pool: Any) -> None:
    """
    The remedy is a static pool, or a file.
    """
    engine = sa.create_engine(url, poolclass=pool)
    with pytest.raises(ConfigError, match="poolclass=StaticPool"):
        AuditBuffer(AuditService(engine))
    with pytest.raises(ConfigError, match="poolclass=StaticPool"):
        TableSink(engine, TABLE)


def test_a_shared_cache_in_memory_is_one_database() -> None:
    """
    All connections see the same tables, so it will do.
    """
    engine = sa.create_engine(
        "sqlite:///file:shared_test?mode=memory&cache=shared&uri=true",
        poolclass=QueuePool,
        connect_args={"check_same_thread": False},
    )
    with engine.connect():
        service = AuditService(engine)
        service.create_schema()
        with AuditBuffer(service, durability="memory") as audit:
            audit.record("a")
        assert service.count() == 1
    engine.dispose()


def test_a_static_pool_works(shared: Engine) -> None:
    """
    Reads find what was recorded, from this thread and from others.
    """
    service = AuditService(shared)
    service.create_schema()
    with AuditBuffer(service) as audit:
        for _ in range(3):
            audit.record("a")
        assert audit.count() == 3


def test_the_applications_transactions_on_a_static_pool_stay_its_own(shared: Engine) -> None:
    """
    Its one connection is in no other mode afterwards, and an open transaction is not committed by the writer.
    """
    service = AuditService(shared)
    service.create_schema()
    TABLE.create(shared)
    audit = AuditBuffer(service, retry_backoff=0.001, retry_backoff_max=0.01)
    audit.record("before")
    audit.flush(timeout=10)
    for number, end in ((1, "commit"), (2, "rollback")):
        with orm.Session(shared) as session:
            session.execute(sa.insert(TABLE), {"id": number})
            audit.record("during")
            with pytest.raises(SinkError, match="has a transaction open on the only connection"):
                audit.flush()
            getattr(session, end)()
        # Whoever begins while the writer writes is in the writer's transaction: there is but one connection.
        audit.flush(timeout=10)
    audit.close()
    assert count(shared) == 1
    assert service.count() == 3


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////tmp/a.db", "/tmp/a.db"),
        ("sqlite:///a.db", "a.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:a.db?uri=true", None),
        ("mysql+pymysql://x/y", None),
    ],
)
def test_only_a_file_of_sqlite_has_a_place_beside_it(url: str, path: str | None) -> None:
    """
    That is where the ring file goes by default.
    """
    assert sqlite_file(sa.create_engine(url)) == path


# MariaDB ----------------------------------------------------------------------------------------------------------


def test_mariadb_is_strict_on_the_writers_connection_only(mariadb_engine: Engine) -> None:
    """
    Where the application is not strict, the writer's connection still refuses to cut a value short.
    """
    sa.event.listen(
        mariadb_engine,
        "connect",
        lambda raw, record: raw.cursor().execute("SET SESSION sql_mode = 'ANSI_QUOTES'"),
    )
    mariadb_engine.dispose()
    database = Database(mariadb_engine)
    with database.transaction() as connection:
        mode = str(connection.exec_driver_sql("SELECT @@sql_mode").scalar())
    assert "STRICT_ALL_TABLES" in mode
    assert "ANSI_QUOTES" in mode
    database.close()
    with mariadb_engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@sql_mode").scalar() == "ANSI_QUOTES"


# At the start -----------------------------------------------------------------------------------------------------


def test_a_missing_table_is_told_with_the_remedy(any_engine: Engine) -> None:
    """
    At the start, not with the first batch.
    """
    with pytest.raises(ConfigError, match=r"'audit_log'.*call AuditService.create_schema\(\) first"):
        AuditBuffer(AuditService(any_engine), durability="memory")
    metadata.create_all(any_engine)
    AuditBuffer(AuditService(any_engine), durability="memory").close()


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_a_sink_opens_while_the_database_is_away(name: str, events: list[Event], request: Any) -> None:
    """
    The application must start during an outage, too; the event says so.
    """
    engine = request.getfixturevalue(f"nowhere_{name}")
    EntrySink(engine).open()
    TableSink(engine, TABLE).open()
    assert {type(event) for event in events} == {SinkUnavailable}


def test_a_table_that_appears_later_takes_what_waited(tmp_path: Path, events: list[Event]) -> None:
    """
    A database that could not be opened at the start is used as soon as it can be.
    """
    folder = tmp_path / "later"
    engine = sa.create_engine(f"sqlite:///{folder / 'audit.db'}")
    audit = AuditBuffer(
        AuditService(engine), durability="memory", retry_backoff=0.001, retry_backoff_max=0.01
    )
    audit.record("a")
    folder.mkdir()
    AuditService(engine).create_schema()
    audit.close()
    assert AuditService(engine).count() == 1
    assert isinstance(events[0], SinkUnavailable)
    assert "unable to open database file" in events[0].error
    engine.dispose()


# After a fork -----------------------------------------------------------------------------------------------------


def test_a_forked_child_does_not_touch_the_parents_connection(any_engine: Engine) -> None:
    """
    It makes its own, and leaves the parent's open.
    """
    database = Database(any_engine)
    with database.transaction() as connection:
        raw: Any = connection.connection.dbapi_connection
    any_engine.dispose()
    database.after_fork()
    with database.transaction() as connection:
        assert connection.connection.dbapi_connection is not raw
    database.close()
    cursor = raw.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchall()
    _database._parents_connections.clear()
    raw.close()


def test_a_database_in_memory_is_copied_by_a_fork(shared: Engine) -> None:
    """
    The child keeps the connection: a new one would be to an empty database.
    """
    service = AuditService(shared)
    service.create_schema()
    sink = EntrySink(shared)
    sink.after_fork()
    assert sink.position(uuid4()) == 0
    assert isinstance(shared.raw_connection().dbapi_connection, sqlite3.Connection)


def test_a_lock_that_sqlite_reports_at_once_is_waited_for(tmp_path: Path) -> None:
    """
    While another connection switches to WAL, no busy handler is asked; the writer comes again until it is over.
    """
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'audit.db'}", connect_args={"timeout": 0})
    AuditService(engine).create_schema()
    other = sqlite3.connect(tmp_path / "audit.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    seen = threading.Event()

    def watch(statement: str) -> None:
        if "journal_mode" in statement:
            seen.set()

    sa.event.listen(engine, "before_cursor_execute", lambda *args: watch(args[2]))
    letting_go = threading.Thread(target=lambda: (seen.wait(20), other.execute("COMMIT")))
    letting_go.start()
    sink = EntrySink(engine)
    assert sink.position(uuid4()) == 0
    letting_go.join()
    sink.close()
    other.close()
    engine.dispose()


def test_a_transaction_in_wal_is_two_statements_more(tmp_path: Path) -> None:
    """
    BEGIN and COMMIT: beside a busy thread each statement costs the writer a turn of the interpreter's lock.
    """
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
    database = Database(engine)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(2):
        statements.clear()
        with database.transaction() as connection:
            connection.exec_driver_sql("SELECT 1")
    database.close()
    assert statements == ["BEGIN IMMEDIATE", "SELECT 1", "COMMIT"]
    engine.dispose()


def test_a_commit_that_may_have_to_wait_waits_as_long_as_the_application_allows(tmp_path: Path) -> None:
    """
    Whoever begins looks by himself whether the files are free. Where one has no WAL, its readers are in the way of a COMMIT, and
    the busy handler is there for that.
    """
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'audit.db'}", connect_args={"timeout": 3})
    other = tmp_path / "other.db"
    sa.event.listen(engine, "connect", lambda raw, _record: raw.execute(f"ATTACH '{other}' AS other"))
    database = Database(engine)
    for _ in range(2):
        with database.transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 3000
    database.close()
    engine.dispose()


def test_a_transaction_in_wal_waits_for_another_writer_as_long_as_the_application_allows(
    tmp_path: Path,
) -> None:
    """
    No longer: what still holds the file then is an error that says "locked".
    """
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'audit.db'}", connect_args={"timeout": 1.5})
    database = Database(engine)
    with database.transaction():
        pass  # and the connection is set up
    with closing(sqlite3.connect(tmp_path / "audit.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(OperationalError, match="locked"), database.transaction():
            pass
        assert time.monotonic() - started >= 1.5
    database.close()
    engine.dispose()


@pytest.fixture(params=["postgresql", "mariadb"])
def reader(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """
    An engine of a user who may read every table, and write none.
    """
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    AuditService(engine).create_schema()
    TABLE.create(engine)
    TableSink(engine, TABLE).create_schema()
    name = f"reader_{uuid4().hex[:12]}"
    grants, revokes = (
        ([f"CREATE ROLE {name} LOGIN", f"GRANT pg_read_all_data TO {name}"], [f"DROP ROLE {name}"])
        if engine.dialect.name == "postgresql"
        else (
            [f"CREATE USER {name}", f"GRANT SELECT ON {engine.url.database}.* TO {name}"],
            [f"DROP USER {name}"],
        )
    )
    administer(engine, grants)
    reading = sa.create_engine(engine.url.set(username=name))
    yield reading
    reading.dispose()
    administer(engine, revokes)


def administer(engine: Engine, statements: list[str]) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_missing_right_is_named_when_the_buffer_is_opened(reader: Engine) -> None:
    """
    HAZARD 38: not by the first batch, when the caller is long gone.
    """
    for target in (AuditService(reader), TableSink(reader, TABLE)):
        with pytest.raises(ConfigError, match=r"cannot be written in .*; give the database user the right"):
            AuditBuffer(target, durability="memory")


def test_who_waits_for_the_file_looks_more_often_with_time_and_rarely_in_the_end() -> None:
    """
    So that nobody who came later is always the quicker one, and a long transaction of somebody else costs no CPU.
    """
    waited = [0.0, 0.005, 0.02, 0.1, 0.9]
    pauses = [_sqlite.pause_after(seconds) for seconds in waited]
    assert pauses == sorted(pauses, reverse=True)
    assert 0.0005 <= pauses[-1] < pauses[0] <= 0.005
    assert _sqlite.pause_after(1.1) == _sqlite.pause_after(1000) == 0.01
