"""
Killed at any moment, a buffer loses nothing, doubles nothing and inverts nothing (recipe R1; `random_kills` has the trials).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url


ROOT = Path(__file__).parents[2]
FAULTS = ("lost", "doubled", "inverted", "phantom", "leftovers", "ended_badly")
LEVELS = ("process", "periodic", "sync")


def kill(url: str, ring_dir: Path, level: str, target: str, trials: int, by: str = "KILL") -> None:
    command = [sys.executable, "-m", "tests.crash.random_kills", "--url", url, "--ring-dir", str(ring_dir)]
    command += ["--level", level, "--target", target, "--trials", str(trials), "--signal", by]
    # Drawn here, so that a hang shows it, too.
    command += ["--seed", str(random.SystemRandom().randrange(1 << 32))]
    print(" ".join(command[1:]))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    tally = json.loads(ended.stdout.splitlines()[-1])
    print(tally)
    assert tally["trials"] == trials
    assert tally["acknowledged"] > trials
    assert {fault: tally[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0), ended.stderr[-3000:]


@pytest.mark.parametrize("level", LEVELS)
def test_kill_9_loses_nothing(tmp_path: Path, level: str) -> None:
    """
    What record() returned is in the table after the next start, once, in order, and nothing else is.
    """
    kill(f"sqlite:///{tmp_path / 'audit.db'}", tmp_path / "rings", level, "service", 12)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["service", "table"])
@pytest.mark.parametrize("level", LEVELS)
def test_kill_9_loses_nothing_however_often(tmp_path: Path, full: bool, level: str, target: str) -> None:
    """
    As above, with the application's own table too; 500 times each with --full, which makes 1,000 a level.
    """
    kill(f"sqlite:///{tmp_path / 'audit.db'}", tmp_path / "rings", level, target, 500 if full else 12)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["service", "table"])
def test_kill_9_loses_nothing_on_postgresql(
    tmp_path: Path, postgresql_engine: Engine, full: bool, target: str
) -> None:
    """
    As above, on a server that still works on the killed process's last transaction when the next one starts.
    """
    url = make_url(postgresql_engine.url).render_as_string(hide_password=False)
    kill(url, tmp_path / "rings", "process", target, 100 if full else 10)


@pytest.mark.untraced  # coverage takes a lock that a signal handler then waits for
@pytest.mark.parametrize("level", ["process", "memory"])
def test_a_handled_sigterm_loses_nothing(tmp_path: Path, level: str) -> None:
    """
    Wherever in the program it lands, also while the writer's thread is being started: everything is written, and it ends.
    """
    kill(f"sqlite:///{tmp_path / 'audit.db'}", tmp_path / "rings", level, "service", 6, by="TERM")


@pytest.mark.untraced  # coverage takes a lock that a signal handler then waits for
@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("level", [*LEVELS, "memory"])
def test_a_handled_sigterm_loses_nothing_however_often(tmp_path: Path, full: bool, level: str) -> None:
    """
    As above; 200 times a level with --full.
    """
    kill(
        f"sqlite:///{tmp_path / 'audit.db'}",
        tmp_path / "rings",
        level,
        "service",
        200 if full else 8,
        by="TERM",
    )
