"""
How quickly a backlog gets into a database, beside the usual way to insert many rows: the same rows in the same batches.

On SQLite that is raw `sqlite3.executemany` of tuples that were made before the clock started (in WAL with FULL, one
transaction a batch, as the writer has it); on a server SQLAlchemy Core's ``connection.execute(insert(table), rows)``. Both
write into the same table, emptied each time. Each is measured with nothing else to do, and beside a thread that computes.
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from threading import Event
from time import perf_counter
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import Engine, insert, text

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._bench_run import Run, average_size, call, roomy
from audit_buffer.commands._loops import busy_thread
from audit_buffer.commands._measure import Figure, figure
from audit_buffer.schema import audit_log
from audit_buffer.service import AuditService
from audit_buffer.sinks._engines import sqlite_file
from audit_buffer.sinks._entries import EntrySink
from audit_buffer.sinks._protocol import Batch
from audit_buffer.sinks._rows import COLUMNS


__all__ = [
    "GatedSink",
    "batches_of",
    "database_kind",
    "empty",
    "gated",
    "measure_drains",
    "rows_of_events",
]

# A backlog is drained so quickly that one repetition takes so many times the entries of the others.
_TIMES = 4
# Beside a busy thread executemany takes up to 2 ms a row: so many of the rows, and one for so many records, say as much.
_BUSY_ROWS = 600
_BUSY_SHARE = 6
_SYNCHRONOUS_ENTRIES = 20

_INSERT = f"INSERT INTO {audit_log.name} ({', '.join(COLUMNS)}) VALUES ({','.join('?' * len(COLUMNS))})"  # noqa: S608  (names of ours)


class GatedSink(EntrySink):
    """
    The service's own sink, which writes nothing while its gate is shut, and keeps the size of each batch it was given.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.engine = engine
        self.gate = Event()
        self.gate.set()
        self.sizes: list[int] = []

    def write(self, batch: Batch) -> None:
        """
        Wait for the gate, and write.
        """
        self.gate.wait()
        self.sizes.append(len(batch.stored))
        super().write(batch)


def measure_drains(run: Run) -> list[Figure]:
    """
    Measure the drain of a backlog from the ring at "process" into each database of the run.
    """
    services = (run.service, *run.others)
    step = run.steps("draining a backlog", len(services) * len(run.kinds) * run.repeat)
    figures = []
    for service in services:
        for kind, events in run.kinds.items():
            figures += _measure_database(run, service, kind, events, step)
    return figures


