"""
`audit-buffer demo`: what a domain operation waits for, with the synchronous service and with the buffer.

The same domain loop runs twice on the same event bus against the same database: each operation works for a tenth of a millisecond
and then emits an event, which a handler on the bus records. What is measured is how long `emit()` keeps the operation.

On SQLite both ways of writing are safe against a power cut (WAL, ``synchronous=FULL``), so that the comparison is fair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, Self

import attrs
import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy import Engine, event

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._database import create_audit_log, database
from audit_buffer.commands._domain import domain_events, work
from audit_buffer.commands._shared import output
from audit_buffer.events import DomainEvent, EventBus
from audit_buffer.service import AuditService


__all__ = ["demo"]

_EVENTS = 5000
_WORK = 100e-6  # seconds per domain operation
_PATIENCE = 4.0  # seconds for the synchronous loop, unless --events was given
_BETWEEN_VIEWS = 0.25  # seconds
_PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_TITLES = ("synchronous service", "AuditBuffer")


@attrs.define(kw_only=True)
class Phase:
    """
    One run of the domain loop.

    Attributes:
        title: How the events were recorded.
        planned: Events to emit.
        latencies: Seconds that each `emit()` took.
        loop: Seconds the loop took, with its work.
        total: Seconds until the last entry was committed.
        rows: Rows that the database has gained.
        in_order: Whether they stand there in the order of the events.
    """

    title: str
    planned: int
    latencies: list[float] = attrs.Factory(list)
    loop: float = 0.0
    total: float = 0.0
    rows: int = 0
    in_order: bool = False

    def percentile(self, share: float) -> float:
        """
        Return the latency in microseconds that *share* of the events did not exceed, 0.0 when there is none.
        """
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6 if ordered else 0.0

    def rate(self) -> float:
        """
        Return domain operations per second.
        """
        return len(self.latencies) / self.loop if self.loop else 0.0


@click.command()
@click.option(
    "--events", type=click.IntRange(min=1), help=f"Events of each loop.  [default: {_EVENTS}, within seconds]"
)
@click.option("--db", "url", metavar="URL", help="Write into this database instead; the entries stay there.")
@click.option("--keep", is_flag=True, help="Keep the temporary folder with the database.")
def demo(events: int | None, url: str | None, keep: bool) -> None:
    """
    Run a domain loop twice, first with an audit service that commits each entry before emit() returns, then with the
    buffer around it, and compare what each operation had to wait.

    \b
      audit-buffer demo
      audit-buffer demo --events 20000 --db postgresql+psycopg://me@host/app

    Without --db the database is a SQLite file in a temporary folder, and takes under ten seconds.
    """
    with _place(url, keep=keep) as place, database(place) as engine:
        _write_safely(engine)
        service = AuditService(engine)
        create_audit_log(service)
        phases = [Phase(title=title, planned=events or _EVENTS) for title in _TITLES]
        with View(output(), phases) as view:
            _run_synchronous(service, phases[0], view, None if events else _PATIENCE)
            durability = _run_buffered(service, phases[1], view)
        _report(view.console, phases, durability)


@contextmanager
def _place(url: str | None, *, keep: bool) -> Iterator[str]:
    if url is not None:
        yield url
    elif keep:
        folder = mkdtemp(prefix="audit-demo-")
        yield f"sqlite:///{Path(folder) / 'audit.db'}"
        click.echo(f"Kept: audit-buffer tail --db sqlite:///{Path(folder) / 'audit.db'}")
    else:
        with TemporaryDirectory(prefix="audit-demo-") as folder:
            yield f"sqlite:///{Path(folder) / 'audit.db'}"


def _write_safely(engine: Engine) -> None:
    """
    Give the synchronous service on SQLite the settings that the buffer uses.
    """
    if engine.dialect.name != "sqlite":
        return
    engine.dispose()  # What is pooled was opened without them.

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")


class View:
    """
    The table while it grows: redrawn in place on a terminal, a line for each loop elsewhere.

    It is drawn by the loop itself, between two operations: a thread that draws would disturb what is measured.
    """

    def __init__(self, console: Console, phases: list[Phase]) -> None:
        self.console = console
        self._phases = phases
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self) -> None:
        """
        Redraw, unless that was done a moment ago.
        """
        now = time.monotonic()
        if self._live is not None and now >= self._next:
            self._next = now + _BETWEEN_VIEWS
            self._live.update(_table(self._phases), refresh=True)

    def begin(self, phase: Phase) -> None:
        """
        Announce a loop.
        """
        if self._live is None:
            self.console.print(f"{phase.title}: up to {phase.planned:,} domain operations …")
            self.console.file.flush()


def _run_synchronous(service: AuditService, phase: Phase, view: View, patience: float | None) -> None:
    bus = EventBus()
    bus.subscribe(None, lambda event: service.record(**attrs.asdict(event, recurse=False)))
    _run(service, phase, view, bus, patience, finish=lambda: None)
    recorded = service.latest(phase.rows)
    phase.in_order = _in_order(recorded, phase)


def _run_buffered(service: AuditService, phase: Phase, view: View) -> str:
    bus = EventBus()
    with AuditBuffer(service) as audit:
        bus.subscribe(None, audit.on_event)
        _run(service, phase, view, bus, None, finish=audit.flush)
        durability = audit.durability
    recorded = service.latest(phase.rows)
    dense = [entry.seq for entry in recorded] == list(range(1, phase.rows + 1))
    phase.in_order = dense and _in_order(recorded, phase)
    return durability


def _run(
    service: AuditService,
    phase: Phase,
    view: View,
    bus: EventBus,
    patience: float | None,
    *,
    finish: Callable[[], None],
) -> None:
    view.begin(phase)
    before = service.count()
    started = time.perf_counter()
    for happened in islice(domain_events(), phase.planned):
        work(_WORK)
        emitted = time.perf_counter()
        bus.emit(happened)
        now = time.perf_counter()
        phase.latencies.append(now - emitted)
        phase.loop = now - started
        view.step()
        if patience is not None and phase.loop > patience:
            break
    finish()
    phase.total = time.perf_counter() - started
    phase.rows = service.count() - before


def _in_order(recorded: list[Any], phase: Phase) -> bool:
    events: Iterator[DomainEvent] = islice(domain_events(), len(phase.latencies))
    expected = [(event.event_type, event.resource, event.details) for event in events]
    return [(entry.event_type, entry.resource, entry.details) for entry in recorded] == expected


def _table(phases: list[Phase]) -> Table:
    first, second = phases
    table = Table("", *_TITLES, "ratio", title="What one domain operation waits for")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("operations", *(f"{len(phase.latencies):,}" for phase in phases), "")
    for name, share in _PERCENTILES.items():
        ours, theirs = second.percentile(share), first.percentile(share)
        table.add_row(f"emit() {name}, µs", f"{theirs:,.1f}", f"{ours:,.1f}", _times(theirs, ours))
    table.add_row(
        "operations per second",
        *(f"{phase.rate():,.0f}" for phase in phases),
        _times(second.rate(), first.rate()),
    )
    return table


def _times(larger: float, smaller: float) -> str:
    if not (larger and smaller):
        return ""
    ratio = larger / smaller
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _report(console: Console, phases: list[Phase], durability: str) -> None:
    table = _table(phases)
    table.add_section()
    table.add_row("seconds until all is committed", *(f"{phase.total:.2f}" for phase in phases), "")
    table.add_row("rows in the database", *(f"{phase.rows:,}" for phase in phases), "")
    table.add_row("complete and in order", *("yes" if phase.in_order else "NO" for phase in phases), "")
    console.print(table)
    console.print(
        f"Each operation works for {_WORK * 1e6:.0f} µs and emits one event. "
        f'The buffer ran at durability "{durability}".'
    )
    if len(phases[0].latencies) < phases[0].planned:
        console.print(
            f"The synchronous loop was stopped after {_PATIENCE:.0f} s; --events N runs all of them."
        )
    if not all(phase.in_order for phase in phases):
        raise click.exceptions.Exit(1)
