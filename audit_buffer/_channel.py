"""
The channel: what the two threads agree on, the one that records and the one that writes.

It is one class in four files, each standing on the one before: `_channel_core` (THE lock and the states), `_publishing`
(recording), `_syncing`, and here writing and waiting. The numbers under the lock are `_ledger`'s.

Guarantees:
    * *published*, *committed* and *synced* only grow, and entries never take more room than the capacity.
    * A wait keeps one monotonic deadline and looks at its predicate again whenever it wakes. The writer also wakes by
      itself when the oldest entry is old enough; with nothing to write it sleeps for ever.

Assumptions:
    * One writer at a time calls what stands under "Writing", any thread what stands under "Waiting".
    * No I/O happens under the lock (but for the move to a new ring file after a failed sync). What must be done outside
      it is returned, or told through *on_attention*.
"""

from __future__ import annotations

from uuid import UUID

from audit_buffer._ledger import NEVER
from audit_buffer._ring import Stored
from audit_buffer._state import Attention, State, Taken
from audit_buffer._syncing import Syncing
from audit_buffer._timing import Deadline, time_until_flush
from audit_buffer.errors import FlushTimeout, SinkError


__all__ = ["Channel"]


class Channel(Syncing):
    """
    The ring, its numbers, and the waiting between those who record and the one who writes.
    """

    # Writing: one thread at a time ------------------------------------------------------------------------------

    def wait_for_work(self) -> bool:
        """
        Wait until a batch must be written; False when there will be none any more.
        """
        with self._lock:
            ledger = self._ledger
            while ledger.in_hand is None:
                now = self._clock.monotonic()
                if ledger.reason(self._state, now) is not None:
                    break
                if self._state is not State.OPEN:
                    return False
                self._sleep_until_attention(now)
            return self._state is not State.FAILED

    def _sleep_until_attention(self, now: float) -> None:
        ledger, config = self._ledger, self.config
        waiting = ledger.waiting()
        self._writer_waits = True
        if waiting:
            self._attend_at(
                ledger.taken_floor + ledger.batch_size, ledger.taken_bytes + ledger.batch_max_bytes
            )
        else:
            self._attend_at(ledger.published + 1, NEVER)
        try:
            age = ledger.age(now)
            timeout = time_until_flush(pending=waiting, age=age, flush_interval=config.flush_interval)
            self._clock.wait(self._work, timeout)
        finally:
            self._writer_waits = False
            self._attend_at(NEVER, NEVER)

    def take(self) -> Taken | None:
        """
        Return the batch in hand, or take the next one if one must be written now.
        """
        with self._lock:
            ledger, now = self._ledger, self._clock.monotonic()
            if ledger.in_hand is None and self._state is not State.FAILED:
                reason = ledger.reason(self._state, now)
                if reason is not None:
                    return ledger.take(self.ring, reason, now)
            return ledger.in_hand

    def committed(self, taken: Taken, seconds: float = 0.0) -> None:
        """
        Give up the room of a batch that is in the database, and tell everyone who waits.

        Args:
            seconds: How long it took to write.
        """
        with self._lock:
            self._ledger.commit(taken, seconds)
            self._look_ahead()
            self._advice = None
            self.ring.release(taken.through, self._clock.monotonic())
            self._tell_progress()

    def recall(self, after: int) -> int:
        """
        Have what was committed behind seq *after*, and is retained, in hand again; see `Ring.recall()`.
        """
        with self._lock:
            return self.ring.recall(after, self._clock.monotonic())

    def recalled(self, after: int, through: int, max_entries: int, max_bytes: int) -> list[Stored]:
        """
        Return some of what was recalled; see `Ring.recalled()`.
        """
        with self._lock:
            return self.ring.recalled(after, through, max_entries, max_bytes)

    def release(self, through: int) -> None:
        """
        Give back what was recalled, through seq *through*.
        """
        with self._lock:
            self.ring.release(through, self._clock.monotonic())

    def adopted(self) -> None:
        """
        Note that no orphan is left.
        """
        with self._lock:
            self._adopting = False
            self._tell_progress()

    def go_on_as(self, buffer_id: UUID, after: int) -> None:
        """
        Have what lies behind seq *after* belong to another buffer_id; see `IntegrityAlarm`.

        Raises:
            RingError: There is no ring to be had for it; all is as it was.
        """
        with self._lock:
            while self._syncing:
                self._clock.wait(self._progress, None)
            self.ring.release(after)
            self.ring = self.ring.successor(buffer_id)

    @property
    def advice(self) -> str | None:
        """
        What somebody must do before any attempt can succeed, as far as that is known (it may be empty); else None.
        """
        return self._advice

    def note(self, error: BaseException) -> None:
        """
        Note what the writer met and dealt with.
        """
        with self._lock:
            self._last_error = error

    def attempt_failed(self, error: BaseException, advice: str | None = None) -> None:
        """
        Note that the batch in hand was not written this time.

        Args:
            advice: What must be done first, where that is known (it may be empty): barriers are given up at once.
        """
        with self._lock:
            self._last_error = error
            self._advice = advice
            self._failures += 1
            self._paused_at = self._urgency()
            self._tell_progress()

    def pause(self, seconds: float) -> None:
        """
        Wait before the next attempt; `begin_close()` and a new `flush()` cut it short.
        """
        deadline = Deadline(self._clock, seconds)
        with self._lock:
            # As it was when the attempt failed: a flush() that came since then waits for the next attempt.
            before = self._paused_at or self._urgency()
            while before == self._urgency() and not deadline.passed():
                self._clock.wait(self._work, deadline.remaining())
            self._paused_at = None

    def _urgency(self) -> tuple[State, int, int]:
        return self._state, self._ledger.flush_through, self._urged

    def writer_not_started(self) -> None:
        """
        Have the next `publish()` ask for the writer again.
        """
        with self._lock:
            self._attend_at(self._ledger.published + 1, NEVER)

    def finish_close(self) -> None:
        """
        Note that everything is committed.
        """
        with self._lock:
            if self._state is State.CLOSING:
                self._become(State.CLOSED)

    def close_ring(self) -> None:
        """
        Give the ring up once no sync is under way; everything is committed, so nobody waits for this lock.
        """
        with self._lock:
            while self._syncing:
                self._clock.wait(self._progress, None)
            self.ring.close()

    # Waiting ----------------------------------------------------------------------------------------------------

    def wait_for_room(self, size: int, deadline: Deadline) -> bool:
        """
        Wait until *size* bytes could be published, or the buffer is not open; False when the deadline came first.
        """
        started = self._clock.monotonic()
        with self._lock:
            while (
                not (found := self._state is not State.OPEN or self._has_room(size)) and not deadline.passed()
            ):
                self._clock.wait(self._progress, deadline.remaining())
            self._blocked_seconds += self._clock.monotonic() - started
            return found

    def wait_for_written_room(self, size: int) -> None:
        """
        Have the writer make room for *size* bytes, and return when there is some, or the buffer is not open.

        Raises:
            SinkError: An attempt failed.
        """
        _, failures = self.request_flush()
        with self._lock:
            while not self.check_written_room(size, failures):
                self._clock.wait(self._progress, None)

    def check_written_room(self, size: int, failures: int) -> bool:
        """
        Tell whether there is room, or the buffer is not open; raise when an attempt failed since `request_flush()`.
        """
        with self._lock:
            if self._state is not State.OPEN or self._has_room(size):
                return True
            self._raise_if_given_up(self._ledger.pending, failures, Deadline(self._clock, None))
            return False

    def _has_room(self, size: int) -> bool:
        return self._ledger.has_room(size) and (self.ring.has_room(size) or self.ring.room_awaits_sync)

    def could_hold(self, size: int) -> bool:
        """
        Tell whether an entry of *size* bytes fits at all.
        """
        return size <= self._ledger.max_bytes

    def request_flush(self, seq: int | None = None) -> tuple[int, int]:
        """
        Ask the writer not to wait for thresholds up to *seq* (None: all that is published).

        Returns:
            The seq, and the number of failures so far, for `check_committed()`.
        """
        with self._lock:
            seq = self._ledger.published if seq is None else seq
            self._ledger.flush_through = max(self._ledger.flush_through, seq)
            self._urged += 1
            self._work.notify_all()
            unfinished = self._adopting or self._ledger.committed < seq
            start = unfinished and not self._writer_waits and self._state is State.OPEN
            failures = self._failures
        if start:
            self._on_attention(Attention.START_WRITER)
        return seq, failures

    def wait_committed(self, seq: int | None, deadline: Deadline, *, orphans: bool = True) -> None:
        """
        Return when seq *seq* (None: all that is published now) and all before it are committed, and the *orphans*.

        Raises:
            FlushTimeout: The deadline came first.
            SinkError: There is no deadline and an attempt failed, or the buffer has failed.
        """
        seq, failures = self.request_flush(seq)
        with self._lock:
            while not self.check_committed(seq, failures, deadline, orphans=orphans):
                self._clock.wait(self._progress, deadline.remaining())

    def check_committed(self, seq: int, failures: int, deadline: Deadline, *, orphans: bool = True) -> bool:
        """
        Tell whether the barrier of `request_flush()` is reached, or raise why it is given up.
        """
        with self._lock:
            if self._ledger.committed >= seq and not (orphans and self._adopting):
                return True
            self._raise_if_given_up(seq - self._ledger.committed, failures, deadline)
            return False

    def wait_closed(self, deadline: Deadline) -> None:
        """
        Return when the writer has committed everything and ended; raises as `wait_committed()` does.
        """
        with self._lock:
            while not self.check_closed(deadline):
                self._clock.wait(self._progress, deadline.remaining())

    def check_closed(self, deadline: Deadline) -> bool:
        """
        Tell whether the buffer is closed, or raise why that is given up.
        """
        with self._lock:
            if self._state is State.CLOSED:
                return True
            remaining = self._ledger.published - self._ledger.committed
            self._raise_if_given_up(remaining, self._failures, deadline)
            return False

    def _raise_if_given_up(self, remaining: int, failures: int, deadline: Deadline) -> None:
        hopeless = deadline.timeout is None or self._advice is not None
        if self._state is State.FAILED or (hopeless and self._failures > failures):
            message = f"{remaining} entries are not committed; the writer met {self._last_error!r}"
            raise SinkError(message, advice=self._advice or "") from self._last_error
        if deadline.passed():
            raise FlushTimeout(remaining, deadline.timeout or 0.0, self._last_error) from self._last_error
