"""
`audit-buffer doctor`: examine a database and its ring files, and say what to do.

Changes nothing: settings are those of an ordinary connection, trial rows are rolled back, rings are only looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.text import Text
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from audit_buffer._assessment import Finding, assess_settings
from audit_buffer._health import our_tables
from audit_buffer._ring_recovery import RingReport
from audit_buffer.commands._database import engine_for, explain, require_sqlite_file, shown
from audit_buffer.commands._group import Trouble
from audit_buffer.commands._ring_check import assess_rings, check_folder, writers_of
from audit_buffer.commands._rings import described, file_name, rings_in
from audit_buffer.commands._shared import output
from audit_buffer.commands._tables import check_rights, check_tables
from audit_buffer.commands._text import json_line, visible
from audit_buffer.sinks._engines import database_name, sqlite_file
from audit_buffer.sinks._settings import DatabaseSettings, read_settings


__all__ = ["Diagnosis", "diagnose", "doctor"]

_SEVERITIES = ("error", "warning", "info")
_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@click.command()
@click.option(
    "--db", "url", metavar="URL", required=True, help="Database of the application, as a SQLAlchemy URL."
)
@click.option(
    "--ring-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the ring files. The one beside a SQLite file is looked at anyway.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as one JSON object.")
def doctor(url: str, ring_dir: Path | None, as_json: bool) -> None:
    """
    Examine a database and its ring files, and say what to do about each finding.

    \b
      audit-buffer doctor --db postgresql+psycopg://me@host/app --ring-dir /var/lib/app/ring
      audit-buffer doctor --db sqlite:///audit.db --json | jq '.findings[].what'

    Looks at what the database is set to do at a power cut, at the tables, their columns, types and keys, at the right to
    write them (the trial rows are rolled back), at orphaned and damaged rings and at the place they lie in. Changes
    nothing. Ends with 1 when a finding is an error, otherwise with 0.
    """
    require_sqlite_file(url)
    engine = engine_for(url)
    try:
        diagnosis = diagnose(engine, ring_dir)
    finally:
        engine.dispose()
    if as_json:
        click.echo(json_line(_as_object(diagnosis)))
    else:
        _show(diagnosis, output())
    if any(finding.severity == "error" for finding in diagnosis.findings):
        raise click.exceptions.Exit(1)


@attrs.define
class Diagnosis:
    """
    What was looked at, and what was found.
    """

    url: str
    settings: DatabaseSettings | None = None
    tables: list[str] = attrs.Factory(list)
    folders: list[Path] = attrs.Factory(list)
    rings: list[RingReport] = attrs.Factory(list)
    findings: list[Finding] = attrs.Factory(list)


def diagnose(engine: Engine, ring_dir: Path | None) -> Diagnosis:
    """
    Look at everything.
    """
    diagnosis = Diagnosis(url=shown(engine.url), folders=_folders(engine, ring_dir))
    database = database_name(engine)
    for folder in diagnosis.folders:
        reports = rings_in(folder) if folder.exists() else []
        diagnosis.rings += reports
        diagnosis.findings += [*check_folder(folder), *assess_rings(reports, database)]
    try:
        _look_into(engine, diagnosis, writers_of(diagnosis.rings, database))
    except SQLAlchemyError as error:
        diagnosis.findings.append(
            Finding(
                "error",
                f"the database cannot be used: {explain(error)}",
                "check host, port, user and password in the URL, and whether the server runs",
            )
        )
    diagnosis.findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return diagnosis


def _folders(engine: Engine, ring_dir: Path | None) -> list[Path]:
    path = sqlite_file(engine)
    beside = None if path is None else Path(f"{path}-ring").absolute()
    folders = [] if ring_dir is None else [ring_dir.absolute()]
    if beside is not None and beside not in folders and (beside.exists() or ring_dir is None):
        folders.append(beside)
    return folders


def _look_into(engine: Engine, diagnosis: Diagnosis, writers: int) -> None:
    with _connect(engine) as connection:
        settings = diagnosis.settings = read_settings(connection, our_tables())
    diagnosis.findings += assess_settings(settings, writers=writers, of_writer=False)
    tables, drift = check_tables(engine)
    diagnosis.tables = [str(table.name) for table in tables]  # SQLAlchemy's own kind of str is no JSON
    diagnosis.findings += drift
    # Where columns are missing, the trial would only say so again.
    drifted = {finding.what for finding in drift}
    diagnosis.findings += check_rights(
        engine, [table for table in tables if not any(table.name in what for what in drifted)]
    )


def _connect(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except (TypeError, ValueError, RuntimeError) as error:
        # What drivers make of an unknown option in the URL's query, or of a package that a login needs.
        raise Trouble(f"{shown(engine.url)} cannot be used: {explain(error)}") from error


# What people see ------------------------------------------------------------------------------------------------


def _show(diagnosis: Diagnosis, console: Console) -> None:
    console.print(f"database  {diagnosis.url}")
    if diagnosis.settings is not None:
        facts = {"version": diagnosis.settings.version, **diagnosis.settings.values}
        for name, value in facts.items():
            console.print(f"  {name:<32}{visible(value) or '(empty)'}")
    console.print(f"tables    {', '.join(diagnosis.tables) or 'none of ours'}")
    for folder in diagnosis.folders:
        console.print(f"rings     {visible(str(folder))}")
        for report in diagnosis.rings:
            if report.path.parent == folder:
                console.print(f"  {file_name(report)}  {described(report)}, entries: {report.entries:,}")
    console.print()
    for finding in diagnosis.findings:
        heading = Text(f"{finding.severity:<9} ", style=_COLOURS[finding.severity])
        console.print(heading.append(visible(finding.what), style="default not bold"))
        console.print(f"{'':<9} → {visible(finding.remedy)}")
    console.print(_verdict(diagnosis.findings))


def _verdict(findings: list[Finding]) -> str:
    if not findings:
        return "All is well."
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _SEVERITIES}
    return ", ".join(f"{severity}: {count}" for severity, count in counts.items() if count)


def _as_object(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "url": diagnosis.url,
        "ok": all(finding.severity != "error" for finding in diagnosis.findings),
        "database": None if diagnosis.settings is None else attrs.asdict(diagnosis.settings),
        "tables": diagnosis.tables,
        "ring_dirs": [str(folder) for folder in diagnosis.folders],
        "rings": [
            {
                "file": report.path.name,
                "state": report.state.value,
                "owner_pid": report.owner_pid,
                "entries": report.entries,
                "damage": report.damage,
            }
            for report in diagnosis.rings
        ],
        "findings": [attrs.asdict(finding) for finding in diagnosis.findings],
    }
