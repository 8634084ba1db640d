"""
`audit-buffer inspect` and `audit-buffer recover`: what a killed application has left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_buffer import AuditService
from audit_buffer._codec import EntryCodec
from audit_buffer._ring_file import RingFile
from audit_buffer.commands._moments import parse_moment
from audit_buffer.commands.inspect import _age
from audit_buffer.sinks._entries import EntrySink
from tests.cli.conftest import Run, entries, environment


LABEL = "entry:audit_log"
URL = "sqlite:///audit.db"
RECORDED = 1_688_990_400_000_000  # 2023-07-10 12:00 UTC


def payload(seq: int) -> bytes:
    return EntryCodec(1 << 20).encode(
        RECORDED + seq, f"e{seq}", None, None, "success", {"n": seq}, None, None
    )


def orphan(directory: Path, count: int, *, committed: int = 0, label: str = LABEL) -> Path:
    """
    Leave a ring that holds the entries behind *committed* up to *count*, and has no owner.
    """
    ring = living(directory, count, committed=committed, label=label)
    ring.close()
    return ring.path


def living(directory: Path, count: int, *, committed: int = 0, label: str = LABEL) -> RingFile:
    ring = RingFile.create(directory, label=label, size=512 * 1024)
    for seq in range(1, count + 1):
        assert ring.put(seq, payload(seq))
    if committed:
        ring.take(committed, 1 << 30)
        ring.release(committed)
    return ring


def damage(path: Path, marker: bytes) -> None:
    """
    Change one byte of the entry that holds *marker*.
    """
    content = bytearray(path.read_bytes())
    content[content.index(marker)] ^= 1
    path.write_bytes(content)


@pytest.fixture
def rings(tmp_path: Path) -> Path:
    return tmp_path / "rings"


@pytest.fixture
def _table(tmp_path: Path) -> None:
    """
    The application's database is there.
    """
    service = AuditService(f"sqlite:///{tmp_path / 'audit.db'}")
    service.create_schema()
    service.engine.dispose()


def inspected(run: Run, directory: Path, *, exit_code: int = 0) -> list[dict]:
    ended = run("inspect", directory, "--json")
    assert ended.exit_code == exit_code, ended.output
    return json.loads(ended.stdout)["rings"]


def recovered(run: Run, directory: Path, *arguments: object, exit_code: int = 0, url: str = URL) -> dict:
    ended = run("recover", directory, "--db", url, "--json", *arguments)
    assert ended.exit_code == exit_code, ended.output
    return json.loads(ended.stdout)


# inspect ----------------------------------------------------------------------------------------------------------


def test_an_orphan_is_described(run: Run, rings: Path):
    """
    State, last owner, target, how much it holds, first and last seq, and how old the oldest entry is.
    """
    path = orphan(rings, 12, committed=5)

    (found,) = inspected(run, rings)
    assert (found["file"], found["state"], found["alive"], found["target"]) == (
        path.name,
        "orphan",
        False,
        LABEL,
    )
    assert (found["entries"], found["first_seq"], found["last_seq"]) == (7, 6, 12)
    assert found["bytes"] == sum(len(payload(seq)) for seq in range(6, 13))
    assert found["oldest_recorded_at"] == "2023-07-10T12:00:00.000006Z"

    shown = run("inspect", rings).stdout
    assert "state    orphan, last owned by process" in shown
    assert "entries  7 (" in shown
    assert "seq 6 to 12" in shown
    assert "recorded 2023-07-10 12:00:00 UTC, " in shown


def test_a_living_owner_is_seen_and_not_disturbed(run: Run, rings: Path):
    """
    The ring of a running process is live; its owner goes on, and no byte of the folder changes.
    """
    ring = living(rings, 3)
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in rings.iterdir()}

    (found,) = inspected(run, rings)

    assert (found["state"], found["alive"], found["entries"]) == ("live", True, 3)
    assert "live, owned by process" in run("inspect", rings).stdout
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in rings.iterdir()} == before
    assert ring.put(4, payload(4))
    ring.close()


def test_damage_is_reported_with_exit_code_1(run: Run, rings: Path):
    """
    What stands before the damage counts; the reason is shown, and monitoring can tell by the exit code.
    """
    damage(orphan(rings, 9), b'"e5"')

    (found,) = inspected(run, rings, exit_code=1)

    assert (found["state"], found["entries"], found["last_seq"]) == ("damaged", 4, 4)
    assert found["damage"] in " ".join(run("inspect", rings).stdout.split())


def test_a_file_that_is_no_ring_is_reported(run: Run, rings: Path):
    """
    Garbage in the place of a ring is damage, with nothing known about it.
    """
    orphan(rings, 1).unlink()
    (rings / "x.ring").write_bytes(b"garbage" * 5000)

    (found,) = inspected(run, rings, exit_code=1)
    assert (found["state"], found["owner_pid"], found["target"]) == ("damaged", None, None)
    assert "\n  state    damaged\n" in run("inspect", rings).stdout


def test_entries_of_another_target_are_counted_but_not_read(run: Run, rings: Path):
    """
    The ring of an application's own table is described; when its oldest entry was recorded only the application knows.
    """
    ring = RingFile.create(rings, label="row:plans\x1b[2J", size=64 * 1024)
    ring.put(1, b"\x93opaque")
    ring.close()

    (found,) = inspected(run, rings)
    assert (found["entries"], found["oldest_recorded_at"]) == (1, None)
    shown = run("inspect", rings).stdout
    assert "target   row:plans\\x1b[2J" in shown
    assert "oldest" not in shown


def test_an_empty_folder_holds_no_rings(run: Run, rings: Path):
    """
    Nothing to see is no failure.
    """
    rings.mkdir()

    assert "There are no rings in" in run("inspect", rings).stdout
    assert inspected(run, rings) == []


def test_an_empty_ring_is_described(run: Run, rings: Path):
    """
    A buffer that has nothing to deliver holds a ring all the same.
    """
    ring = living(rings, 0)

    assert "entries  none, in " in run("inspect", rings).stdout
    ring.close()


@pytest.mark.parametrize("command", [("inspect",), ("recover", "--db", URL)])
def test_a_folder_that_does_not_exist_is_bad_usage(run: Run, command: tuple[str, ...]):
    """
    Exit code 2, and nothing is created.
    """
    ended = run(*command, "nosuch")

    assert ended.exit_code == 2
    assert "does not exist" in ended.stderr


@pytest.mark.parametrize(
    ("now", "age"),
    [
        ("12:00:59", "59 s"),
        ("12:01:59", "119 s"),
        ("12:02:00", "2 min"),
        ("14:00:00", "2 h"),
        ("11:00", "0 s"),
    ],
)
def test_ages_are_short(now: str, age: str):
    """
    Seconds, minutes, hours or days; never negative, whatever the clock did.
    """
    recorded = parse_moment("2023-07-10T12:00Z")

    assert (
        _age(recorded, parse_moment(f"2023-07-10T{now}Z")) == f"recorded 2023-07-10 12:00:00 UTC, {age} ago"
    )


# recover ----------------------------------------------------------------------------------------------------------


def test_orphans_are_delivered_into_every_database(run: Run, rings: Path, any_engine: Engine):
    """
    Under their own buffer_id and seq, complete and in order, the older ring first; the files are gone afterwards.
    """
    AuditService(any_engine).create_schema()
    for count in (700, 20):
        orphan(rings, count)

    found = recovered(run, rings, url=any_engine.url.render_as_string(hide_password=False))

    assert found == {"rings": 2, "entries": 720, "written": 720, "already_there": 0, "left": []}
    stored = AuditService(any_engine).entries()
    assert [entry.seq for entry in stored] == [*range(1, 701), *range(1, 21)]
    assert [entry.details for entry in stored] == [{"n": entry.seq} for entry in stored]
    assert list(rings.iterdir()) == []


def test_what_a_killed_process_recorded_is_delivered(run: Run, tmp_path: Path):
    """
    kill -9 behind `record()`: the application never starts again, and nothing is lost.
    """
    code = """
