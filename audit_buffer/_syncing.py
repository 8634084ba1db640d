"""
Syncing: what is known to survive a power cut.

Guarantees:
    * One sync covers everyone who waits meanwhile (group commit); two never run at once.
    * A sync that failed is not repeated on the same file: the entries move to a new one. That is the one piece of I/O that
      happens under the lock.
"""

from __future__ import annotations

from audit_buffer._publishing import Publishing
from audit_buffer._state import State
from audit_buffer._timing import Deadline
from audit_buffer.errors import FlushTimeout, RingError


__all__ = ["Syncing"]


class Syncing(Publishing):
    """
    The syncing side of a channel.
    """

    def wait_for_unsynced(self) -> bool:
        """
        Wait until there is something to sync; False when the buffer has ended.
        """
        with self._lock:
            while self._ledger.published <= self._ledger.synced and not self._ended():
                self._syncer_waits = True
                self._attend_at(self._attention_at, self._attention_at_bytes)
                try:
                    self._clock.wait(self._unsynced, None)
                finally:
                    self._syncer_waits = False
            return not self._ended()

    def linger(self, seconds: float) -> bool:
        """
        Let so much time pass; False, and at once, when the buffer has ended.
        """
        deadline = Deadline(self._clock, seconds)
        with self._lock:
            while not self._ended() and not deadline.passed():
                self._clock.wait(self._unsynced, deadline.remaining())
            return not self._ended()

    def sync_through(self, seq: int | None, deadline: Deadline) -> RingError | None:
        """
        Return when entry *seq* survives a power cut. One sync covers everyone who waits meanwhile (group commit).

        Args:
            seq: None means all that is published, and a sync of its own even if those are synced already: it may make
                room (see `Ring.room_awaits_sync`).

        Returns:
            Why the entries had to move to a new ring file, or None.

        Raises:
            FlushTimeout: The deadline came first.
            RingError: Neither this ring file nor a new one can be synced; the buffer has failed.
        """
        with self._lock:
            while self._syncing and (seq is None or self._ledger.synced < seq):
                if deadline.passed():
                    remaining = (seq or self._ledger.published) - self._ledger.synced
                    raise FlushTimeout(remaining, deadline.timeout or 0.0, self._last_error)
                self._clock.wait(self._progress, deadline.remaining())
            if self._needs_no_sync(seq):
                return None
            self._syncing = True
            ring, covered = self.ring, self._ledger.published
        try:
            ring.sync()
        except RingError as error:
            covered = self._move_to_successor(error)
            return error
        except BaseException:
            covered = 0
            raise
        finally:
            with self._lock:
                self._syncing = False
                self._ledger.synced = max(self._ledger.synced, covered)
                self._tell_progress()
        return None

    def _needs_no_sync(self, seq: int | None) -> bool:
        ledger = self._ledger
        if seq is None:  # with the last entry committed, the ring may be closed already
            return self._state is not State.OPEN and ledger.committed == ledger.published
        return ledger.synced >= seq

    def _move_to_successor(self, error: RingError) -> int:
        """
        Go on in a new ring file, and return the last seq that is synced in it.

        The kernel may have thrown away what the failed sync was to write, and would report success the next time. So
        the old file is not trusted again.
        """
        with self._lock:
            self._last_error = error
            try:
                self.ring = self.ring.successor()
            except RingError as second:
                self.fail(second)
                raise second from error
            return self._ledger.published

    def room_awaits_sync(self) -> bool:
        """
        Tell whether a sync would make room.
        """
        with self._lock:
            return self._state is State.OPEN and self.ring.room_awaits_sync
