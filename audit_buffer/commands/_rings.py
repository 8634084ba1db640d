"""
The ring files of a directory, as `inspect` and `recover` speak of them.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
import msgspec

from audit_buffer._codec import EntryCodec, from_micros
from audit_buffer._ring_recovery import RingReport
from audit_buffer._ring_recovery import inspect as inspect_rings
from audit_buffer.commands._text import visible
from audit_buffer.schema import audit_log


__all__ = ["SERVICE_LABEL", "described", "oldest", "ring_directory", "rings_in"]

# What the header of a ring says whose entries go to the service's table; see `recorder_for()`.
SERVICE_LABEL = f"entry:{audit_log.fullname}"

ring_directory = click.argument(
    "directory", metavar="RING_DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)


def rings_in(directory: Path) -> list[RingReport]:
    """
    Look at every ring file without touching any.
    """
    return inspect_rings(directory)


def described(report: RingReport) -> str:
    """
    Return what has become of the ring, and who has or had it.
    """
    if report.alive:
        return f"{report.state.value}, owned by process {report.owner_pid}"
    if report.owner_pid is None:
        return report.state.value
    return f"{report.state.value}, last owned by process {report.owner_pid}"


def oldest(report: RingReport) -> datetime | None:
    """
    Return when the oldest entry was recorded; None when there is none, or only its application can read it.
    """
    if report.oldest_payload is None:
        return None
    try:
        return from_micros(EntryCodec.decode(report.oldest_payload).recorded)
    except (msgspec.MsgspecError, OverflowError):
        return None


def file_name(report: RingReport) -> str:
    """
    Return the name of the file, safe to print.
    """
    return visible(report.path.name)
