"""
`audit-buffer doctor`: every finding on a real database or a real folder, with its exit code.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from click.testing import CliRunner
from sqlalchemy import Engine

from audit_buffer import AuditService, TableSink
from audit_buffer._ring_file import RingFile
from audit_buffer.cli import main
from audit_buffer.commands._ring_check import check_folder
from audit_buffer.sinks._engines import database_name


Examine = Callable[..., "Found"]


class Found:
    """
    What doctor said, as its JSON.
    """

    def __init__(self, exit_code: int, output: str) -> None:
        self.exit_code = exit_code
        self.json: dict[str, Any] = json.loads(output)

    def said(self, severity: str) -> list[str]:
        return [found["what"] for found in self.json["findings"] if found["severity"] == severity]

    def says(self, severity: str, word: str) -> bool:
        return any(word in what for what in self.said(severity))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)], catch_exceptions=False)


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def examine(engine: Engine, *more: object) -> Found:
    result = run("--db", url_of(engine), "--json", *more)
    return Found(result.exit_code, result.stdout)


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def ready(any_engine: Engine) -> Engine:
    """
    A database of each kind with all tables.
    """
    AuditService(any_engine).create_schema()
    TableSink.companion_metadata.create_all(any_engine)
    if any_engine.dialect.name == "sqlite":
        execute(any_engine, "PRAGMA journal_mode=WAL")
    return any_engine


@pytest.fixture
def rings(tmp_path: Path) -> Path:
    """
    An empty folder for rings, as a buffer makes it.
    """
    folder = tmp_path / "rings"
    folder.mkdir(mode=0o700)
    return folder


def leave(folder: Path, label: str, entries: int = 3) -> Path:
    """
    Leave a ring with entries and no owner.
    """
    ring = RingFile.create(folder, label=label, size=64 * 1024)
    for seq in range(1, entries + 1):
        assert ring.put(seq, b"[%d]" % seq)
    ring.close()
    return ring.path


def test_a_database_as_create_schema_makes_it_is_well(ready: Engine, rings: Path) -> None:
    """
    On all three databases there is no error and the exit code is 0; all tables were tried, and nothing was left in them.
    """
    found = examine(ready, "--ring-dir", rings)
    assert found.said("error") == []
    assert (found.exit_code, found.json["ok"]) == (0, True)
    assert len(found.json["tables"]) >= 4
    with ready.connect() as connection:
        for table in found.json["tables"]:
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_it_changes_nothing_in_a_sqlite_file(sqlite_engine: Engine) -> None:
    """
    The journal stays what it was, although the buffer would change it, and that is said.
    """
    AuditService(sqlite_engine).create_schema()
    found = examine(sqlite_engine)
    assert found.says("warning", "journal_mode is delete")
    assert found.exit_code == 0
    with sqlite_engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


def test_a_missing_table_is_an_error_with_its_remedy(any_engine: Engine) -> None:
    """
    Without our tables nothing can be written; the remedy names create_schema().
    """
    execute(any_engine, "CREATE TABLE theirs (x INTEGER)")
    found = examine(any_engine)
    assert found.exit_code == 1
    assert found.said("error") == ["there is no table audit_log"]
    assert "create_schema()" in found.json["findings"][0]["remedy"]


def test_half_of_the_companions_is_an_error(ready: Engine) -> None:
    """
    Where an own table has its position, it needs its gaps, too.
    """
    execute(ready, "DROP TABLE audit_buffer_gap")
    assert examine(ready).said("error") == ["there is no table audit_buffer_gap"]


def test_a_missing_column_is_found_before_a_row_is_tried(ready: Engine) -> None:
    """
    The schema of another version is told by its columns, once, and no row is tried.
    """
    execute(ready, "ALTER TABLE audit_log DROP COLUMN correlation_id")
    assert examine(ready).said("error") == ["there is no column audit_log.correlation_id"]


def test_a_column_of_theirs_that_must_be_filled_is_an_error(ready: Engine) -> None:
    """
    Somebody's NOT NULL column without a default refuses every entry.
    """
    execute(ready, "DROP TABLE audit_buffer_gap")
    default = "DEFAULT '' " if ready.dialect.name == "sqlite" else ""
    execute(
        ready,
        f"ALTER TABLE audit_log ADD COLUMN tenant VARCHAR(10) {default}NOT NULL",
        "ALTER TABLE audit_log ADD COLUMN remark VARCHAR(10)",
    )
    found = examine(ready)
    assert found.says("error", "audit_log.tenant is NOT NULL") == (ready.dialect.name != "sqlite")
    assert not found.says("error", "remark")


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("ALTER TABLE audit_log ALTER COLUMN details TYPE jsonb", "details come back rewritten"),
        ("ALTER TABLE audit_log ALTER COLUMN occurred_at TYPE timestamp", "the time zone is lost"),
        ("ALTER TABLE audit_log ALTER COLUMN actor TYPE varchar(100)", "longer texts, up to 768 characters"),
        ("ALTER TABLE audit_log ALTER COLUMN seq TYPE integer", "not BIGINT"),
        ("ALTER TABLE audit_log ALTER COLUMN actor SET NOT NULL", "audit_log.actor is NOT NULL"),
        ("ALTER TABLE audit_log DROP CONSTRAINT uq_audit_log_buffer_id_seq", "no UNIQUE (buffer_id, seq)"),
    ],
)
def test_drift_is_found_on_postgresql(postgresql_engine: Engine, statement: str, word: str) -> None:
    """
    Each change that would alter or refuse entries is one error that says what it does.
    """
    AuditService(postgresql_engine).create_schema()
    execute(postgresql_engine, statement)
    found = examine(postgresql_engine)
    assert found.exit_code == 1
    assert len(found.said("error")) == 1
    assert found.says("error", word), found.said("error")


@pytest.mark.parametrize(
    ("statement", "severity", "word"),
    [
        ("ALTER TABLE audit_log MODIFY occurred_at DATETIME NOT NULL", "error", "microseconds are cut off"),
        (
            "ALTER TABLE audit_log MODIFY actor VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            "error",
            "longer texts, up to 768",
        ),
        (
            "ALTER TABLE audit_log MODIFY actor VARCHAR(768) CHARACTER SET latin1",
            "error",
            "audit_log.actor is latin1_swedish_ci",
        ),
        (
            "ALTER TABLE audit_log MODIFY outcome VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
            "warning",
            "searches find 'ABC' for 'abc'",
        ),
        (
            "ALTER TABLE audit_log MODIFY buffer_id CHAR(32)",
            "error",
            "audit_log.buffer_id is CHAR(32), not BINARY(16)",
        ),
        ("ALTER TABLE audit_log DROP KEY uq_audit_log_buffer_id_seq", "error", "no UNIQUE (buffer_id, seq)"),
        ("ALTER TABLE audit_log ENGINE=Aria", "error", "audit_log is Aria"),
    ],
)
def test_drift_is_found_on_mariadb(mariadb_engine: Engine, statement: str, severity: str, word: str) -> None:
    """
    Cut microseconds, other character sets and engines without transactions are found.
    """
    AuditService(mariadb_engine).create_schema()
    execute(mariadb_engine, statement)
    found = examine(mariadb_engine)
    assert found.says(severity, word), found.json["findings"]
    assert found.exit_code == (severity == "error")


def test_wider_columns_are_no_drift(postgresql_engine: Engine) -> None:
    """
    What takes more than we write takes what we write.
    """
    AuditService(postgresql_engine).create_schema()
    execute(
        postgresql_engine,
        "ALTER TABLE audit_log ALTER COLUMN actor TYPE text",
        "ALTER TABLE audit_log ALTER COLUMN resource TYPE varchar(2000)",
        "ALTER TABLE audit_log ADD COLUMN remark text DEFAULT 'x' NOT NULL",
    )
    assert examine(postgresql_engine).said("error") == []


def test_a_sqlite_column_of_the_same_affinity_is_no_drift(sqlite_engine: Engine) -> None:
    """
    SQLite keeps an INTEGER as it keeps a BIGINT; a column of another kind is found.
    """
    execute(
        sqlite_engine,
        "CREATE TABLE audit_log (id INTEGER PRIMARY KEY, buffer_id CHAR(32), seq INTEGER, recorded_at DATETIME NOT NULL, "
        "occurred_at INTEGER NOT NULL, event_type TEXT NOT NULL, actor TEXT, resource TEXT, outcome TEXT NOT NULL, "
        "correlation_id TEXT, details TEXT)",
        "CREATE UNIQUE INDEX fence ON audit_log (buffer_id, seq)",
    )
    assert examine(sqlite_engine).said("error") == [
        "column audit_log.occurred_at is INTEGER, not DATETIME: values are refused or changed"
    ]


@pytest.fixture
def reader(postgresql_engine: Engine) -> Iterator[Engine]:
    """
    An engine of a user who may only read.
    """
    name = f"reader_{os.getpid()}"
    AuditService(postgresql_engine).create_schema()
    execute(postgresql_engine, f"CREATE ROLE {name} LOGIN", f"GRANT SELECT ON audit_log TO {name}")
    engine = sqlalchemy.create_engine(postgresql_engine.url.set(username=name))
    yield engine
    engine.dispose()
    execute(postgresql_engine, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_missing_right_is_found_by_a_trial_row(reader: Engine) -> None:
    """
    A user who may not INSERT is told so before the first entry is.
    """
    found = examine(reader)
    assert found.exit_code == 1
    assert found.says("error", "permission denied")
    assert any("right to" in finding["remedy"] for finding in found.json["findings"])


def test_a_trigger_that_refuses_is_found(sqlite_engine: Engine) -> None:
    """
    What only a row shows is found by a row.
    """
    AuditService(sqlite_engine).create_schema()
    execute(
        sqlite_engine,
        "CREATE TRIGGER no BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'not today'); END",
    )
    found = examine(sqlite_engine)
    assert found.exit_code == 1
    assert found.says("error", "not today")


def test_a_server_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    """
    Exit code 1 with the driver's words; the rings are looked at all the same.
    """
    engine = sqlalchemy.create_engine("mysql+pymysql://me:secret@127.0.0.1:1/app")
    found = examine(engine, "--ring-dir", tmp_path / "rings")
    assert found.exit_code == 1
    assert found.says("error", "the database cannot be used")
    assert found.json["ring_dirs"] == [str(tmp_path / "rings")]
    assert "secret" not in json.dumps(found.json)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--db", "nonsense"],
        ["--db", "sqlite:///nowhere.db"],
        ["--db", "mysql+pymysql://127.0.0.1:1/app?unheard_of=1"],
    ],
)
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    """
    What names no database is bad usage, not a finding.
    """
    assert run(*arguments).exit_code == 2


def test_an_orphan_waits_for_somebody_to_deliver_it(sqlite_engine: Engine, rings: Path) -> None:
    """
    Entries of ended processes are a warning with the command that delivers them; those for another database are only named.
    """
    AuditService(sqlite_engine).create_schema()
    here = database_name(sqlite_engine)
    leave(rings, f"entry:audit_log@{here}")
    leave(rings, f"row:own@{here}", 2)
    leave(rings, "entry:audit_log@postgresql:db.example:5432/app", 1)
    found = examine(sqlite_engine, "--ring-dir", rings)
    remedies = {
        finding["what"][:9]: finding["remedy"]
        for finding in found.json["findings"]
        if "wait in ring" in finding["what"]
    }
    assert "audit-buffer recover" in remedies["3 entries"]
    assert "only it can deliver" in remedies["2 entries"]
    assert found.says("info", "postgresql:db.example:5432/app")
    assert found.exit_code == 0
    assert len(found.json["rings"]) == 3


def test_damage_is_an_error(sqlite_engine: Engine, rings: Path) -> None:
    """
    A damaged ring, one that was set aside and one of another version each need somebody.
    """
    AuditService(sqlite_engine).create_schema()
    label = f"entry:audit_log@{database_name(sqlite_engine)}"
    damaged, aside, foreign = (leave(rings, label) for _ in range(3))
    flip(damaged, damaged.read_bytes().index(b"[2]"))
    RingFile.adopt(aside).set_aside("the entries 2 to 3 were synced and cannot be read")
    for slot in (0, 4096):
        flip(
            foreign, slot + 8
        )  # the version; the checksum of the header no longer fits, which counts as damage
    found = examine(sqlite_engine, "--ring-dir", rings)
    assert found.exit_code == 1
    assert len([what for what in found.said("error") if "is damaged" in what]) == 2
    assert found.says("error", "written as format version")
    remedies = " ".join(finding["remedy"] for finding in found.json["findings"])
    assert "the intact part is delivered" in remedies
    assert "find out what happened" in remedies
    assert "start the version of the library that wrote it" in remedies


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_the_folder_beside_a_sqlite_file_is_looked_at_by_itself(sqlite_engine: Engine, rings: Path) -> None:
    """
    It is where a buffer puts its ring without being told, so it is examined with and without --ring-dir.
    """
    AuditService(sqlite_engine).create_schema()
    beside = Path(f"{sqlite_engine.url.database}-ring")
    leave(beside, f"entry:audit_log@{database_name(sqlite_engine)}")
    assert examine(sqlite_engine).says("warning", "3 entries")
    found = examine(sqlite_engine, "--ring-dir", rings)
    assert found.says("warning", "3 entries")
    assert found.json["ring_dirs"] == [str(rings), str(beside)]


def test_two_living_writers_of_one_sqlite_file_are_counted(
    sqlite_engine: Engine, rings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The WAL-reset bug matters once several processes write; living rings tell how many do.
    """
    AuditService(sqlite_engine).create_schema()
    monkeypatch.setattr("audit_buffer._assessment._WAL_RESET_BUG", ((3, 7, 0), (4, 0, 0)))
    label = f"entry:audit_log@{database_name(sqlite_engine)}"
    mine = RingFile.create(rings, label=label, size=64 * 1024)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    theirs = RingFile.create(rings, label=label, size=64 * 1024)
    monkeypatch.undo()
    monkeypatch.setattr("audit_buffer._assessment._WAL_RESET_BUG", ((3, 7, 0), (4, 0, 0)))
    assert examine(sqlite_engine, "--ring-dir", rings).says("warning", "2 processes write")
    mine.close()
    theirs.abandon()
    assert not examine(sqlite_engine, "--ring-dir", rings).says("warning", "processes write")


