"""
The progress of a replay on standard error: a bar over the bytes of a file, a spinner for a pipe, nothing but complaints
where standard error is no terminal.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    FileSizeColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from audit_buffer.commands._shared import errors


__all__ = ["ReplayProgress"]


class ReplayProgress:
    """
    A context that shows how far a replay is.

    Args:
        total: Bytes to come, or None when nobody knows.
    """

    def __init__(self, total: int | None) -> None:
        console = errors()
        counts = TextColumn("{task.fields[committed]:,} committed · {task.fields[bad]:,} bad")
        columns: tuple[ProgressColumn, ...] = (SpinnerColumn(), FileSizeColumn(), counts)
        if total is not None:
            columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn(), counts)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("replay", total=total, committed=0, bad=0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, consumed: int, *, committed: int, bad: int) -> None:
        """
        Show these numbers.
        """
        self._progress.update(self._task, completed=consumed, committed=committed, bad=bad)

    def say(self, message: str) -> None:
        """
        Print a line beside the bar.
        """
        self._progress.console.print(message, soft_wrap=True)
