"""
When the power goes, a buffer keeps what its level promises (recipe R3; `power_cuts` has the trials).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[2]
FAULTS = (
    "lost",
    "late",
    "doubled",
    "inverted",
    "holes",
    "phantom",
    "leftovers",
    "failed",
    "ended_badly",
)

pytestmark = [pytest.mark.torture, pytest.mark.untraced, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def _power_can_be_cut() -> None:
    if os.geteuid() or not Path("/dev/loop-control").exists() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root, loop devices and mkfs.ext4")


def cut(folder: Path, level: str, target: str, trials: int, *options: str) -> dict[str, Any]:
    """
    Return the tally of so many power cuts.
    """
    command = [sys.executable, "-m", "tests.crash.power_cuts", "--folder", str(folder), "--level", level]
    command += ["--target", target, "--trials", str(trials), *options]
    command += ["--seed", str(random.SystemRandom().randrange(1 << 32))]
    print(" ".join(command[1:]))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:] + (folder / "said").read_text()[-3000:]
    print(ended.stderr)
    tally: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(tally)
    return tally


@pytest.mark.parametrize("target", ["service", "table"])
@pytest.mark.parametrize("level", ["process", "periodic", "sync"])
def test_a_power_cut_takes_no_more_than_the_level_says(
    tmp_path: Path, full: bool, level: str, target: str
) -> None:
    """
    Ring files and database on one disk: a prefix is there after recovery, as long as was promised; 300 times a level
    with --full.
    """
    trials = 150 if full else 6
    tally = cut(tmp_path, level, target, trials)
    assert tally["trials"] == trials
    assert tally["acknowledged"] > trials
    assert {fault: tally[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0)


def test_the_recipe_finds_a_disk_that_lies(tmp_path: Path) -> None:
    """
    Where the ring's fdatasync does nothing, entries are lost at "sync", and the recipe says so: it does cut.
    """
    # Once is enough; it has no mercy with what such a disk makes of a ring file.
    assert cut(tmp_path, "sync", "service", 8, "--no-sync")["lost"] > 0
