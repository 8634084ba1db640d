"""
What an entry costs when a thousand wait, and when a million do: to record, to drain, and in memory.

Each level is measured in a process of its own, because memory that an earlier measurement gave back to Python would hide
what this one takes: ``python -m audit_buffer.commands._backlogs`` is that process. Small events only: a million real
ones would be a ring file of three gigabytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._bench_run import (
    LEVELS,
    Run,
    answer,
    arguments_of_child,
    call,
    full_synchronous,
    start_child,
)
from audit_buffer.commands._drains import GatedSink, empty
from audit_buffer.commands._measure import Figure, figure, flatness
from audit_buffer.config import Durability
from audit_buffer.service import AuditService


__all__ = ["measure_backlogs"]

_USUAL = (1_000, 10_000, 100_000, 1_000_000)
_QUICK = (1_000, 10_000)
# Several small backlogs for one large one: so many entries of each size, but no more than so many backlogs.
_ENTRIES_AT_LEAST = 300_000
_ROUNDS_AT_MOST = 20
# What the limit of the memory is held against must be large beside a database connection and its cache.
_MEMORY_FROM = 1_000_000


def measure_backlogs(run: Run) -> list[Figure]:
    """
    Measure microseconds per entry by size of the backlog, and the memory that the largest takes beside its limit.
    """
    # Smaller ones for a run of a few records, which only shows that all of it works.
    scale = max(1, 1000 // run.records)
    sizes = [max(10, size // scale) for size in (_QUICK if run.quick else _USUAL)]
    step = run.steps("backlogs", len(LEVELS) * len(sizes))
    figures = []
    for level in LEVELS:
        child = start_child(
            "_backlogs",
            url=run.service.engine.url.render_as_string(hide_password=False),
            ring_dir=str(run.folder / "ring"),
            level=level,
            event=run.kinds["small"][0],
            sizes=sizes,
            at_least=_ENTRIES_AT_LEAST // (scale if not run.quick else 10 * scale),
        )
        try:
            costs = []
            for _ in sizes:
                costs.append(answer(child))
                step()
            taken = answer(child)
        finally:
            child.communicate()
        figures += _figures(level, sizes, costs, taken)
    return figures


def _figures(
    level: str, sizes: Sequence[int], costs: Sequence[dict[str, float]], taken: dict[str, float]
) -> list[Figure]:
    found = [
        figure("backlog", f"{size:,} entries", "small", level, [cost], size)
        for size, cost in zip(sizes, costs, strict=True)
    ]
    growth = {name: flatness([cost[name] for cost in costs]) for name in ("record", "drain")}
    if sizes[-1] >= _MEMORY_FROM:
        growth["memory"] = taken["grown"] / taken["limit"]
    return [*found, figure("backlog", "growth", "small", level, [growth], sum(sizes))]


def main(
    url: str,
    ring_dir: str,
    level: Durability,
    event: Any,
    sizes: Sequence[int],
    at_least: int,
) -> None:
    """
    Be the process that measures one level.
    """
    service = AuditService(url)
    full_synchronous(service.engine)
    payload = _encoded_size(service, event)
    _measure(service, ring_dir, level, event, 100, payload)  # imports, connection, caches
    before = _most_resident()
    limit = 0
    for size in sizes:
        times = min(_ROUNDS_AT_MOST, max(1, at_least // size))
        rounds = [_measure(service, ring_dir, level, event, size, payload) for _ in range(times)]
        limit = max(each["limit"] for each in rounds)
        _say({name: median(each[name] for each in rounds) for name in ("record", "drain")})
    # The most that was ever resident, the pages of the mapped ring file included.
    _say({"grown": _most_resident() - before, "limit": limit})
    service.engine.dispose()


def _encoded_size(service: AuditService, event: Arguments) -> int:
    """
    Return the bytes that *event* takes of a buffer's bounds.
    """
    sink = GatedSink(service.engine)
    with AuditBuffer(sink, durability="memory") as buffer:
        sink.gate.clear()
        call(buffer.record, event)
        size = buffer.stats().pending_bytes
        sink.gate.set()
    return size


def _measure(
    service: AuditService, ring_dir: str, level: Durability, event: Arguments, entries: int, payload: int
) -> dict[str, Any]:
    """
    Return microseconds per entry of a backlog of so many, in a buffer whose bounds it nearly fills.

    Recording is measured in CPU time of the thread, because a mean over a million calls has every neighbour of the machine in
    it; draining, which waits for the disk, by the clock.
    """
    sink = GatedSink(service.engine)
    # A frame of the ring file has a header and is aligned; a fifth more than needed, or the buffer would warn.
    limit = (entries + 100) * (payload + (0 if level == "memory" else 40)) * 5 // 4
    with AuditBuffer(
        sink,
        durability=level,
        queue_maxsize=(entries + 100) * 5 // 4,
        queue_max_bytes=limit,
        ring_bytes=max(limit, 4 * 1024 * 1024),
        ring_dir=Path(ring_dir),
        adopt_orphans=False,
    ) as buffer:
        call(buffer.record, event)
        buffer.flush()
        empty(sink.engine)
        sink.gate.clear()
        record, started = buffer.record, thread_time()
        for each in repeat(event, entries):
            call(record, each)
        recorded = thread_time() - started
        started = perf_counter()
        sink.gate.set()
        buffer.flush()
        drained = perf_counter() - started
    return {"record": recorded * 1e6 / entries, "drain": drained * 1e6 / entries, "limit": limit}


def _most_resident() -> int:
    """
    Return the most bytes of this program that were in memory at once so far.

    Not getrusage(): its ru_maxrss counts what the parent had when it forked, too.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(**arguments_of_child())
