"""
HAZARDS 29 and 35: a database that works, but not for us, not now: read-only, locked, full.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from audit_buffer import IntegrityAlarm, SinkError
from audit_buffer.schema import audit_log, position_table
from tests.database.servers import PrivateMariaDB, PrivatePostgres
from tests.database.test_crashes import end_other_backends
from tests.database.worlds import FACTS, TARGETS, World
from tests.servers import fresh_database


READ_ONLY = {
    "postgresql": (
        "ALTER SYSTEM SET default_transaction_read_only = {}",
        "SELECT pg_reload_conf()",
    ),
    "mysql": ("SET GLOBAL read_only = {}",),
}


def administer(engine: Engine, *statements: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def as_application(engine: Engine) -> Engine:
    """
    Return an engine for a user who may write, but not what only an administrator may.
    """
    if engine.dialect.name == "postgresql":
        return sa.create_engine(engine.url)
    administer(
        engine,
        "CREATE USER IF NOT EXISTS application",
        f"GRANT ALL ON {engine.url.database}.* TO application",
    )
    return sa.create_engine(engine.url.set(username="application"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_database_that_becomes_read_only(private_engine: Engine, target: str) -> None:
    """
    As after a failover: entries wait, and get in when it takes them again.
    """
    engine = as_application(private_engine)
    statements = READ_ONLY[engine.dialect.name]
    with World(engine, target, private_engine) as world:
        world.record(2)
        world.flush()
        try:
            administer(private_engine, *(statement.format("on") for statement in statements))
            # PostgreSQL tells its backends in its own time.
            with pytest.raises(SinkError, match=r"read.only"):  # noqa: PT012
                while True:
                    world.record()
                    world.buffer.flush()
            for _ in range(3):
                assert "read" in str(world.next_error())
        finally:
            administer(private_engine, *(statement.format("off") for statement in statements))
        world.assert_exact()
    engine.dispose()


def test_the_position_is_not_read_where_nothing_can_be_written(private_engine: Engine) -> None:
    """
    A writer that comes to a standby, which is behind, waits for the primary: it takes no row for lost that is only not there yet.
    """
    engine = as_application(private_engine)
    statements = READ_ONLY[engine.dialect.name]
    newest = audit_log.c.seq > 2

    def behind_its_back(statement: sa.Executable, rows: list[dict[str, Any]] | None = None) -> None:
        with private_engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION READ WRITE")
            connection.execute(statement, rows)
            connection.commit()

    with World(engine, "service", private_engine) as world:
        world.record(5)
        world.flush()
        with private_engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(sa.select(audit_log).where(newest)).mappings()]
        administer(private_engine, *(statement.format("on") for statement in statements))
        try:
            behind_its_back(sa.delete(audit_log).where(newest))
            end_other_backends(private_engine)
            private_engine.dispose()
            world.record()
            world.begin_flush()
            told = [world.next_error() for _ in range(5)]
            behind_its_back(sa.insert(audit_log), rows)
        finally:
            administer(private_engine, *(statement.format("off") for statement in statements))
        world.assert_exact()
        while not world.errors.empty():
            told.append(world.errors.get())
    assert not [error for error in told if isinstance(error, IntegrityAlarm)]
    assert any("read-only, so it is not the primary" in str(error) for error in told)
    engine.dispose()


@contextmanager
def second_writer(world: World, engine: Engine) -> Iterator[Connection]:
    """
    Yield a transaction that has written the key that the buffer writes next, and much more, and rolls back at the end.

    "Much more" has MariaDB choose the other one when there is a deadlock; "not so soon" has PostgreSQL.
    """
    with engine.connect() as connection, connection.begin() as transaction:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET deadlock_timeout = '60s'"))
        rows = [{"number": 1_000_000 + number} for number in range(100)]
        connection.execute(sa.insert(FACTS), [*rows, {"number": world.accepted + 1}])
        yield connection
        transaction.rollback()


@pytest.fixture
def unique(server_engine: Engine) -> Engine:
    """
    An engine on a database whose `facts` take no number twice.
    """
    FACTS.create(server_engine)
    administer(server_engine, "CREATE UNIQUE INDEX one_of_each ON facts (number)")
    return server_engine


def test_a_lock_that_another_writer_holds_is_not_waited_for_without_end(unique: Engine) -> None:
    """
    The wait ends after a third of statement_timeout, and the batch comes again until the lock is gone.
    """
    with World(unique, "table", statement_timeout=1.5) as world:
        world.record()
        world.flush()
        with second_writer(world, unique):
            world.record(3)
            world.begin_flush()
            assert "lock" in str(world.next_error()).lower()
        world.assert_exact()


def test_a_deadlock_with_another_writer_is_tried_again(unique: Engine) -> None:
    """
    The writer holds its position and waits for a key; the other holds the key and wants the position.
    """
    with World(unique, "table") as world:
        world.record()
        world.flush()
        with second_writer(world, unique) as connection:
            world.record(3)
            world.begin_flush()
            wait_until_somebody_waits(unique)
            connection.execute(sa.select(position_table).with_for_update())
            assert "deadlock" in str(world.next_error()).lower()
        world.assert_exact()


def wait_until_somebody_waits(engine: Engine) -> None:
    """
    Ask the server until it says that a transaction waits for a lock.
    """
    question = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        # A statement that takes so long waits. (innodb_trx is not renewed while anybody on the server keeps reading it.)
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() "
        "AND command = 'Query' AND time_ms > 50",
    }[engine.dialect.name]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(sa.text(question)):
            pass


# A full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """
    A file system of 16 MiB, with the room for its owner to change.
    """
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    mounting = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16m,mode=777", "none", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if not mounting or mounting.returncode:
        pytest.skip(f"no small tmpfs for this user: {mounting and mounting.stderr.strip()}")
    # A server that runs as another user has to get there.
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(above.stat().st_mode | 0o011)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """
    Leave no byte free in *folder*.
    """
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        while True:
            file.write(b"\0" * 4096)
    yield
    ballast.unlink()


def record_into_full_disk(world: World, folder: Path, rounds: int) -> None:
    """
    Fill the disk, record more than fits into what the database has allocated, make room; and again.
    """
    for _ in range(rounds):
        with filled(folder), pytest.raises(SinkError, match=r"full|space"):  # noqa: PT012
            while True:
                world.record(200)
                world.buffer.flush()
        world.flush()
    world.assert_exact()


@pytest.mark.postgresql
def test_postgresql_whose_disk_is_full_of_other_things(
    private_postgresql: PrivatePostgres, small_disk: Path
) -> None:
    """
    Entries wait in the buffer, and get in when there is room.
    """
    private_postgresql.make_sure_it_runs()
    folder = small_disk / "data"
    folder.mkdir()
    shutil.chown(folder, private_postgresql.user or os.geteuid())
    with fresh_database(private_postgresql.url) as engine, World(engine, "service") as world:
        administer(
            engine,
            f"CREATE TABLESPACE small LOCATION '{folder}'",
            f"ALTER TABLE {audit_log.name} SET TABLESPACE small",
        )
        world.details |= {"filler": "x" * 2000}
        record_into_full_disk(world, small_disk, 2)
        administer(engine, f"DROP TABLE {audit_log.name}", "DROP TABLESPACE small")


@pytest.mark.mariadb
def test_mariadb_whose_disk_is_full_of_other_things(
    private_mariadb: PrivateMariaDB, small_disk: Path
) -> None:
    """
    Error 1114: entries wait in the buffer, and get in when there is room.

    Only the tables lie there, not the logs; and rows are small. Where the room is gone that a rollback takes (large rows, several
    indexes), or that a log takes, MariaDB 10.11 aborts itself ("Out of disk space in rollback"): that is a killed server.
    """
    private_mariadb.make_sure_it_runs()
    with fresh_database(private_mariadb.url) as engine:
        of_tables = private_mariadb.folder / "data" / str(engine.url.database)
        shutil.copytree(of_tables, small_disk / "data")
        shutil.rmtree(of_tables)
        of_tables.symlink_to(small_disk / "data")
        with World(engine, "table") as world:
            record_into_full_disk(world, small_disk, 6)
        assert private_mariadb.is_running


def test_sqlite_whose_disk_is_full_of_other_things(small_disk: Path) -> None:
    """
    Entries wait in the buffer, and get in when there is room.
    """
    engine = sa.create_engine(f"sqlite:///{small_disk / 'audit.db'}")
    with World(engine, "service") as world:
        world.details |= {"filler": "x" * 2000}
        record_into_full_disk(world, small_disk, 3)
    engine.dispose()


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_sqlite_whose_disk_is_full_again_and_again(small_disk: Path, *, full: bool) -> None:
    """
    100 rounds with --full.
    """
    rounds = 100 if full else 10
    engine = sa.create_engine(f"sqlite:///{small_disk / 'audit.db'}")
    with World(engine, "table") as world:
        record_into_full_disk(world, small_disk, rounds)
        tally = world.tally()
    print(f"\nsqlite disk full: {rounds} rounds, {tally}")
    assert tally.is_clean
    engine.dispose()
