"""
Killed at any moment while a batch is narrowed, and again while the next process goes on with that: each entry is in the table once,
in order, or in quarantine once (`narrowing_kills` has the trials).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine


ROOT = Path(__file__).parents[2]


def kill(engine: Engine, ring_dir: Path, target: str, stride: int) -> None:
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.crash.narrowing_kills", "--url", url, "--ring-dir", str(ring_dir)]
    command += ["--target", target, "--stride", str(stride)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    tally = json.loads(ended.stdout.splitlines()[-1])
    print(f"\n{engine.dialect.name} {target} kills while a batch is narrowed: {tally}")
    assert tally["kills"] > 60 // stride
    assert tally["faults"] == []


@pytest.mark.parametrize("target", ["service", "table"])
def test_a_kill_while_a_batch_is_narrowed(sqlite_engine: Engine, tmp_path: Path, target: str) -> None:
    """
    SQLite, every twelfth moment.
    """
    kill(sqlite_engine, tmp_path / "rings", target, 12)


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ["service", "table"])
def test_a_kill_at_each_moment_of_narrowing(
    any_engine: Engine, tmp_path: Path, target: str, *, full: bool
) -> None:
    """
    Every moment with --full, on SQLite and on both servers.
    """
    kill(any_engine, tmp_path / "rings", target, 1 if full else 12)
