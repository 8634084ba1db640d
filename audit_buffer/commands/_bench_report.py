"""
How `audit-buffer bench` shows a run: the object of ``--json``, tables for a terminal, the same tables in Markdown.

The functions are pure; what they return is printed by the command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from rich.table import Table

from audit_buffer.commands._goals import Target
from audit_buffer.commands._measure import Figure


__all__ = ["failures", "figure_tables", "markdown", "report", "summary", "target_table"]

_COLOURS = {"pass": "green", "short": "yellow", "failed": "red"}
_TITLES = {
    "record": "record()",
    "loop": "domain loop, 100 µs of work an event",
    "drain": "draining a backlog",
    "threads": "recording threads",
    "processes": "processes on one SQLite file",
    "backlog": "backlogs",
    "idle": "an idle buffer",
    "import": "imports",
    "peers": "peers",
}
# Name of a value: its heading, and how many digits behind the point.
_VALUES = {
    "p50": ("p50, µs", 2),
    "p99": ("p99, µs", 1),
    "p999": ("p99.9, µs", 1),
    "rate": ("per second", 0),
    "lost by default": ("lost by default, %", 1),
    "locked": ("“locked” errors", 0),
    "record": ("record(), µs of CPU per entry", 2),
    "drain": ("drain, µs per entry", 2),
    "memory": ("memory / limit", 2),
    "wakeups": ("wake-ups", 0),
    "cpu": ("CPU, µs", 0),
    "ms": ("ms of CPU", 1),
}
_TARGET_HEADINGS = ("target", "event", "where", "measured", "wanted", "--check", "")
_LEFT = 3


def report(
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    figures: Sequence[Figure],
    targets: Sequence[Target],
    notes: Sequence[str],
) -> dict[str, Any]:
    """
    Return the object that `--json` prints; *passed* is what `--check` makes its exit code of.
    """
    return {
        "version": 2,
        "machine": dict(machine),
        "settings": dict(settings),
        "figures": [attrs.asdict(each) for each in figures],
        "targets": [attrs.asdict(each) for each in targets],
        "not_measured": list(notes),
        "passed": not failures(targets),
    }


def failures(targets: Sequence[Target]) -> list[Target]:
    """
    Return what is beyond its slack.
    """
    return [target for target in targets if target.verdict == "failed"]


def summary(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """
    Return two lines about where and how it was measured.
    """
    where = [
        machine["python"],
        f"{'with' if machine['speedups'] else 'without'} speedups",
        f"SQLAlchemy {machine['sqlalchemy']}",
        *machine["databases"],
        machine["platform"],
        f"{machine['cpus']} CPUs (load before: {machine['load']:g})",
    ]
    return [
        ", ".join(where),
        f"{settings['repeat']} repetitions of {settings['records']} entries; real events: {settings['events']}",
    ]


def target_table(targets: Sequence[Target]) -> Table:
    """
    Return the targets for a terminal.
    """
    table = Table(title="targets", title_justify="left")
    for position, heading in enumerate(_TARGET_HEADINGS):
        table.add_column(heading, justify="left" if position < _LEFT or not heading else "right")
    for target in targets:
        *cells, verdict = _target_cells(target)
        table.add_row(*cells, f"[{_COLOURS[verdict]}]{verdict}[/]")
    return table


def figure_tables(figures: Sequence[Figure]) -> list[Table]:
    """
    Return a table of figures for each scenario, for a terminal.
    """
    tables = []
    for title, headings, rows in _figure_rows(figures):
        table = Table(title=title, title_justify="left")
        for position, heading in enumerate(headings):
            table.add_column(heading, justify="left" if position < _LEFT else "right")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(lines: Sequence[str], figures: Sequence[Figure], targets: Sequence[Target]) -> str:
    """
    Return the same as a piece of a page: *lines*, the targets, and the figures below them.
    """
    # What --check insists on says nothing about the machine.
    columns = [position for position, heading in enumerate(_TARGET_HEADINGS) if heading != "--check"]
    headings = [_TARGET_HEADINGS[position] for position in columns]
    rows = [[_target_cells(target)[position] for position in columns] for target in targets]
    for row in rows:
        row[-1] = row[-1] if row[-1] == "pass" else f"**{row[-1]}**"
    parts = [*lines, "### Targets", _markdown_table(headings, rows)]
    for title, names, cells in _figure_rows(figures):
        parts += [f"### Figures: {title}", _markdown_table(names, cells)]
    return "\n\n".join(parts) + "\n"


def _target_cells(target: Target) -> list[str]:
    sign = "≥" if target.at_least else "≤"
    bounds = ["" if bound is None else f"{sign} {bound:g}" for bound in (target.wanted, target.slack)]
    return [target.name, target.event, target.where, f"{target.value:,.2f}", *bounds, target.verdict]


def _figure_rows(figures: Sequence[Figure]) -> list[tuple[str, list[str], list[list[str]]]]:
    """
    Return title, headings and rows of each scenario; a column for each value that one of its figures has.
    """
    found = []
    for scenario in dict.fromkeys(figure.scenario for figure in figures):
        mine = [figure for figure in figures if figure.scenario == scenario]
        names = [name for name in _VALUES if any(name in figure.values for figure in mine)]
        headings = ["candidate", "event", "where", *(_VALUES[name][0] for name in names)]
        rows = [
            [figure.candidate, figure.event, figure.where, *(_value_cell(figure, name) for name in names)]
            for figure in mine
        ]
        found.append((_TITLES.get(scenario, scenario), headings, rows))
    return found


def _value_cell(figure: Figure, name: str) -> str:
    value = figure.values.get(name)
    return "" if value is None else f"{value:,.{_VALUES[name][1]}f}"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if position < _LEFT or not heading else "--:" for position, heading in enumerate(headings)]
    lines = [headings, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
