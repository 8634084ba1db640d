"""
`benchmarks/where_time_goes.py` still fits the library that it rebuilds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import where_time_goes


def test_every_step_is_measured_for_every_event_and_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    One row for each step, one column for each event and level, and the whole at the end; no file is left behind.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["where_time_goes.py", "--rounds", "1"])
    where_time_goes.main()
    table = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [len(row) for row in table] == [5] * len(table)
    names = [row[0].strip() for row in table]
    assert names[-1] == "**`record()`**"
    assert {"clock, in microseconds", "lock", "commit word", "store (a copy, a deque)"} <= set(names)
    assert all(float(cell) > 0 for cell in table[-1][1:])
    assert list(tmp_path.iterdir()) == []
