"""
SQLite: a second writer that holds the lock, and disks that fail (HAZARD 23: the row is there although COMMIT raised).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from tests.database.worlds import TARGETS, World


def test_a_second_writer_that_holds_the_file_is_waited_for(sqlite_engine: Engine) -> None:
    """
    For a third of statement_timeout, then the batch comes again; the file is ours when the other one is done.
    """
    with World(sqlite_engine, "service", statement_timeout=0.3) as world:
        world.record()
        world.flush()
        with sqlite_engine.connect() as other:
            other.exec_driver_sql("BEGIN IMMEDIATE")
            world.record(3)
            world.begin_flush()
            for _ in range(2):
                assert "database is locked" in str(world.next_error())
            other.rollback()
        world.assert_exact()


# What strace runs: it flushes one entry after the other, and prints what became of them.
PROGRAM = """
import json, sys
import sqlalchemy as sa
from audit_buffer import instrumentation
from tests.database.worlds import World

instrumentation.set_hooks([])
engine = sa.create_engine("sqlite:///" + sys.argv[1])
with World(engine, sys.argv[2]) as world:
    for _ in range(6):
        world.record()
        world.flush()
    errors = []
    while not world.errors.empty():
        errors.append(str(world.next_error()))
    print(json.dumps({"numbers": world.numbers(), "errors": errors}))
engine.dispose()
"""


def run_with_failing(call: str, when: int, file: Path, target: str) -> dict[str, list[str]]:
    """
    Run the program; the *when*-th system call *call* of its process ends in EIO.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    inject = f"inject={call}:error=EIO:when={when}"
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    program = [sys.executable, "-c", PROGRAM, str(file), target]
    done = subprocess.run([*command, *program], capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def schema(file: Path, target: str) -> None:
    """
    Make the tables while nothing fails.
    """
    engine = sa.create_engine(f"sqlite:///{file}")
    with World(engine, target):
        pass
    engine.dispose()


@pytest.mark.parametrize("target", TARGETS)
def test_a_sync_that_fails_in_commit(tmp_path: Path, target: str) -> None:
    """
    SQLite says that the COMMIT failed, and may have committed it all the same.
    """
    failed = 0
    for when in (3, 4, 5):
        file = tmp_path / f"{when}.db"
        schema(file, target)
        found = run_with_failing("fdatasync", when, file, target)
        assert found["numbers"] == [1, 2, 3, 4, 5, 6]
        failed += any("disk I/O error" in error for error in found["errors"])
    assert failed


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_every_system_call_fails_once(tmp_path: Path, call: str, target: str, *, full: bool) -> None:
    """
    Each call of the kind in turn, from the first one on.
    """
    trials, failed = 0, 0
    for when in range(1, 31 if full else 6):
        file = tmp_path / f"{when}.db"
        schema(file, target)
        found = run_with_failing(call, when, file, target)
        trials += 1
        failed += bool(found["errors"])
        assert found["numbers"] == [1, 2, 3, 4, 5, 6]
    print(f"\nsqlite {target} {call} fails: {trials} runs, {failed} with an error, 0 lost, 0 doubled")
