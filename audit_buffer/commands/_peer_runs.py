"""
The buffer beside its peers: what one `record()` costs, how soon all is committed, and what is lost by default.

By default means: the settings of its authors, and a process that records as fast as it can and returns from its main function
without closing anything. ``python -m audit_buffer.commands._peer_runs`` is that process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from typing import Any

import attrs
from sqlalchemy import text

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._bench_run import (
    LEVELS,
    Run,
    arguments_of_child,
    average_size,
    call,
    roomy,
    start_child,
)
from audit_buffer.commands._group import Trouble
from audit_buffer.commands._measure import Figure
from audit_buffer.commands._peers import ADAPTERS, Adapter, Opened
from audit_buffer.commands._scenarios import Candidate, measure_in_turn
from audit_buffer.schema import audit_log
from audit_buffer.service import AuditService
from audit_buffer.sinks._engines import sqlite_file


__all__ = ["measure_peers"]

# What commits each entry by itself makes one for so many of the others.
_SHARE = 4
# Entries of the process that closes nothing, for one of a repetition; enough to fill the queues that have a bound.
_DEFAULTS_TIMES = 4
_BUFFERED = "buffered"


def measure_peers(run: Run) -> list[Figure]:
    """
    Measure the buffer and each peer that is installed, in turn, all into the same table.
    """
    found = [adapter for adapter in ADAPTERS.values() if adapter.is_installed]
    run.notes.extend(
        f"peer {adapter.name}: {adapter.install} is not installed; pip install 'audit-buffer[bench]'"
        for adapter in ADAPTERS.values()
        if not adapter.is_installed
    )
    arriving = [adapter for adapter in found if adapter.arrives]
    step = run.steps("peers", len(run.kinds) * run.repeat + len(arriving) + 1)
    small = run.kinds["small"]
    lost = {
        name: _lost_by_default(run, name, small, step)
        for name in [*(each.name for each in arriving), _BUFFERED]
    }
    figures = []
    for kind, events in run.kinds.items():
        with _candidates(run, found, average_size(events)) as candidates:
            before = _rows(run.service)
            measured = measure_in_turn("peers", kind, events, candidates, run.records, run.repeat, step)
            _require_all(run, candidates, _rows(run.service) - before)
        figures += [_with_loss(each, lost) for each in measured]
    return figures


@contextmanager
def _candidates(run: Run, found: Sequence[Adapter], size: int) -> Iterator[list[Candidate]]:
    path = str(sqlite_file(run.service.engine))
    with ExitStack() as stack:
        candidates = []
        for level in LEVELS:
            buffer = stack.enter_context(roomy(run.service, level, run.folder, run.records, size))
            # What is judged is the level that users get; beside peers that keep all in memory it has more to do.
            name, where = (_BUFFERED, level) if level == "process" else (f"{_BUFFERED} at {level}", "")
            candidates.append(Candidate(name=name, where=where, record=buffer.record, finish=buffer.flush))
        for adapter in found:
            opened = adapter.open(path, True)
            stack.callback(opened.close)
            candidates.append(
                Candidate(
                    name=adapter.name,
                    where="",
                    record=opened.record,
                    finish=opened.finish,
                    rated=adapter.arrives,
                    share=_SHARE if adapter.commits_each else 1,
                )
            )
        yield candidates


def _require_all(run: Run, candidates: Sequence[Candidate], arrived: int) -> None:
    """
    Raise unless all that was recorded has arrived: rates are compared at zero loss.
    """
    once = [candidate.share for candidate in candidates if candidate.rated]
    warm_up = sum(max(1, max(1, run.records // 10) // share) for share in once)
    recorded = warm_up + run.repeat * sum(max(1, run.records // share) for share in once)
    if arrived != recorded:
        raise Trouble(f"{recorded} entries were recorded by the buffer and its peers, but {arrived} arrived")


def _rows(service: AuditService) -> int:
    with service.engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {audit_log.name}")) or 0)  # noqa: S608


def _with_loss(figure: Figure, lost: dict[str, float]) -> Figure:
    if figure.event != "small" or figure.candidate not in lost:
        return figure
    percent = {"lost by default": lost[figure.candidate]}
    return attrs.evolve(figure, values={**figure.values, **percent}, best={**figure.best, **percent})


def _lost_by_default(run: Run, name: str, events: Sequence[Arguments], step: Callable[[], object]) -> float:
    """
    Return the percentage of the entries that were not in the table when the process had ended.
    """
    adapter = ADAPTERS.get(name)
    entries = run.records * (1 if adapter is not None and adapter.commits_each else _DEFAULTS_TIMES)
    before = _rows(run.service)
    child = start_child(
        "_peer_runs",
        name=name,
        url=run.service.engine.url.render_as_string(hide_password=False),
        events=events[:200],
        entries=entries,
    )
    child.communicate()
    if child.returncode:
        raise Trouble(f"the process that records through {name} ended with exit code {child.returncode}")
    step()
    return round(100 * (entries - (_rows(run.service) - before)) / entries, 2)


def main(name: str, url: str, events: Sequence[Any], entries: int) -> None:
    """
    Be the process that closes nothing.
    """
    service = AuditService(url)
    opened: AuditBuffer | Opened
    if name == _BUFFERED:
        opened = AuditBuffer(service)
    else:
        opened = ADAPTERS[name].open(str(sqlite_file(service.engine)), False)
    for event in islice(cycle(events), entries):
        call(opened.record, event)
    _kept.append(opened)


# An application holds on to its audit log until the interpreter ends.
_kept: list[object] = []


if __name__ == "__main__":
    main(**arguments_of_child())
