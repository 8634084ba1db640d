"""
Settings as they are read from real databases.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Engine

from audit_buffer import AuditService
from audit_buffer._assessment import assess_settings
from audit_buffer._health import our_tables
from audit_buffer.sinks import _settings
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._settings import read_settings


TABLES = {"sqlite": _settings.SQLITE, "postgresql": _settings.POSTGRESQL, "mysql": _settings.MARIADB}


def test_every_setting_of_the_table_is_read(any_engine: Engine) -> None:
    """
    Each database answers every question that is asked of it.
    """
    with any_engine.connect() as connection:
        found = read_settings(connection)
    assert found.values.keys() == TABLES[any_engine.dialect.name].keys()
    assert found.release > (3,)
    assert all(isinstance(value, str) for value in found.values.values())


def test_the_writers_connection_has_no_errors(any_engine: Engine) -> None:
    """
    What the writer sets is what is read back: strict, durable, utf8mb4_bin.
    """
    AuditService(any_engine).create_schema()
    with Database(any_engine).look() as connection:
        found = read_settings(connection, our_tables())
    assert [finding for finding in assess_settings(found) if finding.severity == "error"] == []
    if found.kind == "sqlite":
        assert found.values == {"journal_mode": "wal", "synchronous": "FULL"}
    if found.kind == "mariadb":
        assert found.engines["audit_log"] == "InnoDB"
        assert found.collations["audit_log.actor"] == "utf8mb4_bin"
        assert "audit_log.seq" not in found.collations


def test_a_look_leaves_no_connection_behind(tmp_path: Path) -> None:
    """
    The connection that was read from is dropped, and the pool has all of its room.
    """
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'audit.db'}", pool_size=1, max_overflow=0)
    for _ in range(3):
        with Database(engine).look() as connection:
            read_settings(connection)
    assert engine.pool.checkedout() == 0
    engine.dispose()


def test_settings_that_differ_for_one_role_are_those_of_that_role(postgresql_engine: Engine) -> None:
    """
    What holds is what the connection's own session says, not the server's default.
    """
    with postgresql_engine.connect() as connection:
        connection.exec_driver_sql("SET synchronous_commit = off")
        found = read_settings(connection)
        connection.rollback()
    assert found.values["synchronous_commit"] == "off"
    assert [finding.severity for finding in assess_settings(found)] == ["error"]


def test_a_table_without_transactions_is_found(mariadb_engine: Engine) -> None:
    """
    An own table in MyISAM would be written without its position, and a column in another character set would refuse text.
    """
    with mariadb_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE own (name VARCHAR(10) CHARACTER SET latin1) ENGINE=MyISAM")
        connection.exec_driver_sql(
            "CREATE TABLE audit_log (actor VARCHAR(10) CHARACTER SET latin1) ENGINE=InnoDB"
        )
        found = read_settings(connection, our_tables(), ("own",))
    assert found.engines == {"audit_log": "InnoDB", "own": "MyISAM"}
    assert list(found.collations) == ["audit_log.actor"]
    said = [finding.what for finding in assess_settings(found)]
    assert any("own is MyISAM" in what for what in said)
    assert any("audit_log.actor is latin1" in what for what in said)


def test_nothing_is_claimed_of_a_database_nobody_knows() -> None:
    """
    Another dialect gives its name and no settings.
    """

    class Unknown:
        class dialect:  # noqa: N801
            name = "oracle"

    found = read_settings(Unknown())  # type: ignore[arg-type]
    assert (found.kind, found.values) == ("oracle", {})


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_reading_changes_nothing(tmp_path: Path, journal: str) -> None:
    """
    The journal of a SQLite file is the same afterwards.
    """
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode={journal}")
        assert read_settings(connection).values["journal_mode"] == journal
        assert read_settings(connection).values["journal_mode"] == journal
    engine.dispose()
