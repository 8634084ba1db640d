"""
One thread records while a 0.2 ms timer signal and finalizers record, too (hazard 6): `python -m tests.flow.under_fire 200000`.

Ends with an AssertionError unless each entry is there once, under the seq that its record() returned.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable

from audit_buffer import AuditBuffer, BufferFull, instrumentation
from audit_buffer.testing import MemorySink
from tests.flow.doubles import PATIENCE


class Noisy:
    """
    An object whose end is worth recording, in a cycle, so that the collector ends it in the middle of anything.
    """

    def __init__(self, record: Callable[[str], None]) -> None:
        self._record = record
        self._self = self

    def __del__(self) -> None:
        self._record("del")


def record_under_fire(records: int) -> None:
    """
    Record so many entries while a 0.2 ms timer and finalizers record, too; compare what was promised with what is there.
    """
    sink = MemorySink()
    audit = AuditBuffer(sink, queue_maxsize=200_000)
    promised: list[tuple[int, str]] = []
    refused: list[str] = []

    def record(kind: str) -> None:
        try:
            promised.append((audit.record(kind), kind))
        except BufferFull:
            refused.append(kind)

    previous = signal.signal(signal.SIGALRM, lambda number, frame: record("signal"))
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        for number in range(records):
            record("main")
            if number % 10 == 0:
                Noisy(record)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    gc.collect()
    audit.close(timeout=PATIENCE)
    stored = {entry.seq: entry.event_type for entry in sink.entries}
    assert sink.seqs == list(range(1, len(promised) + 1)), "dense, in order, each once"
    assert {kind for _, kind in promised} == {"main", "signal", "del"}
    assert all(stored[seq] == kind for seq, kind in promised), "each under the seq it was promised"
    assert "main" not in refused


if __name__ == "__main__":
    instrumentation.set_hooks([])
    gc.set_threshold(50, 5, 5)
    record_under_fire(int(sys.argv[1]))
