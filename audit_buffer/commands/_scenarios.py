"""
What one `record()` costs its caller: the synchronous service, the buffer at each level, and the floor, in turn.

A candidate is a `record()` with the service's arguments. The synchronous service and each buffer write to the same
database; the floors do, for the same event, what no `record()` of that durability can do without: read the clock,
encode, and store (into a deque, or with a checksum into a mapped file). What the clock itself takes is measured, too, and
subtracted from every call.

Called by one thread; the machine should be idle, and need not be: the repetitions of the candidates interleave.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from mmap import mmap
from pathlib import Path
from statistics import median
from struct import Struct
from tempfile import TemporaryFile
from time import perf_counter, perf_counter_ns, time_ns
from typing import Any
from zlib import crc32

import attrs
import msgspec

from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._bench_run import LEVELS, Record, Run, average_size, roomy
from audit_buffer.commands._measure import Figure, latency


__all__ = ["Candidate", "measure_in_turn", "measure_record"]

# A synchronous record() takes so much longer that fewer say as much: one for so many buffered ones, and on a slow disk no
# more than these seconds hold, in all repetitions together.
_SYNCHRONOUS_SHARE = 10
_SYNCHRONOUS_SECONDS = 4.0


@attrs.frozen(kw_only=True)
class Candidate:
    """
    One `record()` to measure.

    Attributes:
        where: Durability level; "" for a candidate that has none.
        finish: Ends a repetition: returns when all that was recorded has arrived.
        rated: Whether entries a second mean anything here.
        share: It makes one *share*-th of the records,
        seconds: and ends a kind of event early when that takes longer.
    """

    name: str
    where: str
    record: Record
    finish: Callable[[], object]
    rated: bool = True
    share: int = 1
    seconds: float = 3600.0


def measure_record(run: Run) -> list[Figure]:
    """
    Measure every candidate with every kind of event.
    """
    step = run.steps("record()", len(run.kinds) * run.repeat)
    figures = []
    for kind, events in run.kinds.items():
        with candidates(run, average_size(events)) as found:
            figures += measure_in_turn("record", kind, events, found, run.records, run.repeat, step)
    return figures


def measure_in_turn(
    scenario: str,
    kind: str,
    events: Sequence[Arguments],
    found: Sequence[Candidate],
    records: int,
    repeat: int,
    step: Callable[[], object],
) -> list[Figure]:
    """
    Return the latency of each candidate's `record()`, after *repeat* repetitions of each in turn.
    """
    calls: list[list[list[int]]] = [[] for _ in found]
    rates: list[list[float]] = [[] for _ in found]
    for candidate in found:
        # Imports, caches, threads and files are there after this.
        _repetition(candidate, events, max(1, records // 10), repeat)
    for _ in range(repeat):
        for position, candidate in enumerate(found):
            timings, seconds = _repetition(candidate, events, records, repeat)
            calls[position].append(timings)
            if candidate.rated:
                rates[position].append(len(timings) / seconds)
        step()
    return [
        latency(scenario, candidate.name, kind, candidate.where, calls[position], rates[position])
        for position, candidate in enumerate(found)
    ]


def _repetition(
    candidate: Candidate, events: Sequence[Arguments], records: int, repeat: int
) -> tuple[list[int], float]:
    records = max(1, records // candidate.share)
    gc.collect(1)  # each candidate begins with as much garbage as the others
    clock = _clock_overhead()
    started = perf_counter()
    timings = _time_calls(candidate.record, events, records, candidate.seconds / repeat)
    candidate.finish()
    seconds = perf_counter() - started
    return [max(1, timing - clock) for timing in timings], seconds


def _clock_overhead() -> int:
    """
    Return the nanoseconds that two readings of the clock are apart with nothing between them.
    """
    clock = perf_counter_ns
    return int(median(-(clock() - clock()) for _ in range(201)))


def _time_calls(record: Record, events: Sequence[Arguments], times: int, seconds: float) -> list[int]:
    """
    Return the nanoseconds of each call, every argument written out as applications write them.
    """
    timings: list[int] = []
    append, clock = timings.append, perf_counter_ns
    until = clock() + int(seconds * 1e9)
    for event_type, actor, resource, outcome, details, correlation_id in islice(cycle(events), times):
        before = clock()
        record(
            event_type,
            actor=actor,
            resource=resource,
            outcome=outcome,
            details=details,
            correlation_id=correlation_id,
        )
        after = clock()
        append(after - before)
        if after > until:
            break
    return timings


@contextmanager
def candidates(run: Run, size: int) -> Iterator[list[Candidate]]:
    """
    Yield what is compared.

    Args:
        size: Bytes of one entry, on average.
    """
    with ExitStack() as stack:
        found = [
            Candidate(
                name="synchronous",
                where="",
                record=run.service.record,
                finish=lambda: None,
                share=_SYNCHRONOUS_SHARE,
                seconds=_SYNCHRONOUS_SECONDS * run.records / 5000,
            )
        ]
        for level in LEVELS:
            buffer = stack.enter_context(roomy(run.service, level, run.folder, run.records, size))
            found.append(Candidate(name="buffered", where=level, record=buffer.record, finish=buffer.flush))
            found.append(stack.enter_context(_FLOORS[level](run.folder, 2 * run.records * size)))
        yield found


@contextmanager
def _memory_floor(folder: Path, size: int) -> Iterator[Candidate]:
    entries: deque[bytes] = deque()
    append, encode = entries.append, msgspec.json.Encoder().encode

    def record(
        event_type: str,
        *,
        actor: str | None = None,
        resource: str | None = None,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        append(encode((time_ns(), None, event_type, actor, resource, outcome, correlation_id, details)))

    yield Candidate(name="floor", where="memory", record=record, finish=entries.clear, rated=False)


@contextmanager
def _process_floor(folder: Path, size: int) -> Iterator[Candidate]:
    encode, pack = msgspec.json.Encoder().encode, Struct("<QII").pack
    at = 0

    def rewind() -> None:
        nonlocal at
        at = 0

    with TemporaryFile(dir=folder) as file:
        file.write(bytes(size))  # not sparse: the store must not wait for a block
        file.flush()
        mapping = mmap(file.fileno(), 0)

        def record(
            event_type: str,
            *,
            actor: str | None = None,
            resource: str | None = None,
            outcome: str = "success",
            details: dict[str, Any] | None = None,
            correlation_id: str | None = None,
        ) -> None:
            nonlocal at
            payload = encode((time_ns(), None, event_type, actor, resource, outcome, correlation_id, details))
            body = at + 16
            end = body + len(payload)
            mapping[body:end] = payload
            mapping[at:body] = pack(at, len(payload), crc32(payload))
            at = end

        yield Candidate(name="floor", where="process", record=record, finish=rewind, rated=False)
        mapping.close()


_FLOORS = {"memory": _memory_floor, "process": _process_floor}
