"""
docs/how-to/alembic.md on every database: up, record, nothing left to migrate, down; and tables that an older version made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditService, ConfigError, TableSink
from audit_buffer.schema import audit_log, position_table
from audit_buffer.sinks import Batch


SETTINGS: dict[str, Any] = {"durability": "memory", "flush_interval": 60.0}
OWN = sa.Table(
    "own", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.String(20))
)


class Migrations:
    """
    A folder that `alembic init` has made, changed as the how-to says.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._command = pytest.importorskip("alembic.command")
        config = pytest.importorskip("alembic.config").Config(str(folder / "alembic.ini"))
        self._command.init(config, str(folder / "migrations"))
        # The % of a URL would be one of configparser's.
        url = engine.url.render_as_string(hide_password=False).replace("%", "%%")
        config.set_main_option("sqlalchemy.url", url)
        self._config = config
        _replace(
            folder / "migrations" / "env.py",
            "target_metadata = None",
            "from audit_buffer import AuditService, TableSink\n"
            "target_metadata = [AuditService.metadata, TableSink.companion_metadata]\n"
            # As anybody does who has tables of other origin beside the application's own.
            "def include_name(name, kind, parents):\n"
            "    return kind != 'table' or name.startswith('audit_')",
        )
        _replace(
            folder / "migrations" / "env.py",
            "target_metadata=target_metadata",
            "target_metadata=target_metadata, include_name=include_name",
        )
        _replace(
            folder / "migrations" / "script.py.mako",
            "import sqlalchemy as sa\n",
            "import sqlalchemy as sa\nimport audit_buffer.schema\n",
        )

    def generate_and_upgrade(self) -> None:
        self._command.revision(self._config, "next", autogenerate=True)
        self._command.upgrade(self._config, "head")
        self._command.check(self._config)

    def downgrade(self, to: str) -> None:
        self._command.downgrade(self._config, to)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def migrations(any_engine: Engine, tmp_path: Path) -> Migrations:
    return Migrations(tmp_path, any_engine)


def columns(engine: Engine, table: str) -> list[str]:
    return [column["name"] for column in sa.inspect(engine).get_columns(table)]


def record_in_both(engine: Engine) -> None:
    with AuditBuffer(AuditService(engine), **SETTINGS) as audit:
        audit.record("fact")
    with AuditBuffer(TableSink(engine, OWN), **SETTINGS) as own:
        own.record(what="fact")


def test_up_record_check_and_down(any_engine: Engine, migrations: Migrations) -> None:
    """
    A generated migration makes all tables as create_schema() does, and takes them away again.
    """
    OWN.create(any_engine)
    migrations.generate_and_upgrade()
    record_in_both(any_engine)
    assert AuditService(any_engine).count() == 1
    migrations.downgrade("base")
    assert set(sa.inspect(any_engine).get_table_names()) == {"own", "alembic_version"}


def test_the_position_of_an_older_version_is_migrated_up_and_down(
    any_engine: Engine, migrations: Migrations
) -> None:
    """
    Without its two newer columns a buffer says so when it is opened; with them it goes on from the row that is there.
    """
    OWN.create(any_engine)
    AuditService(any_engine).create_schema()
    sink = TableSink(any_engine, OWN)
    sink.create_schema()
    with AuditBuffer(sink, **SETTINGS) as audit:
        audit.record(what="before")
    with any_engine.begin() as connection:
        for column in ("first_seq", "checksum"):
            connection.exec_driver_sql(f"ALTER TABLE audit_buffer_position DROP COLUMN {column}")
    with pytest.raises(
        ConfigError, match=r"audit_buffer_position.*no column first_seq, checksum.*migrations"
    ):
        AuditBuffer(TableSink(any_engine, OWN), **SETTINGS)
    migrations.generate_and_upgrade()
    assert columns(any_engine, "audit_buffer_position") == [
        "buffer_id",
        "last_seq",
        "updated_at",
        "first_seq",
        "checksum",
    ]
    with any_engine.connect() as connection:
        row = connection.execute(sa.select(position_table)).mappings().one()
    assert (row["last_seq"], row["first_seq"], row["checksum"]) == (1, None, None)
    again = TableSink(any_engine, OWN)
    again.write(
        Batch(buffer_id=audit.buffer_id, after=1, through=2, stored=[(2, again.encode({"what": "on"}))])
    )
    assert again.position(audit.buffer_id) == 2
    again.close()
    migrations.downgrade("base")
    assert columns(any_engine, "audit_buffer_position") == ["buffer_id", "last_seq", "updated_at"]


@pytest.mark.parametrize("table", ["audit_log", "own"])
def test_a_column_that_is_missing_is_named_when_the_buffer_is_opened(any_engine: Engine, table: str) -> None:
    """
    In the service's table and in an own one; not when the first entry is written.
    """
    OWN.create(any_engine)
    AuditService(any_engine).create_schema()
    TableSink(any_engine, OWN).create_schema()
    column = "outcome" if table == audit_log.name else "what"
    with any_engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    target: Any = AuditService(any_engine) if table == audit_log.name else TableSink(any_engine, OWN)
    with pytest.raises(ConfigError, match=f"{table}.*has no column {column}"):
        AuditBuffer(target, **SETTINGS)