import os, signal
from audit_buffer import AuditBuffer, AuditService
service = AuditService("sqlite:///audit.db")
service.create_schema()
audit = AuditBuffer(service, flush_interval=3600.0)
for number in range(1, 31):
    audit.record(f"e{number}")
    if number == 10:
        audit.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=False)
    assert ended.returncode == -signal.SIGKILL

    ended = run("recover", "audit.db-ring", "--db", URL)

    assert ended.exit_code == 0, ended.output
    assert "rings delivered                  1\nentries                         20" in ended.stdout
    assert [entry.event_type for entry in entries(URL)] == [f"e{number}" for number in range(1, 31)]


@pytest.mark.usefixtures("_table")
def test_delivering_again_doubles_nothing(run: Run, rings: Path, tmp_path: Path):
    """
    Killed between COMMIT and the removal of the file, recovery is repeated: the entries are there already.
    """
    path = orphan(rings, 10)
    shutil.copy(path, tmp_path / "copy")
    recovered(run, rings)
    shutil.copy(tmp_path / "copy", path)

    assert recovered(run, rings) == {"rings": 1, "entries": 10, "written": 0, "already_there": 10, "left": []}
    assert len(entries(URL)) == 10
    assert recovered(run, rings)["rings"] == 0


@pytest.mark.usefixtures("_table")
def test_the_ring_of_a_living_owner_is_refused(run: Run, rings: Path):
    """
    Its owner delivers it; the others are delivered beside it, and exit code 1 says that something is left.
    """
    ring = living(rings, 3)
    orphan(rings, 2)

    ended = run("recover", rings, "--db", URL)

    assert ended.exit_code == 1
    assert f"{ring.path.name}: live, owned by process" in ended.stderr
    assert len(entries(URL)) == 2
    assert ring.put(4, payload(4))
    ring.close()


