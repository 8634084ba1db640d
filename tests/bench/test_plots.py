"""
The pictures of `audit-buffer bench --plot`, and what is said where they cannot be drawn.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree as ET

import attrs
import pytest

from audit_buffer.commands import _plots
from audit_buffer.commands._group import Trouble
from audit_buffer.commands._measure import latency
from tests.bench.test_goals import figure


FIGURES = [
    latency("record", "buffered", "small", "process", [list(range(1000, 9000))], [1000.0]),
    latency("record", "floor", "small", "process", [list(range(500, 4500))]),
    figure("drain", 50.0, scenario="drain", where="sqlite", name="rate"),
    figure("sqlite3.executemany", 40.0, scenario="drain", where="sqlite", name="rate"),
]


def test_each_picture_is_a_png_and_an_svg(tmp_path):
    """
    What was measured is drawn twice, for a page and for a slide; what was not, is not drawn.
    """
    files = _plots.plot(FIGURES, tmp_path / "plots")

    assert sorted(file.name for file in files) == [
        "drain-rates.png",
        "drain-rates.svg",
        "latency-record-small.png",
        "latency-record-small.svg",
    ]
    assert all(file.stat().st_size < 100_000 for file in files)
    for file in files:
        if file.suffix == ".svg":
            ET.parse(file)
        else:
            assert file.read_bytes().startswith(b"\x89PNG")


def test_the_same_figures_make_the_same_svg(tmp_path):
    """
    A picture in the repository changes only where its figures do.
    """
    for name in ("first", "second"):
        _plots.plot(FIGURES, tmp_path / name)

    first, second = (
        (tmp_path / name / "latency-record-small.svg").read_bytes() for name in ("first", "second")
    )
    assert first == second


def test_nothing_to_draw_draws_nothing(tmp_path):
    """
    A run without latencies and rates leaves an empty folder.
    """
    assert _plots.plot([attrs.evolve(FIGURES[0], scenario="threads")], tmp_path / "plots") == []


def test_a_missing_matplotlib_is_named_with_the_remedy(monkeypatch):
    """
    Without the extra the message says what to install.
    """
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(Trouble, match=r"pip install 'audit-buffer\[bench\]'"):
        _plots.load_matplotlib()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """
    A file in the place of the folder is a sentence, not a traceback.
    """
    (tmp_path / "plots").write_text("")

    with pytest.raises(Trouble, match="--plot"):
        _plots.plot(FIGURES, tmp_path / "plots")
