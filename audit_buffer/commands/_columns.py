"""
Entries as lines of a table that fits its terminal.

On a terminal each entry takes one line: columns as wide as the entries need, the widest cut first, details in what is
left. Anywhere else (a pipe, a file) nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from audit_buffer.commands._text import json_line, visible
from audit_buffer.entry import AuditEntry


__all__ = ["Layout"]

_NAMES = ("occurred (UTC)", "event type", "actor", "resource", "outcome")
# Cells that a column keeps, however narrow the terminal is.
_LEAST = (19, 8, 6, 6, 7)
# Cells that a column has when the first entries say nothing about it.
_USUAL = (23, 24, 20, 20, 10)
# Of a terminal, what is left to the details.
_DETAILS_SHARE = 4
_GAP = "  "


class Layout:
    """
    The widths of the columns.

    Args:
        first: The entries by which the widths are chosen.
        width: Cells of the terminal, or None where nothing is to be cut.
    """

    def __init__(self, first: Iterable[AuditEntry], width: int | None) -> None:
        rows = [_cells(entry) for entry in first]
        widths = [max(map(cell_len, column)) for column in zip(_NAMES, *rows, strict=True)]
        if not rows:
            widths = list(_USUAL)
        self._width = width
        self._widths = widths if width is None else _fitted(widths, width - width // _DETAILS_SHARE)

    def heading(self) -> Text:
        """
        Return the names of the columns.
        """
        return Text(self._line([*_NAMES], "details"), style="bold")

    def row(self, entry: AuditEntry) -> Text:
        """
        Return one entry.
        """
        details = "" if entry.details is None else json_line(entry.details)
        style = "" if entry.outcome == "success" else "yellow"
        return Text(self._line(_cells(entry), details), style=style)

    def _line(self, cells: list[str], details: str) -> str:
        if self._width is None:
            padded = [
                cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, self._widths, strict=True)
            ]
            return _GAP.join([*padded, details]).rstrip()
        sized = [
            set_cell_size(cut(cell, width), width)
            for cut, cell, width in zip(_CUTTERS, cells, self._widths, strict=True)
        ]
        return _cut(_GAP.join([*sized, details]).rstrip(), self._width)


def _cells(entry: AuditEntry) -> list[str]:
    occurred = entry.occurred_at.isoformat(sep=" ", timespec="milliseconds").partition("+")[0]
    texts = (entry.event_type, entry.actor or "-", entry.resource or "-", entry.outcome)
    return [occurred, *map(visible, texts)]


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _cut_start(text: str, width: int) -> str:
    # The end of a path or an ARN says more than its start.
    return text if cell_len(text) <= width else "…" + set_cell_size(text[::-1], width - 1)[::-1]


# The first column loses its milliseconds, which needs no mark.
_CUTTERS: tuple[Callable[[str, int], str], ...] = (set_cell_size, _cut, _cut_start, _cut_start, _cut)


def _fitted(widths: list[int], available: int) -> list[int]:
    """
    Return *widths*, the widest made narrower one by one until they fit, but none narrower than it has to be.
    """
    widths = list(widths)
    available -= len(_GAP) * len(widths)
    while sum(widths) > available:
        excess, column = max(
            (width - least, column) for column, (width, least) in enumerate(zip(widths, _LEAST, strict=True))
        )
        if excess <= 0:
            break
        widths[column] -= 1
    return widths