@pytest.mark.usefixtures("_table")
def test_the_ring_of_another_target_is_left_to_its_application(run: Run, rings: Path):
    """
    Rows of an application's own table go nowhere else.
    """
    path = orphan(rings, 3, label="row:plans")

    found = recovered(run, rings, exit_code=1)

    assert "which only its application can deliver" in found["left"][0]["reason"]
    assert path.exists()


@pytest.mark.usefixtures("_table")
def test_what_was_set_aside_is_not_complained_about_again(run: Run, rings: Path):
    """
    Whoever set a damaged ring aside has said so; for this command there is nothing left to do.
    """
    living(rings, 3, label="row:plans").set_aside("bits flipped")

    assert recovered(run, rings)["left"] == []
    assert inspected(run, rings, exit_code=1)[0]["damage"] == "bits flipped"


@pytest.mark.usefixtures("_table")
def test_another_database_is_noticed(run: Run, rings: Path):
    """
    A ring knows what was committed; a database that does not have it is another one, unless --force says that rows were deleted.
    """
    path = orphan(rings, 10, committed=5)

    found = recovered(run, rings, exit_code=1)
    assert "through 5 are committed, but this database has them only through 0" in found["left"][0]["reason"]
    assert path.exists()
    assert entries(URL) == []

    assert recovered(run, rings, "--force")["written"] == 5
    assert [entry.seq for entry in entries(URL)] == [6, 7, 8, 9, 10]


@pytest.mark.usefixtures("_table")
def test_of_a_damaged_ring_the_intact_part_is_delivered(run: Run, rings: Path):
    """
    The file is set aside for the investigation, and not spoken of again.
    """
    path = orphan(rings, 9)
    damage(path, b'"e5"')

    found = recovered(run, rings, exit_code=1)

    assert (found["entries"], found["written"]) == (4, 4)
    assert "set aside" in found["left"][0]["reason"]
    assert path.with_name(path.name + ".corrupt").exists()
    assert recovered(run, rings)["left"] == []
    assert inspected(run, rings, exit_code=1)[0]["state"] == "set aside"


@pytest.mark.usefixtures("_table")
def test_an_interruption_stops_between_batches_and_the_rest_can_be_delivered_later(
    run: Run, rings: Path, monkeypatch: pytest.MonkeyPatch
):
    """
    Ctrl-C: the batch in hand is finished, the exit code is 130, and the next run goes on behind it.
    """
    orphan(rings, 4500)
    usual = EntrySink.write

    def interrupted(sink: EntrySink, batch: object) -> None:
        usual(sink, batch)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(EntrySink, "write", interrupted)
        assert recovered(run, rings, exit_code=130)["written"] == 4096

    assert recovered(run, rings)["written"] == 404
    assert [entry.seq for entry in entries(URL)] == list(range(1, 4501))


@pytest.mark.usefixtures("_table")
def test_a_database_that_refuses_leaves_the_ring_as_it_is(run: Run, rings: Path, tmp_path: Path):
    """
    Exit code 2 with the driver's words; once the database is mended, the same command delivers.
    """
    path = orphan(rings, 5)
    connection = sqlite3.connect(tmp_path / "audit.db")
    connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )

    ended = run("recover", rings, "--db", URL)
    assert ended.exit_code == 2
    assert "no room" in ended.stderr
    assert path.exists()

    connection.execute("DROP TRIGGER refuse")
    connection.close()
    assert recovered(run, rings)["written"] == 5


@pytest.mark.parametrize(
    ("url", "problem"), [("sqlite:///none.db", "no such file"), (None, "Missing option '--db'")]
)
def test_recovery_needs_the_applications_database(run: Run, rings: Path, url: str | None, problem: str):
    """
    It creates no database: entries in the wrong one would be lost to their application.
    """
    path = orphan(rings, 1)

    ended = run("recover", rings, *(["--db", url] if url else []))

    assert ended.exit_code == 2
    assert problem in ended.stderr
    assert path.exists()
