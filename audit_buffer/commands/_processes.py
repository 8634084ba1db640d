"""
Four processes on one SQLite file, one folder of ring files between them, beside one process that has all the work; each time into an
empty table.

``python -m audit_buffer.commands._processes`` is one of those processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._bench_run import (
    Run,
    answer,
    arguments_of_child,
    average_size,
    call,
    start_child,
    tell,
)
from audit_buffer.commands._drains import empty
from audit_buffer.commands._measure import Figure, figure
from audit_buffer.service import AuditService


__all__ = ["measure_processes"]

PROCESSES = 4
# As many times the entries, so that it is more than the start that is measured: each process prepares its statements, and takes
# small batches first.
_TIMES = 16


def measure_processes(run: Run) -> list[Figure]:
    """
    Measure entries a second from the first `record()` until all are committed, and count errors that say "locked".
    """
    entries = run.records * _TIMES
    step = run.steps("processes on one SQLite file", len(run.kinds) * run.repeat)
    figures = []
    for kind, events in run.kinds.items():
        one, several = list[dict[str, float]](), list[dict[str, float]]()
        for _ in range(run.repeat):
            for processes, rounds in ((1, one), (PROCESSES, several)):
                empty(run.service.engine)
                rounds.append(_race(run, events, processes, entries))
            step()
        recorded = entries * run.repeat
        figures.append(figure("processes", "1 process", kind, "process", one, recorded))
        figures.append(figure("processes", f"{PROCESSES} processes", kind, "process", several, recorded))
    return figures


def _race(run: Run, events: Sequence[Arguments], processes: int, entries: int) -> dict[str, float]:
    arguments = {
        "url": run.service.engine.url.render_as_string(hide_password=False),
        "ring_dir": str(run.folder / "ring"),
        "events": events[:200],
        "entries": entries // processes,
        "size": average_size(events),
    }
    children = [start_child("_processes", **arguments) for _ in range(processes)]
    try:
        for child in children:
            answer(child)  # it is ready
        started = perf_counter()
        for child in children:
            tell(child, "go")
        done = [answer(child) for child in children]
        seconds = perf_counter() - started
    finally:
        for child in children:
            child.communicate()
    locked = sum(each["locked"] for each in done)
    return {"rate": entries // processes * processes / seconds, "locked": float(locked)}


def main(url: str, ring_dir: str, events: Sequence[Any], entries: int, size: int) -> None:
    """
    Be one of the processes: say that all is ready, wait for a line, record and flush, and say how it went.
    """
    errors: list[BaseException] = []
    ring_bytes = max(4 * 1024 * 1024, (2 * entries + 100) * (size + 64))
    service = AuditService(url)
    with AuditBuffer(
        service,
        durability="process",
        ring_dir=Path(ring_dir),
        ring_bytes=ring_bytes,
        adopt_orphans=False,
        on_error=errors.append,
    ) as buffer:
        call(buffer.record, events[0])
        buffer.flush()
        _say({"ready": True})
        sys.stdin.readline()
        for event in islice(cycle(events), entries):
            call(buffer.record, event)
        buffer.flush()
    _say({"locked": sum("locked" in str(error) for error in errors), "errors": len(errors)})
    service.engine.dispose()


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(**arguments_of_child())
