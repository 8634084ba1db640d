"""
The pictures of ``audit-buffer bench --plot``: latency by percentile, and how quickly a backlog drains. PNG and SVG of each.

Needs matplotlib, of the extra ``[bench]``; it is imported only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from audit_buffer.commands._group import Trouble
from audit_buffer.commands._measure import Figure


__all__ = ["load_matplotlib", "plot"]

_COLOURS = ("#3b6ea8", "#d9822b", "#4d9078", "#a23b52", "#7a6bb0", "#7f7f7f", "#b8a21c", "#2f9bb3")
_SIZE = (7.2, 4.2)
# Percentages as "one in …": 50 % is one in 2, 99.9 % one in 1,000.
_TICKS = {2: "p50", 10: "p90", 100: "p99", 1000: "p99.9", 10_000: "p99.99"}


def load_matplotlib() -> Any:
    """
    Return `matplotlib.figure.Figure`: no window, no state of the process.

    Raises:
        Trouble: matplotlib is not installed.
    """
    try:
        matplotlib = import_module("matplotlib")
        figure_class = import_module("matplotlib.figure").Figure
    except ModuleNotFoundError as error:
        raise Trouble(
            f"--plot needs {error.name}, which is not installed; install it with: pip install 'audit-buffer[bench]'"
        ) from None
    # Text as text, and the same names in each run: small files that differ only where the picture does.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "audit-buffer"})
    return figure_class


def plot(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """
    Draw what *figures* allow into *folder*, which is made; return the files.

    Raises:
        Trouble: matplotlib is not installed, or the folder cannot be made.
    """
    make = load_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Trouble(f"--plot {folder}: {error.strerror}") from None
    files: list[Path] = []
    for scenario in ("record", "peers"):
        for event in ("small", "real"):
            curves = [
                each for each in figures if each.scenario == scenario and each.event == event and each.curve
            ]
            if curves:
                files += _save(_draw_latency(make, event, curves), folder, f"latency-{scenario}-{event}")
    rates = [each for each in figures if each.scenario == "drain"]
    if rates:
        files += _save(_draw_rates(make, rates), folder, "drain-rates")
    return files


def _draw_latency(make: Any, event: str, curves: Sequence[Figure]) -> Any:
    picture = make(figsize=_SIZE, layout="constrained")
    axes = picture.add_subplot()
    for position, each in enumerate(curves):
        label = f"{each.candidate} ({each.where})" if each.where else each.candidate
        # "One in …" makes a straight axis of the percentages: the tail is where the differences are.
        one_in = [100 / (100 - percent) for percent, _ in each.curve]
        axes.plot(
            one_in,
            [micros for _, micros in each.curve],
            label=label,
            color=_COLOURS[position % len(_COLOURS)],
            linestyle="--" if each.candidate == "floor" else "-",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(_TICKS), list(_TICKS.values()))
    axes.minorticks_off()
    axes.set_xlabel("percentile")
    axes.set_ylabel("µs")
    axes.set_title(f"record() of a {event} event", loc="left")
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return picture


def _draw_rates(make: Any, figures: Sequence[Figure]) -> Any:
    places = list(dict.fromkeys((each.where, each.event) for each in figures))
    names = list(dict.fromkeys(each.candidate for each in figures))
    picture = make(figsize=(_SIZE[0], 1.2 + 0.14 * (len(figures) + len(places))), layout="constrained")
    axes = picture.add_subplot()
    at, ticks, labels = 0, [], []
    for where, event in places:
        mine = [each for each in figures if (each.where, each.event) == (where, event)]
        ticks.append(at + (len(mine) - 1) / 2)
        labels.append(f"{where}, {event}")
        for each in mine:
            axes.barh(at, each.values["rate"], 1, color=_COLOURS[names.index(each.candidate)])
            at += 1
        at += 1  # a gap
    axes.set_xscale("log")
    axes.set_xlim(left=min(each.values["rate"] for each in figures) / 3)
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xlabel("entries a second, committed")
    axes.set_title("draining a backlog", loc="left")
    axes.grid(visible=True, axis="x", linewidth=0.3)
    legend = [axes.barh(0, 0, color=_COLOURS[position], label=name) for position, name in enumerate(names)]
    axes.legend(handles=legend, fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return picture


def _save(picture: Any, folder: Path, name: str) -> list[Path]:
    files = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for file in files:
        # Without a date: the same figures make the same file.
        picture.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {})
    return files
