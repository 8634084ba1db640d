"""
What the writer tells: events for the hooks, errors for `on_error`.

Called by whoever steps the writer, never under the channel's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from audit_buffer import instrumentation as events
from audit_buffer._restoring import Loss
from audit_buffer.errors import EntryQuarantined, IntegrityAlarm, RingError
from audit_buffer.sinks._faults import explained
from audit_buffer.sinks._protocol import Batch


__all__ = ["Reports"]


class Reports:
    """
    The voice of one writer.

    Args:
        on_error: The application's, or None.
        buffer_id: Returns whose writer it is.
        note: Keeps an error as the last one, where it holds nothing up.
    """

    def __init__(
        self,
        on_error: Callable[[BaseException], object] | None,
        buffer_id: Callable[[], UUID],
        note: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self._on_error = on_error
        self._buffer_id = buffer_id
        self._note = note

    def committed(self, batch: Batch, reason: str, seconds: float) -> None:
        """
        Say that *batch* is in the sink, and what its gap rows stand for.
        """
        if batch.after == batch.through:
            return  # it only asked whether all is still there
        for gap in batch.gaps:
            events.emit(
                events.EntriesDropped(
                    buffer_id=batch.buffer_id,
                    first_seq=gap.first_seq,
                    last_seq=gap.last_seq,
                    dropped=gap.dropped,
                    policy=batch.policy,
                )
            )
        events.emit(
            events.BatchCommitted(
                buffer_id=batch.buffer_id,
                first_seq=batch.after + 1,
                last_seq=batch.through,
                entries=len(batch),
                reason=reason,
                seconds=seconds,
            )
        )

    def failed(self, batch: Batch, error: Exception, *, attempt: int, retry_in: float, advice: str) -> None:
        """
        Say that *batch* comes again.
        """
        events.emit(
            events.BatchFailed(
                buffer_id=batch.buffer_id,
                first_seq=batch.after + 1,
                last_seq=batch.through,
                attempt=attempt,
                retry_in=retry_in,
                error=repr(error),
                advice=advice,
            )
        )
        self._tell(error)

    def quarantined(self, error: EntryQuarantined) -> None:
        """
        Raise the alarm about an entry that was set aside.
        """
        self._note(error)
        why = str(error) if error.__cause__ is None else explained(error.__cause__)
        events.emit(events.EntryQuarantinedEvent(buffer_id=error.buffer_id, seq=error.seq, error=why))
        self._tell(error)

    def alarm(self, alarm: IntegrityAlarm) -> None:
        """
        Raise the alarm about rows that somebody else wrote, or that are gone.
        """
        self._note(alarm)
        events.emit(
            events.IntegrityAlarmEvent(
                buffer_id=alarm.buffer_id,
                first_seq=alarm.first_seq,
                last_seq=alarm.last_seq,
                continued_as=None if alarm.continued_as is None else alarm.continued_as.hex,
            )
        )
        self._tell(alarm)

    def rows_lost(self, loss: Loss) -> None:
        """
        Say that the database has lost rows, and raise the alarm about those that nobody has any more.
        """
        events.emit(
            events.RowsLost(
                buffer_id=loss.buffer_id,
                first_seq=loss.first_seq,
                last_seq=loss.last_seq,
                resent=loss.last_seq - max(loss.kept_after, loss.first_seq - 1),
            )
        )
        alarm = loss.alarm()
        if alarm is not None:
            self.alarm(alarm)

    def writer_failed(self, error: BaseException, *, failed: bool) -> None:
        """
        Say that something went wrong outside the sink.
        """
        events.emit(events.WriterFailed(buffer_id=self._buffer_id(), error=repr(error), failed=failed))
        self._tell(error)

    def ring_refused(self, error: RingError) -> None:
        """
        Raise the alarm about an orphan that was set aside, or could not be adopted.
        """
        events.emit(events.RingRefused(buffer_id=None, error=str(error)))
        self._tell(error)

    def _tell(self, error: BaseException) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error)
        except Exception as raised:
            events.emit(
                events.WriterFailed(
                    buffer_id=self._buffer_id(), error=f"on_error raised {raised!r}", failed=False
                )
            )
