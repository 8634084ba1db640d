"""
THE lock, what it guards, and the states: the part of the channel that the others stand on.

Guarantees:
    * Whoever changes a number tells those who wait for it, under the same lock.
    * A state changes in one place, `_become()`; a step that is not on the list is an error.

Assumptions:
    * Only `_publishing`, `_syncing` and `_channel` touch what has an underscore here, and only under the lock.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, RLock

from audit_buffer._ledger import NEVER, Ledger
from audit_buffer._ring import Ring
from audit_buffer._state import TRANSITIONS, Attention, Snapshot, State
from audit_buffer._timing import Clock
from audit_buffer._turn import turn_at
from audit_buffer.config import BufferConfig
from audit_buffer.errors import BufferClosed, BufferFull


__all__ = ["ChannelCore"]


class ChannelCore:
    """
    The ring, its numbers, and the waiting between those who record and the one who writes.

    Args:
        adopting: Whether orphans are delivered first; every barrier waits for them, too.
        on_attention: Called outside the lock by a call that crossed a threshold.
    """

    def __init__(
        self,
        ring: Ring,
        config: BufferConfig,
        clock: Clock,
        on_attention: Callable[[Attention], None],
        *,
        adopting: bool = False,
    ) -> None:
        self.ring = ring
        self.config = config
        self._clock = clock
        self._on_attention = on_attention

        # The lock guards everything below, and the ring.
        self._lock = RLock()
        self._turn = turn_at(self._lock)  # how those who record take it
        self._work = Condition(self._lock)  # the writer waits for entries
        self._unsynced = Condition(self._lock)  # the syncer waits for something to sync
        self._progress = Condition(self._lock)  # everyone else waits for room, commits and the end
        self._state = State.OPEN
        self._ledger = Ledger(config)
        self._adopting = adopting
        # `publish()` pays attention at this seq or so many stored bytes; the first entry starts the writer.
        self._attention_at = 1
        self._attention_at_bytes = NEVER
        # Below these it need not even ask for room; never more than there is, but it may be less.
        self._quiet_below = 0
        self._quiet_below_bytes = 0
        self._writer_waits = False
        self._syncer_waits = False
        self._syncing = False
        self._inside = 0  # the seq that a call in the middle of `publish()` is about to store
        self._set_aside: dict[int, list[bytes | None]] = {}  # by promised seq; None: one that is dropped
        self._failures = 0
        self._blocked_seconds = 0.0
        self._last_error: BaseException | None = None
        self._advice: str | None = None  # not None: no attempt can succeed until somebody acts on it
        self._paused_at: tuple[State, int, int] | None = None  # what `pause()` looks for a change of
        self._urged = 0  # how often a barrier was asked for meanwhile
        self._listeners: list[Callable[[], None]] = []

    @property
    def state(self) -> State:
        """
        Return the state, without the lock: it may be the last one by the time it is looked at.
        """
        return self._state

    def is_held_here(self) -> bool:
        """
        Tell whether this thread is inside the channel further down its stack.

        A wait would let others in, and find the numbers changed under the interrupted call: so whoever interrupts it
        (a signal handler, a ``__del__``) must not wait.
        """
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  (as Condition asks)

    def _attend(self) -> Attention:
        """
        Wake who waits for entries, and say what else a crossed threshold asks for.
        """
        attention = Attention.NOTHING
        now = self._clock.monotonic()
        self._ledger.age(now)  # the oldest entry is this one, if nobody looked before
        # Notify first: an exception after it costs a second wake-up, before it nothing.
        if self._syncer_waits:
            self._unsynced.notify()
        if self._writer_waits:
            self._ledger.called_at = now
            self._work.notify()
        elif self._ledger.in_hand is None:
            attention |= Attention.START_WRITER
        if self._ledger.becomes_nearly_full():
            attention |= Attention.NEARLY_FULL
        # Asked again until a writer waits: an exception may keep the caller from starting it.
        starting = Attention.START_WRITER in attention
        self._attend_at(self._ledger.published + 1 if starting else NEVER, NEVER)
        return attention

    def _attend_at(self, seq: int, stored_bytes: int) -> None:
        self._attention_at, self._attention_at_bytes = self._ledger.attention_at(seq, stored_bytes)
        if self._syncer_waits:
            self._attention_at = min(self._attention_at, self._ledger.published + 1)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """
        Note up to where `publish()` need not ask for anything; to be called when there is more room.
        """
        ledger = self._ledger
        self._quiet_below = min(self._attention_at, ledger.committed_floor + ledger.capacity + 1)
        self._quiet_below_bytes = min(self._attention_at_bytes, ledger.released_bytes + ledger.max_bytes + 1)

    def begin_close(self) -> None:
        """
        Take no more entries; the writer writes what is there and ends.
        """
        with self._lock:
            if self._state is State.OPEN:
                self._become(State.CLOSING)
            else:
                self._tell_the_end()  # again: an exception may have cut the first call short

    def add_listener(self, listener: Callable[[], None]) -> None:
        """
        Have *listener* called, once, at the next progress of any kind; it must not block.
        """
        with self._lock:
            self._listeners.append(listener)

    def fail(self, error: BaseException) -> None:
        """
        Give up: `record()` raises from now on, and so does every wait.
        """
        with self._lock:
            self._last_error = error
            if self._state is not State.FAILED:
                self._become(State.FAILED)

    def _become(self, state: State) -> None:
        if state not in TRANSITIONS[self._state]:
            raise RuntimeError(f"a buffer cannot go from {self._state.value} to {state.value}")
        self._state = state
        self._tell_the_end()

    def _tell_the_end(self) -> None:
        self._quiet_below = 0
        self._ledger.capacity = 0
        self._work.notify_all()
        self._unsynced.notify_all()
        self._tell_progress()

    def _tell_progress(self) -> None:
        self._progress.notify_all()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def _ended(self) -> bool:
        return self._state in (State.CLOSED, State.FAILED)

    def snapshot(self) -> Snapshot:
        """
        Return all numbers as they are at one moment.
        """
        with self._lock:
            ledger = self._ledger
            return Snapshot(
                state=self._state,
                published=ledger.published,
                synced=max(ledger.synced, ledger.committed),
                committed=ledger.committed,
                pending=ledger.pending,
                pending_bytes=ledger.pending_bytes,
                oldest_age=ledger.oldest_age(self._clock.monotonic()),
                dropped=ledger.dropped,
                blocked_seconds=self._blocked_seconds,
                last_error=self._last_error,
            )

    def refusal(self, reason: str) -> BufferFull | BufferClosed:
        """
        Return the error that says why nothing can be published now.
        """
        now = self.snapshot()
        if now.state is not State.OPEN:
            closed = BufferClosed(f"the buffer is {now.state.value} and takes no more entries")
            closed.__cause__ = now.last_error if now.state is State.FAILED else None
            return closed
        return BufferFull(
            reason,
            depth=now.pending,
            pending_bytes=now.pending_bytes,
            oldest_age=now.oldest_age,
            last_error=now.last_error,
        )
