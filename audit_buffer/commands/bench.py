"""
`audit-buffer bench`: the targets of this library, measured on this machine.

Each scenario yields figures (`_scenarios`, `_loops`, `_drains`, …), `_goals` holds them against what is wanted, and
`_bench_report` and `_plots` show it. Whatever is compared is measured in turn in one run. The SQLite file is a new one below the
current folder (a folder in memory would make every COMMIT look cheap), removed afterwards.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import sqlalchemy
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from audit_buffer._usual import HAS_SPEEDUPS
from audit_buffer.commands._backlogs import measure_backlogs
from audit_buffer.commands._bench_events import SMALL, Arguments, read_events, synthetic_event
from audit_buffer.commands._bench_report import (
    failures,
    figure_tables,
    markdown,
    report,
    summary,
    target_table,
)
from audit_buffer.commands._bench_run import Run, full_synchronous
from audit_buffer.commands._drains import database_kind, measure_drains
from audit_buffer.commands._goals import judge
from audit_buffer.commands._idle import measure_idle, measure_imports
from audit_buffer.commands._loops import measure_loops, measure_threads
from audit_buffer.commands._measure import Figure
from audit_buffer.commands._peer_runs import measure_peers
from audit_buffer.commands._plots import load_matplotlib, plot
from audit_buffer.commands._processes import measure_processes
from audit_buffer.commands._scenarios import measure_record
from audit_buffer.errors import ConfigError
from audit_buffer.service import AuditService


__all__ = ["bench"]

_USUAL = (5000, 5)
_QUICK = (1000, 3)

SCENARIOS: dict[str, Callable[[Run], list[Figure]]] = {
    "record": measure_record,
    "loop": measure_loops,
    "drain": measure_drains,
    "threads": measure_threads,
    "processes": measure_processes,
    "backlog": measure_backlogs,
    "idle": measure_idle,
    "import": measure_imports,
    "peers": measure_peers,
}
_BY_DEFAULT = ("record", "loop", "drain")
# What takes seconds, and says something then.
_BY_QUICK = ("record", "loop", "drain", "threads", "idle", "import")


@click.command()
@click.option("--full", is_flag=True, help="Everything: all scenarios, peers included. Some minutes.")
@click.option("--peers", is_flag=True, help="Also the peers that are installed; see the extra [bench].")
@click.option(
    "--only",
    "chosen",
    multiple=True,
    type=click.Choice(list(SCENARIOS)),
    help="Only this scenario; may be given several times.",
)
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: fewer entries, shorter waits.")
@click.option("--records", type=click.IntRange(min=10), help="Entries per repetition.  [default: 5000]")
@click.option("--repeat", type=click.IntRange(min=1), help="Repetitions, taken in turn.  [default: 5]")
@click.option(
    "--events",
    "events_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="NDJSON file of the real events; an invented CloudTrail record otherwise.",
)
@click.option(
    "--db",
    "urls",
    metavar="URL",
    multiple=True,
    help="Drain into this database, too; it must not have a table audit_log yet. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the tables in Markdown.")
@click.option(
    "--plot",
    "plots",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw latencies and drain rates into this folder, PNG and SVG; needs the extra [bench].",
)
@click.option(
    "--check", is_flag=True, help="End with exit code 1 when a ratio is far from what it should be."
)
def bench(
    full: bool,
    peers: bool,
    chosen: tuple[str, ...],
    quick: bool,
    records: int | None,
    repeat: int | None,
    events_file: Path | None,
    urls: tuple[str, ...],
    as_json: bool,
    as_markdown: bool,
    plots: Path | None,
    check: bool,
) -> None:
    """
    Hold this library against its targets, on this machine.

    \b
    What record() costs, a domain loop with it, how quickly a backlog drains (a minute):
      audit-buffer bench
    The same on your servers, with your events:
      audit-buffer bench --events events.ndjson --db postgresql+psycopg://me@host/empty
    The whole table, with plots (some minutes, on an idle machine):
      audit-buffer bench --full --plot plots
    In continuous integration (20 seconds):
      audit-buffer bench --quick --check

    What is compared takes turns in one run, with the same events; the ratios count, the rest moves with the machine.
    "short" misses what is wanted, "failed" is beyond the slack as well and ends --check with exit code 1.

    \b
    record     record() beside the synchronous service, and beside the floor     *
    loop       a domain loop of 100 µs an event, with audit and without          *
    drain      a backlog into the database, beside executemany; idle and busy    *
    threads    eight recording threads beside one
    processes  four processes on one SQLite file beside one
    backlog    cost per entry of a backlog of 10^3 to 10^6, and its memory
    idle       wake-ups and CPU of an idle buffer in 60 s
    import     import audit_buffer beside import sqlalchemy
    peers      logging's queue, loguru, OpenTelemetry, a queue and a thread, QuestDB

    Those marked * run by default; with --quick also threads, idle and import.
    """
    if plots is not None:
        load_matplotlib()  # before minutes of measuring
    usual = _QUICK if quick else _USUAL
    names = chosen or _scenarios(full=full, peers=peers, quick=quick)
    settings: dict[str, Any] = {
        "records": records or usual[0],
        "repeat": repeat or usual[1],
        "quick": quick,
        "scenarios": list(names),
        "events": "synthetic" if events_file is None else events_file.name,
    }
    # How busy the machine was before: who reads the figures should know.
    load = round(os.getloadavg()[0], 1)
    kinds = {"small": [SMALL], "real": _real_events(events_file)}
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                TemporaryDirectory(prefix="audit-bench-", dir=Path.cwd(), ignore_cleanup_errors=True)
            )
        )
        services = [stack.enter_context(_service(f"sqlite:///{folder / 'audit.db'}"))]
        services += [stack.enter_context(_service(url)) for url in urls]
        console = Console(stderr=True)
        progress = stack.enter_context(
            Progress(console=console, transient=True, disable=not console.is_terminal)
        )
        run = Run(
            kinds=kinds,
            service=services[0],
            others=services[1:],
            folder=folder,
            records=settings["records"],
            repeat=settings["repeat"],
            quick=quick,
            steps=lambda name, total: _steps(progress, name, total),
        )
        figures = [figure for name in names for figure in SCENARIOS[name](run)]
        machine = _machine(services, load)
    targets = judge(figures)
    if as_json:
        click.echo(json.dumps(report(machine, settings, figures, targets, run.notes), indent=2))
    elif as_markdown:
        lines = [*summary(machine, settings), *(f"Not measured: {note}" for note in run.notes)]
        click.echo(markdown(lines, figures, targets), nl=False)
    else:
        console = Console()
        console.print(*summary(machine, settings), sep="\n", highlight=False)
        console.print(*figure_tables(figures), target_table(targets), sep="\n")
        console.print(*(f"not measured: {note}" for note in run.notes), sep="\n", markup=False)
    if plots is not None:
        for file in plot(figures, plots):
            click.echo(str(file), err=True)
    if check and failures(targets):
        raise click.exceptions.Exit(1)


def _scenarios(*, full: bool, peers: bool, quick: bool) -> tuple[str, ...]:
    """
    Return the names of what is to be measured, in the order of `SCENARIOS`.
    """
    if full:
        return tuple(SCENARIOS)
    return (_BY_QUICK if quick else _BY_DEFAULT) + (("peers",) if peers else ())


def _steps(progress: Progress, name: str, total: int) -> Callable[[], object]:
    task = progress.add_task(name, total=total)
    return lambda: progress.advance(task)


def _real_events(file: Path | None) -> list[Arguments]:
    if file is None:
        return [synthetic_event()]
    try:
        return read_events(file)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--events") from None


@contextmanager
def _service(url: str) -> Iterator[AuditService]:
    """
    Yield a service with a table of its own, which is gone afterwards.
    """
    try:
        service = AuditService(url)
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--db") from None
    full_synchronous(service.engine)
    try:
        _create_own_table(service)
        try:
            yield service
        finally:
            service.metadata.drop_all(service.engine)
    finally:
        service.engine.dispose()


def _create_own_table(service: AuditService) -> None:
    try:
        exists = inspect(service.engine).has_table(service.table.name)
        if not exists:
            service.create_schema()
    except SQLAlchemyError as error:
        raise click.BadParameter(str(error).splitlines()[0], param_hint="--db") from None
    if exists:
        raise click.BadParameter(
            f"{service.engine.url!r} has a table {service.table.name} already; name a database without one, "
            "because the entries of the benchmark go there and the table is dropped at the end",
            param_hint="--db",
        )


def _machine(services: Sequence[AuditService], load: float) -> dict[str, Any]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "speedups": HAS_SPEEDUPS,
        "load": load,
        "sqlalchemy": sqlalchemy.__version__,
        "databases": [_database(service) for service in services],
    }


def _database(service: AuditService) -> str:
    kind = database_kind(service.engine)
    return f"{kind} {'.'.join(map(str, service.engine.dialect.server_version_info or ()))}"