def _measure_database(
    run: Run, service: AuditService, kind: str, events: Sequence[Arguments], step: Callable[[], object]
) -> list[Figure]:
    where = database_kind(service.engine)
    usual = _Sqlite3(service.engine) if where == "sqlite" else _Core(service.engine)
    entries = run.records * _TIMES
    rows = rows_of_events(events, entries)
    busy_rows = min(_BUSY_ROWS, max(1, run.records // _BUSY_SHARE))
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
    with gated(run, service, entries, average_size(events)) as (buffer, sink):
        for _ in range(run.repeat):
            for place, beside in ((where, nullcontext), (f"{where}, busy", busy_thread)):
                drained = _drain(buffer, sink, events, entries, beside)
                some = rows[:busy_rows] if beside is busy_thread else rows
                inserted = usual.insert(some, sink.sizes, beside)
                rounds.setdefault(("drain", place), []).append({"rate": drained})
                rounds.setdefault((usual.name, place), []).append({"rate": inserted})
            rounds.setdefault(("synchronous", where), []).append({"rate": _synchronous(service, events)})
            step()
    return [
        figure("drain", candidate, kind, place, values, entries * run.repeat)
        for (candidate, place), values in rounds.items()
    ]


def database_kind(engine: Engine) -> str:
    """
    Return "sqlite", "postgresql", "mariadb" or the name of another dialect; asks the server.
    """
    with engine.connect():
        return "mariadb" if getattr(engine.dialect, "is_mariadb", False) else engine.dialect.name


@contextmanager
def gated(
    run: Run, service: AuditService, entries: int, size: int
) -> Iterator[tuple[AuditBuffer, GatedSink]]:
    """
    Yield a buffer at "process" and its sink, the writer's connection open and its statements prepared.
    """
    sink = GatedSink(service.engine)
    with roomy(sink, "process", run.folder, entries, size) as buffer:
        try:
            yield buffer, sink
        finally:
            sink.gate.set()


def _drain(
    buffer: AuditBuffer,
    sink: GatedSink,
    events: Sequence[Arguments],
    entries: int,
    beside: Callable[[], Any],
) -> float:
    """
    Return the entries a second at which a backlog of so many is committed.
    """
    for event in islice(cycle(events), 200):
        call(buffer.record, event)
    buffer.flush()
    empty(sink.engine)
    sink.gate.clear()
    sink.sizes.clear()
    for event in islice(cycle(events), entries):
        call(buffer.record, event)
    gc.collect(1)
    with beside():
        started = perf_counter()
        sink.gate.set()
        buffer.flush()
        return entries / (perf_counter() - started)


def empty(engine: Engine) -> None:
    """
    Empty `audit_log`.
    """
    statement = "DELETE FROM" if engine.dialect.name == "sqlite" else "TRUNCATE TABLE"
    with engine.connect() as connection:
        connection.execute(text(f"{statement} {audit_log.name}"))
        connection.commit()
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _synchronous(service: AuditService, events: Sequence[Arguments]) -> float:
    started = perf_counter()
    for event in islice(cycle(events), _SYNCHRONOUS_ENTRIES):
        call(service.record, event)
    return _SYNCHRONOUS_ENTRIES / (perf_counter() - started)


def rows_of_events(events: Sequence[Arguments], entries: int) -> list[dict[str, Any]]:
    """
    Return ready-made rows of `audit_log`: what the drain has to make of its bytes is there already.
    """
    buffer_id, moment = uuid4(), datetime.now(UTC)
    details = [(event, msgspec.json.encode(event[4]).decode()) for event in events]
    rows = []
    for seq, (event, json_text) in enumerate(islice(cycle(details), entries), start=1):
        event_type, actor, resource, outcome, _, correlation_id = event
        at = moment + timedelta(microseconds=10 * seq)
        values = (
            buffer_id,
            seq,
            at,
            at,
            event_type,
            actor,
            resource,
            outcome,
            correlation_id,
            json_text,
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def batches_of(rows: Sequence[Any], sizes: Sequence[int]) -> Iterator[Sequence[Any]]:
    """
    Yield *rows* in batches of these sizes, the last size again and again if they do not suffice.
    """
    at, size = 0, len(rows)
    for position in range(len(rows)):
        if at >= len(rows):
            return
        size = max(1, sizes[position]) if position < len(sizes) else size
        yield rows[at : at + size]
        at += size


class _Sqlite3:
    """
    Raw `sqlite3.executemany`, on a connection of its own.
    """

    name = "sqlite3.executemany"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._path = str(sqlite_file(engine))

    def insert(
        self, rows: Sequence[dict[str, Any]], sizes: Sequence[int], beside: Callable[[], Any]
    ) -> float:
        """
        Return rows a second, all of them committed.
        """
        empty(self._engine)
        tuples = [
            (
                row["buffer_id"].hex,
                row["seq"],
                _text(row["recorded_at"]),
                _text(row["occurred_at"]),
                *(row[name] for name in COLUMNS[4:]),
            )
            for row in rows
        ]
        gc.collect(1)
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            with beside():
                started = perf_counter()
                for batch in batches_of(tuples, sizes):
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(_INSERT, batch)
                    connection.execute("COMMIT")
                return len(rows) / (perf_counter() - started)


def _text(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds")


class _Core:
    """
    SQLAlchemy Core's executemany.
    """

    name = "Core executemany"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def insert(
        self, rows: Sequence[dict[str, Any]], sizes: Sequence[int], beside: Callable[[], Any]
    ) -> float:
        """
        Return rows a second, all of them committed.
        """
        empty(self._engine)
        gc.collect(1)
        with self._engine.connect() as connection, beside():
            started = perf_counter()
            for batch in batches_of(rows, sizes):
                connection.execute(insert(audit_log), batch)
                connection.commit()
            return len(rows) / (perf_counter() - started)
