"""
`audit-buffer tail`: the last entries of an audit log, and those that follow.

Reads only. What is printed is safe on a terminal, whatever the entries hold; see `_text`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import attrs
import click

from audit_buffer.commands._columns import Layout
from audit_buffer.commands._database import database, require_audit_log, require_sqlite_file
from audit_buffer.commands._follow import Follower
from audit_buffer.commands._moments import moment_ago
from audit_buffer.commands._shared import database_option, output
from audit_buffer.commands._text import json_line
from audit_buffer.entry import AuditEntry
from audit_buffer.service import AuditService


__all__ = ["tail"]


def _to_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return moment_ago(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} {error}; write 2026-11-24T08:00Z, or 15m, 2h, 1d for a time ago"
        ) from error


@click.command()
@database_option
@click.option(
    "-n", "--lines", "count", type=click.IntRange(min=0), default=20, show_default=True, help="Entries."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries until Ctrl-C (exit code 130).")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05),
    default=0.5,
    show_default=True,
    help="Seconds between two looks while following.",
)
@click.option("--event-type", help="Only entries of this type.")
@click.option("--actor", help="Only entries of this actor.")
@click.option("--resource", help="Only entries about this resource.")
@click.option("--buffer-id", type=click.UUID, help="Only entries of this buffer.")
@click.option(
    "--since", callback=_to_moment, help="Only what occurred then or later: ISO 8601, or 15m, 2h, 1d ago."
)
@click.option("--until", callback=_to_moment, help="Only what occurred before then.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with all fields.")
def tail(url: str, count: int, follow: bool, interval: float, as_json: bool, **filters: Any) -> None:
    """
    Print the last entries of the audit log, the newest last.

    \b
      audit-buffer tail -n 50 --since 1h --actor agent-7
      audit-buffer tail --follow --db postgresql+psycopg://me@host/app
      audit-buffer tail --json -n 1000 | jq 'select(.outcome != "success")'

    Times are UTC. Control characters and the like are printed as escapes; in --json the values stay equal.
    """
    require_sqlite_file(url)
    with database(url) as engine:
        require_audit_log(engine)
        service = AuditService(engine)
        printer = _json_printer() if as_json else _table_printer()
        if not follow:
            printer(service.latest(count, **filters))
            return
        follow_entries(service, printer, threading.Event().wait, count=count, interval=interval, **filters)


def follow_entries(
    service: AuditService,
    printer: Callable[[Iterable[AuditEntry]], None],
    wait: Callable[[float], bool],
    *,
    count: int,
    interval: float,
    **filters: Any,
) -> None:
    """
    Print the last *count* entries and then the new ones.

    Args:
        wait: Called with *interval* between two looks; True ends it.
    """
    newest = max((entry.id or 0 for entry in service.latest(1)), default=0)
    follower = Follower(partial(_fetch, service, filters), newest)
    printer(follower.last(count))
    while not wait(interval):
        for entries in follower.fresh():
            printer(entries)


def _fetch(
    service: AuditService, filters: dict[str, Any], limit: int, after_id: int | None
) -> list[AuditEntry]:
    return service.latest(limit, after_id=after_id, **filters)


def _json_printer() -> Callable[[Iterable[AuditEntry]], None]:
    def print_json(entries: Iterable[AuditEntry]) -> None:
        for entry in entries:
            click.echo(json_line(attrs.asdict(entry, recurse=False)))

    return print_json


def _table_printer() -> Callable[[Iterable[AuditEntry]], None]:
    """
    Return a function that prints entries under one heading, in the widths that fit the first of them.
    """
    console = output()
    layout: Layout | None = None

    def print_table(entries: Iterable[AuditEntry]) -> None:
        nonlocal layout
        entries = list(entries)
        if layout is None:
            layout = Layout(entries, console.width if console.is_terminal else None)
            console.print(layout.heading())
        for entry in entries:
            console.print(layout.row(entry))
        console.file.flush()

    return print_table
