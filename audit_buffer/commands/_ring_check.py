"""
What a doctor has to say about a folder of ring files. Reads only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from audit_buffer._assessment import Finding
from audit_buffer._ring_recovery import RingReport, RingState, unsuited_filesystem
from audit_buffer.commands._rings import SERVICE_LABEL, file_name
from audit_buffer.commands._text import visible


__all__ = ["assess_rings", "check_folder", "writers_of"]

# A ring of the default size, and one to move to after a failed sync.
_ROOM = 2 * 64 * 1024 * 1024


def writers_of(reports: list[RingReport], database: str) -> int:
    """
    Return how many living processes hold a ring for *database*.
    """
    return len({report.owner_pid for report in reports if report.alive and _is_for(report, database)})


def check_folder(directory: Path) -> Iterator[Finding]:
    """
    Judge the place, whether it exists already or not.
    """
    shown = visible(str(directory))
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            "error", f"no ring can be made in {shown}", f"let this user write to {visible(str(place))}"
        )
    if unsuited := unsuited_filesystem(directory):
        yield Finding(
            "warning", f"{shown} is a poor place for rings: {unsuited}", "name a folder on a local disk"
        )
    if place == directory.absolute() and place.stat().st_mode & 0o077:
        yield Finding("warning", f"others may look into {shown}, where entries wait", f"chmod 700 {shown}")
    if (free := shutil.disk_usage(place).free) < _ROOM:
        yield Finding(
            "warning",
            f"only {free // 1024**2} MiB are free in {shown}; a ring takes up all of its room at once (64 MiB by default)",
            "make room, or lower ring_bytes",
        )


def assess_rings(reports: list[RingReport], database: str) -> Iterator[Finding]:
    """
    Judge what lies in the rings of a folder.

    Args:
        database: As the labels of rings name it; see `database_name()`.
    """
    for report in reports:
        name = file_name(report)
        if report.state is RingState.UNSUPPORTED:
            yield Finding(
                "error", f"{name}: {report.damage}", "start the version of the library that wrote it"
            )
        elif report.damage is not None:
            yield Finding("error", f"ring {name} is damaged: {visible(report.damage)}", _after_damage(report))
        elif report.state is RingState.ORPHAN and report.entries:
            yield _orphan(report, name, database)
        if report.torn is not None:
            yield Finding(
                "info",
                f"ring {name} met a power cut: {visible(report.torn)}",
                'nothing; durability "sync" loses nothing to a power cut',
            )


def _after_damage(report: RingReport) -> str:
    if report.state is RingState.SET_ASIDE:
        return "its intact part was delivered; find out what happened, then move the file away"
    return (
        "start its application, or audit-buffer recover: the intact part is delivered and the file set aside"
    )


def _orphan(report: RingReport, name: str, database: str) -> Finding:
    what = f"{report.entries} entries of ended process {report.owner_pid} wait in ring {name}"
    if not _is_for(report, database):
        return Finding(
            "info",
            f"{what}, for {visible(report.label or '')}",
            "name that database with --db, or start its application",
        )
    if (report.label or "").startswith(SERVICE_LABEL):
        return Finding("warning", what, "start the application, or audit-buffer recover RING_DIR --db URL")
    return Finding("warning", what, "start the application: only it can deliver entries for its own table")


def _is_for(report: RingReport, database: str) -> bool:
    label = report.label or ""
    # A long label is cut short, and ends in "~" and a checksum: nobody can tell.
    return label.endswith(f"@{database}") or "@" not in label or "~" in label
