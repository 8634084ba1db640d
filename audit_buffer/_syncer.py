"""
The syncer: what `record()` promises about power cuts at "periodic" and "sync".

Guarantees:
    * "sync": `record()` returns after the sync that covers its entry. Those who wait together share one (group commit).
    * "periodic": an entry is synced at most `sync_interval` (and the time of one sync) after it was recorded, also while
      the database hangs: syncing has a thread of its own, which sleeps while nothing is recorded.
    * A sync that fails is not repeated: the entries move to a new ring file, and an alarm is raised.
"""

from __future__ import annotations

from collections.abc import Callable

from audit_buffer import instrumentation
from audit_buffer._channel import Channel
from audit_buffer._timing import Clock, Deadline
from audit_buffer._worker import Worker
from audit_buffer.errors import RingError


__all__ = ["Syncer"]


class Syncer:
    """
    Syncs the ring of a channel.
    """

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._interval = channel.config.sync_interval
        self.worker = Worker(f"audit-syncer-{channel.ring.buffer_id.hex[:8]}", self.step, self._crashed)

    def ensure_running(self) -> None:
        """
        Have the syncer's thread run; where none can be started, the exit hook syncs.
        """
        try:
            self.worker.ensure_running()
        except RuntimeError as error:
            self._report(error)

    def sync(self, seq: int | None, timeout: float | None = None) -> None:
        """
        Return when entry *seq* (None: all that is published) survives a power cut.

        Raises:
            FlushTimeout: *timeout* seconds passed first.
            RingError: It cannot be synced anywhere; the buffer has failed. The entry, which its *seq* names, is kept.
        """
        try:
            error = self._channel.sync_through(seq, Deadline(self._clock, timeout))
        except RingError as failed:
            if seq is None:
                raise
            raise RingError(
                f"entry {seq} is kept in the ring file and written by the next start, so do not record it again; but it may not "
                f"survive a power cut, and the buffer has failed: {failed}",
                path=failed.path,
                seq=seq,
            ) from failed
        if error is not None:
            self._report(error)

    def step(self) -> bool:
        """
        Wait for something to sync, let it gather for `sync_interval`, and sync it; False when the buffer has ended.
        """
        if not self._channel.wait_for_unsynced() or not self._channel.linger(self._interval):
            return False
        self.sync(self._channel.snapshot().published)
        return True

    def _crashed(self, error: BaseException) -> None:
        self._report(error)
        self._channel.linger(self._interval)

    def _report(self, error: BaseException) -> None:
        instrumentation.emit(
            instrumentation.RingReplaced(
                buffer_id=self._channel.ring.buffer_id,
                error=repr(error),
                replaced=isinstance(error, RingError) and self._channel.snapshot().last_error is error,
            )
        )
        if self._channel.config.on_error is not None:
            self._tell_user(self._channel.config.on_error, error)

    def _tell_user(self, on_error: Callable[[BaseException], object], error: BaseException) -> None:
        try:
            on_error(error)
        except Exception as raised:  # it must not come out of the record() that happened to sync
            instrumentation.emit(
                instrumentation.WriterFailed(
                    buffer_id=self._channel.ring.buffer_id, error=f"on_error raised {raised!r}", failed=False
                )
            )
