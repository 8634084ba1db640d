"""
`audit-buffer inspect`: what lies in a folder of ring files.

Takes no lock, not even for a moment, and writes nothing: safe beside any running application.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from audit_buffer._ring_recovery import RingReport
from audit_buffer.commands._rings import described, file_name, oldest, ring_directory, rings_in
from audit_buffer.commands._text import json_line, visible


__all__ = ["inspect"]


@click.command()
@ring_directory
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a list of the rings.")
def inspect(directory: Path, as_json: bool) -> None:
    """
    Show the ring files in RING_DIR: who owns each, and what it holds that is not known to be in the database.

    \b
      audit-buffer inspect audit.db-ring
      audit-buffer inspect /var/lib/app/ring --json | jq '.rings[] | select(.state != "live")'

    Takes no lock and writes nothing. An orphan is delivered by the next start of its application, or by
    audit-buffer recover. Ends with 1 when a ring is damaged, was set aside, or is of an unknown version.
    """
    reports = rings_in(directory)
    if as_json:
        click.echo(
            json_line({"directory": str(directory), "rings": [_as_object(report) for report in reports]})
        )
    else:
        click.echo("\n".join(map(_as_text, reports)) or f"There are no rings in {visible(str(directory))}.")
    if any(report.damage for report in reports):
        raise click.exceptions.Exit(1)


def _as_object(report: RingReport) -> dict[str, Any]:
    return {
        "file": report.path.name,
        "state": report.state.value,
        "alive": report.alive,
        "owner_pid": report.owner_pid,
        "target": report.label,
        "buffer_id": None if report.buffer_id is None else str(report.buffer_id),
        "entries": report.entries,
        "bytes": report.bytes,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "oldest_recorded_at": oldest(report),
        "file_bytes": report.size,
        "damage": report.damage,
        "torn": report.torn,
    }


def _as_text(report: RingReport) -> str:
    facts = {
        "state": described(report),
        "target": visible(report.label or "") or None,
        "buffer": report.buffer_id and str(report.buffer_id),
        "entries": _entries(report),
        "oldest": _age(oldest(report), datetime.now(UTC)),
        "damage": report.damage and visible(report.damage),
        "torn": report.torn and visible(report.torn),
    }
    shown = [f"  {name:<9}{fact}" for name, fact in facts.items() if fact is not None]
    return "\n".join([file_name(report), *shown])


def _entries(report: RingReport) -> str:
    if not report.entries:
        return f"none, in {decimal(report.size)}"
    return f"{report.entries:,} ({decimal(report.bytes)} of {decimal(report.size)}), seq {report.first_seq} to {report.last_seq}"


def _age(recorded: datetime | None, now: datetime) -> str | None:
    if recorded is None:
        return None
    seconds = max(0, int((now - recorded).total_seconds()))
    age = f"{seconds} s"
    for unit, length in (("min", 60), ("h", 3600), ("d", 86_400)):
        if seconds >= 2 * length:
            age = f"{seconds // length} {unit}"
    return f"recorded {recorded:%Y-%m-%d %H:%M:%S} UTC, {age} ago"
