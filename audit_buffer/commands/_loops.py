"""
What audit does to a domain loop, and what several recording threads do to each other.

The domain loop works 100 µs an event and records it. The work is calibrated once and then counted, not clocked: a loop
that looks at the clock would call the time that the writer takes from it work.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from threading import Barrier, Thread
from time import perf_counter

from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._bench_run import LEVELS, Record, Run, average_size, call, roomy
from audit_buffer.commands._measure import Figure, figure


__all__ = ["busy_thread", "calibrate", "measure_loops", "measure_threads", "spin"]

WORK_SECONDS = 100e-6
_OPERATIONS = 2000
THREADS = 8
# Threads record so quickly that one repetition takes so many times the entries.
_THREADS_TIMES = 8


def measure_loops(run: Run) -> list[Figure]:
    """
    Measure the domain loop alone and with audit at "process", in turn; operations a second of the loop itself.

    The writer works beside it all the while. What it has left when the loop ends, a tenth of a second's worth at most, is
    written outside of the measurement.
    """
    turns = calibrate(WORK_SECONDS)
    # Short turns, so that a neighbour disturbs both; long enough for the writer to write several batches in each.
    operations = min(run.records, _OPERATIONS)
    rounds = max(run.repeat, run.records * run.repeat // operations)
    step = run.steps("domain loop", len(run.kinds) * rounds)
    figures = []
    for kind, events in run.kinds.items():
        alone, audited = [], []
        with roomy(run.service, "process", run.folder, operations, average_size(events)) as buffer:
            _loop(buffer.record, events, operations // 10, turns)
            buffer.flush()
            for _ in range(rounds):
                alone.append({"rate": _loop(_nothing, events, operations, turns)})
                audited.append({"rate": _loop(buffer.record, events, operations, turns)})
                buffer.flush()
                step()
        figures.append(figure("loop", "alone", kind, "", alone, operations * rounds))
        figures.append(figure("loop", "audited", kind, "process", audited, operations * rounds))
    return figures


def calibrate(seconds: float) -> int:
    """
    Return how many turns of `spin()` take so many seconds when nothing else runs.
    """
    turns, best = 1000, float("inf")
    for _ in range(200):
        started = perf_counter()
        spin(turns)
        best = min(best, perf_counter() - started)
    return max(1, round(turns * seconds / best))


def spin(turns: int) -> None:
    """
    Keep the interpreter busy.
    """
    for _ in range(turns):
        pass


def _nothing(*_: object, **__: object) -> None:
    """
    Stand for record() in the loop without audit, so that the call and its arguments are in both.
    """


def _loop(record: Record, events: Sequence[Arguments], operations: int, turns: int) -> float:
    gc.collect(1)
    started = perf_counter()
    for event in islice(cycle(events), operations):
        spin(turns)
        call(record, event)
    return operations / (perf_counter() - started)


@contextmanager
def busy_thread() -> Iterator[None]:
    """
    Keep a thread of pure Python beside what is done meanwhile, as a program that computes does.
    """
    going = True

    def compute() -> None:
        while going:
            spin(1000)

    thread = Thread(target=compute, name="bench-busy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        going = False
        thread.join()


def measure_threads(run: Run) -> list[Figure]:
    """
    Measure calls of `record()` a second of one thread and of eight, all together, the writer at work beside them.
    """
    entries = run.records * _THREADS_TIMES
    step = run.steps("recording threads", len(run.kinds) * len(LEVELS) * run.repeat)
    figures = []
    for kind, events in run.kinds.items():
        for level in LEVELS:
            with roomy(run.service, level, run.folder, entries, average_size(events)) as buffer:
                _threads(buffer.record, buffer.flush, events, entries // 10, 1)
                one, several = [], []
                for _ in range(run.repeat):
                    one.append({"rate": _threads(buffer.record, buffer.flush, events, entries, 1)})
                    several.append({"rate": _threads(buffer.record, buffer.flush, events, entries, THREADS)})
                    step()
            calls = entries * run.repeat
            figures.append(figure("threads", "1 thread", kind, level, one, calls))
            figures.append(figure("threads", f"{THREADS} threads", kind, level, several, calls))
    return figures


def _threads(
    record: Record, finish: Callable[[], object], events: Sequence[Arguments], entries: int, threads: int
) -> float:
    each = max(1, entries // threads)
    barrier = Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for event in islice(cycle(events), each):
            call(record, event)

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work) for _ in range(threads)]
        barrier.wait()
        started = perf_counter()
        for thread in running:
            thread.result()  # a call that failed is no call
        seconds = perf_counter() - started
    finish()
    return each * threads / seconds
