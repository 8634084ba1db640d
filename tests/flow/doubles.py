"""
Doubles of the flow: sinks with a gate, clocks that tell when somebody sleeps, and a channel with its writer.

Nothing here sleeps: a gate is an event that the test sets, and a `SleepLog` hands each wait to the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from threading import Condition, Event, Thread
from typing import Any, Self
from uuid import UUID

from audit_buffer._admission import Admission
from audit_buffer._channel import Channel
from audit_buffer._ring import MemoryRing, Ring
from audit_buffer._ring_file import RingFile
from audit_buffer._state import Attention
from audit_buffer._syncer import Syncer
from audit_buffer._timing import Clock, SystemClock
from audit_buffer._writer import Writer
from audit_buffer.config import BufferConfig
from audit_buffer.sinks import Batch
from audit_buffer.testing import FakeClock, FlakySink, MemorySink


# Long enough never to pass in a green run, short enough to fail before pytest-timeout kills the whole session.
PATIENCE = 60.0


class Died(BaseException):
    """
    What kills a thread: no `Exception`, so that nothing that is merely careful catches it.
    """


class GatedSink(MemorySink):
    """
    A sink whose `write()` waits for the gate, and tells when it has come there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = Event()
        self.entered = Event()

    def write(self, batch: Batch) -> None:
        self.entered.set()
        if not self.gate.wait(PATIENCE):
            raise AssertionError("the test never opened the gate")
        super().write(batch)


class Hurting(FlakySink):
    """
    A sink of which each method can be told to raise: one item per call, None lets it pass.
    """

    def __init__(self, script: Iterable[Any] = (), *, positions: Iterable[BaseException | None] = ()) -> None:
        super().__init__(script)
        self.positions = list(positions)
        self.asked = 0

    def position(self, buffer_id: UUID) -> int:
        self.asked += 1
        error = self.positions.pop(0) if self.positions else None
        if error is not None:
            raise error
        return self.stored_through(buffer_id)

    def stored_through(self, buffer_id: UUID) -> int:
        return super().position(buffer_id)

    def write(self, batch: Batch) -> None:
        outcome = self.script.pop(0) if self.script else None
        if isinstance(outcome, BaseException):
            raise outcome
        # Not through position(): what is scripted for it is meant for the writer.
        if batch.after != self.stored_through(batch.buffer_id):
            raise AssertionError(f"a batch after {batch.after} does not follow what is stored")
        self.batches.append(batch)
        self._positions[batch.buffer_id] = batch.through
        if outcome is not None:
            raise outcome[0]


class SleepLog(SystemClock):
    """
    The real clock; each wait puts its timeout into *sleeps* before it begins, with the lock still held.

    Whoever gets an item knows that the next call of the channel finds the sleeper asleep.
    """

    def __init__(self) -> None:
        self.sleeps: SimpleQueue[float | None] = SimpleQueue()

    def wait(self, condition: Condition, timeout: float | None) -> None:  # type: ignore[override]
        self.sleeps.put(timeout)
        condition.wait(timeout)

    def next_sleep(self) -> float | None:
        """
        Return the timeout of the next wait, once somebody begins it.
        """
        return self.sleeps.get(timeout=PATIENCE)


class ActingClock(FakeClock):
    """
    A fake clock on which every wait lets something happen: the other thread of an interleaving, on this one.

    What happens may wait itself; then only time passes. A wait without a timeout has *otherwise* happen, if nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[Callable[[], object]] = []
        self.otherwise: Callable[[], object] | None = None
        self._acting = False

    def wait(self, condition: Condition, timeout: float | None) -> None:
        act = self.acts[0] if self.acts else self.otherwise if timeout is None else None
        if act is None or self._acting:
            super().wait(condition, timeout)
            return
        del self.acts[:1]
        self._acting = True
        try:
            act()
        finally:
            self._acting = False


class Flow:
    """
    A channel, its writer and its admission without a thread: the test steps, or whoever waits for the writer does.
    """

    def __init__(
        self,
        *,
        sink: MemorySink | None = None,
        clock: Clock | None = None,
        ring: Ring | None = None,
        **settings: Any,
    ) -> None:
        settings = {"queue_maxsize": 10_000, "queue_max_bytes": 1 << 25, **settings}
        self.config = BufferConfig(**settings)
        self.clock = clock or ActingClock()
        self.sink = sink if sink is not None else MemorySink()
        self.attention: list[Attention] = []
        self.ring = ring if ring is not None else MemoryRing()
        self.channel = Channel(self.ring, self.config, self.clock, self.attention.append)
        self.writer = Writer(self.channel, self.sink, self.clock)
        if isinstance(self.clock, ActingClock):
            self.clock.otherwise = self.writer.step
        self.syncer = Syncer(self.channel, self.clock)
        self.admission = Admission(self.channel, self.writer, self.syncer, self.clock)

    def record(self, payload: bytes = b"x") -> int:
        """
        Publish as `AuditBuffer.record()` does.
        """
        return self.channel.publish(payload) or self.admission.admit(payload)

    def step_to_the_end(self) -> None:
        """
        Step until the writer says that nothing will come.
        """
        while self.writer.step():
            pass


def full_ring_file(folder: Path, **settings: Any) -> Flow:
    """
    Return a flow whose ring file is full, and was synced before: released room awaits the next sync.
    """
    ring = RingFile.create(folder, label="flow", size=1 << 14)
    flow = Flow(ring=ring, flush_interval=0.0, **settings)
    ring.sync()
    while flow.channel.publish(bytes(100)):
        pass
    return flow


def seqs_of(sink: MemorySink) -> list[int]:
    """
    Return the seqs of entries and gap rows together, in order.
    """
    return sorted(sink.seqs + [seq for gap in sink.gaps for seq in range(gap.first_seq, gap.last_seq + 1)])


class Threads:
    """
    Threads that a test starts; leaving the block joins them and raises the first thing one of them raised.
    """

    def __init__(self) -> None:
        self._threads: list[Thread] = []
        self.errors: list[BaseException] = []

    def start(self, call: Callable[..., object], *args: Any) -> Thread:
        """
        Run *call* in a new thread.
        """

        def run() -> None:
            try:
                call(*args)
            except BaseException as error:
                self.errors.append(error)

        thread = Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        """
        Wait for all of them.
        """
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a thread hangs"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.join()
            if self.errors:
                raise self.errors[0]
