"""
`audit-buffer quarantine`: what a person can do about entries that the database refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditService, TableSink
from audit_buffer._codec import EntryCodec
from audit_buffer._ring_file import RingFile
from audit_buffer.schema import quarantine_table
from tests.cli.conftest import Run
from tests.rules.poison import POISON, allow, forbid


@pytest.fixture
def url(any_engine: Engine) -> str:
    """
    A database with entries 2 and 4 of five in quarantine.
    """
    service = AuditService(any_engine)
    service.create_schema()
    forbid(any_engine, "audit_log", "actor")
    with AuditBuffer(service, durability="memory", flush_interval=60.0) as audit:
        for number in range(1, 6):
            audit.record(
                "fact", actor=POISON if number in (2, 4) else "me", details={"number": number, "half": 0.5}
            )
    return any_engine.url.render_as_string(hide_password=False)


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_list_show_and_export_say_all_that_is_known(run: Run, url: str) -> None:
    """
    One line each, for people and for programs; the exported bytes are the entry's own.
    """
    result = run("quarantine", "list", "--db", url)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    found = lines(run("quarantine", "list", "--json", "--db", url).stdout)
    assert [(row["seq"], row["entry"]["details"]["number"]) for row in found] == [(2, 2), (4, 4)]  # type: ignore[index]
    buffer_id = found[0]["buffer_id"]
    shown = run("quarantine", "show", "--db", url, "--buffer-id", buffer_id, "--seq", 4).stdout
    assert "poison" in shown
    assert '"number":4' in shown
    exported = lines(run("quarantine", "export", "--db", url).stdout)
    payload = base64.b64decode(str(exported[0]["payload"]))
    assert EntryCodec.decode(payload).details_object() == {"number": 2, "half": 0.5}
    assert run("quarantine", "show", "--db", url, "--buffer-id", buffer_id, "--seq", 3).exit_code == 2


def test_retry_puts_the_original_in_the_place_of_its_quarantine_row(
    run: Run, url: str, any_engine: Engine
) -> None:
    """
    While the cause is there nothing changes; afterwards the log is what it would have been.
    """
    before = AuditService(any_engine).entries()
    result = run("quarantine", "retry", "--db", url)
    assert result.exit_code == 1
    assert "poison" in result.stderr
    assert AuditService(any_engine).entries() == before
    allow(any_engine, "audit_log")
    result = run("quarantine", "retry", "--db", url, "--buffer-id", before[0].buffer_id.hex, "--seq", 2)  # type: ignore[union-attr]
    assert (result.exit_code, result.stdout) == (0, "1 of 1 entries are where they belong\n")
    assert run("quarantine", "retry", "--db", url).exit_code == 0
    found = AuditService(any_engine).entries()
    assert [(entry.id, entry.seq) for entry in found] == [(entry.id, entry.seq) for entry in before]
    assert [entry.actor for entry in found] == ["me", POISON, "me", POISON, "me"]
    assert [entry.details for entry in found] == [{"number": number, "half": 0.5} for number in range(1, 6)]
    result = run("quarantine", "list", "--db", url)
    assert (result.exit_code, result.stdout) == (0, "")


def test_rows_of_an_own_table_are_brought_back_by_its_name(run: Run, any_engine: Engine) -> None:
    """
    Out of the companion table, into the table that --table names; without it they stay.
    """
    table = sa.Table(
        "trail",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("what", sa.String(60)),
    )
    sink = TableSink(any_engine, table)
    table.create(any_engine)
    sink.create_schema()
    forbid(any_engine, "trail", "what")
    with AuditBuffer(sink, durability="memory", flush_interval=60.0) as audit:
        for what in ("a", POISON, "b"):
            audit.record(what=what)
    url = any_engine.url.render_as_string(hide_password=False)
    (found,) = lines(run("quarantine", "list", "--json", "--db", url).stdout)
    assert (found["seq"], found["entry"]) == (2, {"what": POISON})
    assert run("quarantine", "retry", "--db", url, "--table", "trail").exit_code == 1
    allow(any_engine, "trail")
    assert "--table" in run("quarantine", "retry", "--db", url).stderr
    assert run("quarantine", "retry", "--db", url, "--table", "trail").exit_code == 0
    with any_engine.connect() as connection:
        assert connection.scalars(sa.select(table.c.what).order_by(table.c.id)).all() == ["a", "b", POISON]
        assert connection.execute(sa.select(quarantine_table)).all() == []
    with pytest.raises(LookupError):
        sink.retry_quarantined(audit.buffer_id, 2)


def test_what_an_application_recorded_under_that_name_is_not_in_quarantine(
    run: Run, any_engine: Engine
) -> None:
    """
    A row is a quarantine row by its details, not by its event type alone.
    """
    service = AuditService(any_engine)
    service.create_schema()
    service.record("audit_buffer.quarantined", outcome="quarantined", details={"payload": 1})
    service.record("audit_buffer.quarantined", outcome="quarantined")
    url = any_engine.url.render_as_string(hide_password=False)
    assert run("quarantine", "list", "--db", url).exit_code == 0


def test_a_number_alone_names_no_entry(run: Run) -> None:
    """
    Two buffers have an entry 3 each.
    """
    result = run("quarantine", "retry", "--seq", 3)
    assert result.exit_code == 2
    assert "--buffer-id" in result.stderr


# While recovering ---------------------------------------------------------------------------------------------------


def orphan(folder: Path, buffer_id: UUID, *actors: str) -> None:
    """
    Leave the ring of a process that is gone.
    """
    ring = RingFile.create(folder, label="entry:audit_log", size=1 << 20, buffer_id=buffer_id)
    encode = EntryCodec(1 << 20).encode
    for seq, actor in enumerate(actors, 1):
        assert ring.put(seq, encode(seq, "fact", actor, None, "success", None, None, None))
    ring.close()


def test_recover_sets_aside_what_is_refused_and_says_so(run: Run, tmp_path: Path, any_engine: Engine) -> None:
    """
    Everything else of the ring is delivered, the file goes, and exit code 1 says that something wants to be looked at.
    """
    service = AuditService(any_engine)
    service.create_schema()
    forbid(any_engine, "audit_log", "actor")
    old = uuid4()
    orphan(tmp_path / "rings", old, "a", POISON, "c")
    url = any_engine.url.render_as_string(hide_password=False)
    result = run("recover", tmp_path / "rings", "--db", url, "--json")
    assert result.exit_code == 1
    assert "quarantined" in result.stderr
    assert json.loads(result.stdout)["entries"] == 3
    assert [entry.actor for entry in service.entries(buffer_id=old)] == ["a", None, "c"]
    assert not list((tmp_path / "rings").iterdir())


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
@pytest.mark.parametrize("passes", [False, True])
def test_recover_gives_a_foreign_key_its_time_and_goes_on(
    run: Run,
    tmp_path: Path,
    name: str,
    passes: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    An entry whose parent is missing is tried as often as the buffer would; then it is set aside, and what comes behind is written.
    """
    engine: Engine = request.getfixturevalue(f"{name}_engine")
    AuditService(engine).create_schema()
    binary = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if name == "mariadb" else ""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE person (id VARCHAR(768){binary} PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO person VALUES ('me')")
        connection.exec_driver_sql("ALTER TABLE audit_log ADD FOREIGN KEY (actor) REFERENCES person (id)")
    pauses = 0

    def no_pauses(*_: float) -> Iterator[float]:
        nonlocal pauses
        while True:
            pauses += 1
            if passes and pauses == 5:
                with engine.begin() as connection:
                    connection.exec_driver_sql("INSERT INTO person VALUES ('missing')")
            yield 0.0

    monkeypatch.setattr("audit_buffer.commands.recover.retry_delays", no_pauses)
    orphan(tmp_path / "rings", uuid4(), "me", "me", "missing", "me")
    url = engine.url.render_as_string(hide_password=False)
    result = run("recover", tmp_path / "rings", "--db", url, "--json")
    assert result.exit_code == (0 if passes else 1)
    assert pauses == (5 if passes else 7)
    found = AuditService(engine).entries()
    assert [entry.actor for entry in found] == ["me", "me", "missing" if passes else None, "me"]
    assert json.loads(result.stdout)["written"] == 4
    assert not list((tmp_path / "rings").glob("*.ring"))


def test_recover_keeps_both_of_two_rings_that_went_different_ways(
    run: Run, tmp_path: Path, any_engine: Engine
) -> None:
    """
    The second one's entries stand under a new buffer_id, which is named.
    """
    service = AuditService(any_engine)
    service.create_schema()
    old = uuid4()
    orphan(tmp_path / "one", old, "a", "b1")
    orphan(tmp_path / "two", old, "a", "b2", "c2")
    url = any_engine.url.render_as_string(hide_password=False)
    assert run("recover", tmp_path / "one", "--db", url).exit_code == 0
    result = run("recover", tmp_path / "two", "--db", url)
    assert result.exit_code == 1
    assert "go on as buffer" in result.stderr
    found = [(entry.buffer_id == old, entry.seq, entry.actor) for entry in service.entries()]
    assert found == [(True, 1, "a"), (True, 2, "b1"), (False, 2, "b2"), (False, 3, "c2")]
    assert not list((tmp_path / "two").iterdir())