def test_a_folder_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    """
    Entries may be secret; the folder that a buffer makes is its user's alone.
    """
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    assert [finding.what for finding in check_folder(open_to_all) if "others" in finding.what]
    open_to_all.chmod(stat.S_IRWXU)
    assert not [finding for finding in check_folder(open_to_all) if "others" in finding.what]


def test_a_folder_that_is_a_file_takes_no_ring(tmp_path: Path) -> None:
    """
    A place where nothing can be made is an error, also when the folder itself does not exist yet.
    """
    (tmp_path / "file").write_text("")
    assert [
        finding.severity for finding in check_folder(tmp_path / "file" / "rings") if "no ring" in finding.what
    ] == ["error"]
    assert not [
        finding for finding in check_folder(tmp_path / "new" / "rings") if finding.severity == "error"
    ]


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A ring takes up all of its room when it is made.
    """
    monkeypatch.setattr("audit_buffer.commands._ring_check._ROOM", 1 << 62)
    assert [finding for finding in check_folder(tmp_path) if "MiB are free" in finding.what]


def test_people_get_each_finding_with_its_remedy(sqlite_engine: Engine, rings: Path) -> None:
    """
    The text names the database, its settings, the rings, each finding and what to do.
    """
    AuditService(sqlite_engine).create_schema()
    leave(rings, f"entry:audit_log@{database_name(sqlite_engine)}")
    shown = run("--db", url_of(sqlite_engine), "--ring-dir", rings).stdout
    assert "journal_mode" in shown
    assert "3 entries of ended process" in shown
    assert "→ start the application, or audit-buffer recover" in shown
    assert shown.splitlines()[-1].startswith("warning: ")


def test_nothing_found_is_said(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where there is nothing to do, one line says so.
    """
    monkeypatch.setattr("audit_buffer._assessment._WAL_RESET_BUG", ((0,), (0,)))
    monkeypatch.setattr("audit_buffer.commands._ring_check.unsuited_filesystem", lambda path: None)
    AuditService(sqlite_engine).create_schema()
    execute(sqlite_engine, "PRAGMA journal_mode=WAL")
    result = run("--db", url_of(sqlite_engine))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "All is well."
