"""
The writer: takes batches from the channel and has the sink write them, one after the other.

Guarantees:
    * Batches are written in seq order; the next one is taken only when the last one is committed.
    * After any doubt the position is read from the sink first, and only what lies behind it is written (`_delivery`).
    * Orphans are delivered beside the buffer's own entries: a batch of theirs, a batch of ours.
    * What the sink had and has lost is written again first, as far as the ring retains it (`_restoring`).
    * What the sink refuses for good is narrowed and quarantined, a piece a step. What somebody else wrote under our seqs is
      an alarm, and the buffer goes on under a new buffer_id.
    * Nothing ends the writer but the end of the work: it catches everything, reports it, and goes on.

Assumptions:
    * Several threads may want to write: the writer's own, the exit hook, a caller where no thread can be started. A lock of
      its own lets one in at a time. The channel's lock is never held while a sink works.
"""

from __future__ import annotations

from collections.abc import Iterator

from audit_buffer._adoption import Adoption
from audit_buffer._channel import Channel
from audit_buffer._delivery import Delivery
from audit_buffer._reports import Reports
from audit_buffer._restoring import Restoring
from audit_buffer._state import State
from audit_buffer._timing import Clock, Deadline, retry_delays
from audit_buffer._worker import FairLock, Worker
from audit_buffer.errors import EntryQuarantined, IntegrityAlarm, RingError
from audit_buffer.sinks._faults import Action, classify
from audit_buffer.sinks._protocol import Batch, Sink


__all__ = ["Writer"]


class Writer:
    """
    Moves entries from a channel to a sink.

    Args:
        adoption: Orphans to deliver beside the channel's entries, or None.
    """

    def __init__(self, channel: Channel, sink: Sink, clock: Clock, adoption: Adoption | None = None) -> None:
        self.channel = channel
        self.sink = sink
        self._clock = clock
        self._config = channel.config
        self._adoption = adoption
        self._reports = Reports(self._config.on_error, lambda: channel.ring.buffer_id, channel.note)
        restoring = Restoring(channel, self._config, self._reports.rows_lost)
        self._delivery = Delivery(sink, on_quarantined=self._quarantined, restoring=restoring)
        if adoption is not None:
            adoption.on_quarantined, adoption.on_lost = self._quarantined, self._reports.rows_lost
        self._last_alarm: IntegrityAlarm | None = None
        self._stepping = FairLock()  # held by whoever writes a batch; re-entrant only to know its owner
        self.worker = Worker(f"audit-writer-{channel.ring.buffer_id.hex[:8]}", self.step, self._crashed)
        self._failing_since: float | None = None
        self._attempts = 0
        self._start_failed = False
        self._leave_orphans = False
        self._delays = self._new_delays()
        # Plain ints, kept always; see `BufferStats`.
        self.batches = 0
        self.retries = 0
        self.restarts = 0
        self.quarantined = 0

    def _new_delays(self) -> Iterator[float]:
        return retry_delays(self._config.retry_backoff, self._config.retry_backoff_max)

    def ensure_running(self) -> None:
        """
        Have the writer's thread run. Where none can be started, do here what must be written now; the next `record()` asks
        again, and the exit hook writes the rest.
        """
        try:
            self.worker.ensure_running()
        except RuntimeError as error:
            self.channel.writer_not_started()
            if not self._start_failed:
                self._start_failed = True
                self._report(error)
            self._work_here()

    def _work_here(self) -> None:
        if self.writes_here():
            return
        with self._stepping:
            delay: float | None = 0.0
            while delay == 0.0:
                delay = self._attempt()
            if delay is None:
                self._finish()

    def writes_here(self) -> bool:
        """
        Tell whether this thread is inside the writer further down its stack: it must not wait for what it is to do itself.
        """
        return self._stepping.is_owned()

    # The work ---------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """
        Wait for a batch and make one attempt to write it; False when there is nothing to come.
        """
        if self._adoption is not None:
            return self._step_beside_orphans(self._adoption)
        if not self.channel.wait_for_work():
            with self._stepping:
                self._finish()
            return False
        with self._stepping:
            delay = self._attempt()
        if delay:
            self.channel.pause(delay)
        return True

    def _step_beside_orphans(self, adoption: Adoption) -> bool:
        if self.channel.state is State.FAILED:
            with self._stepping:
                self._finish()
            return False
        with self._stepping:
            if self._leave_orphans:
                adoption.close()
            delay = self._attempt_orphan(adoption) or self._attempt()
        if delay:
            self.channel.pause(delay)
        return True

    def leave_orphans(self) -> None:
        """
        Leave the orphans that are not delivered yet to the next start.
        """
        self._leave_orphans = True

    def drain(self, deadline: Deadline) -> None:
        """
        Write everything that is left on the calling thread, until it is committed or the deadline passes.

        For the end of the process, when no thread can be started and the writer's own may not get to run. Orphans that
        are not delivered yet wait for the next start.
        """
        while self.channel.state is State.CLOSING and self._enter(deadline):
            try:
                delay = self._attempt()
                if delay is None:
                    self._finish()
            finally:
                self._stepping.release()
            if delay:
                remaining = deadline.remaining()
                self.channel.pause(delay if remaining is None else min(delay, remaining))
            if deadline.passed():
                return

    def hold_still(self, timeout: float) -> bool:
        """
        Keep every thread out of the sink until `go_on()`; False when one stays inside for *timeout* seconds.
        """
        return not self.writes_here() and self._stepping.acquire(timeout)

    def go_on(self) -> None:
        """
        Let the writer write again.
        """
        self._stepping.release()

    def abandon_orphans(self) -> None:
        """
        In a forked child: let go of the ring that the parent delivers.
        """
        if self._adoption is not None:
            self._adoption.close()

    def _enter(self, deadline: Deadline) -> bool:
        remaining = deadline.remaining()
        return self._stepping.acquire(timeout=-1 if remaining is None else remaining)

    def _attempt(self) -> float | None:
        """
        Try once to write the batch in hand, or the next one that must be written now.

        Returns:
            Seconds to wait before the next attempt, 0.0 when the batch, or a piece of it, is committed, None when there
            was none.
        """
        taken = self.channel.take()
        if taken is None:
            return None
        batch = Batch(
            buffer_id=self.channel.ring.buffer_id,
            after=taken.after,
            through=taken.through,
            stored=taken.entries,
            policy=self._config.on_full,
        )
        started = self._clock.monotonic()
        delay = self._deliver(self._delivery, batch)
        if not delay and self._delivery.has(batch):
            self.batches += 1  # first, for whoever looks after a flush
            seconds = self._clock.monotonic() - started
            self.channel.committed(taken, seconds)
            self._reports.committed(batch, taken.reason.value, seconds)
        return delay

    def _attempt_orphan(self, adoption: Adoption) -> float | None:
        """
        Try once to write a batch of an orphan; returns as `_attempt()` does.
        """
        found = adoption.next_batch()
        if found is None:
            self._adoption = None
            self.channel.adopted()
            return None
        orphan, batch = found
        started = self._clock.monotonic()
        delay = self._deliver(orphan, batch)
        if not delay and orphan.has(batch):
            orphan.committed(batch)
            self.batches += 1
            self._reports.committed(batch, "adopt", self._clock.monotonic() - started)
        return delay

    def _deliver(self, delivery: Delivery, batch: Batch) -> float:
        """
        Return 0.0 when it went on (`Delivery.has()` tells how far), else the seconds to wait before the next attempt.
        """
        known = delivery.known
        try:
            delivery.write(batch)
        except IntegrityAlarm as alarm:
            return self._go_on_anew(delivery, batch, alarm)
        except Exception as error:
            return self._failed(batch, error)
        if self._attempts and (delivery.known > known or delivery.has(batch)):
            self._attempts = 0
            self._failing_since = None
            self._delays = self._new_delays()
        return 0.0

    def _go_on_anew(self, delivery: Delivery, batch: Batch, alarm: IntegrityAlarm) -> float:
        """
        Raise the alarm, and have the rest written under a buffer_id of its own.
        """
        before, self._last_alarm = self._last_alarm, alarm
        if (
            before is not None
            and before.continued_as == alarm.buffer_id
            and before.first_seq == alarm.first_seq
        ):
            # A new buffer_id did not help; a sink that is wrong must not make us spin.
            return self._failed(batch, alarm)
        self._reports.alarm(alarm)
        try:
            delivery.go_on_as(alarm)
            if delivery is self._delivery and alarm.continued_as is not None:
                self.channel.go_on_as(alarm.continued_as, alarm.first_seq - 1)
        except Exception as error:
            return self._failed(batch, error)
        return 0.0

    def _failed(self, batch: Batch, error: Exception) -> float:
        """
        Keep the batch, tell everyone, and return how long to wait.
        """
        self.retries += 1
        self._attempts += 1
        now = self._clock.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        delay = next(self._delays) or self._config.retry_backoff
        fault = classify(error)
        if fault.action is Action.STOP:
            delay = self._config.retry_backoff_max
        self._reports.failed(batch, error, attempt=self._attempts, retry_in=delay, advice=fault.advice)
        timeout = self._config.delivery_timeout
        if timeout is not None and now - self._failing_since >= timeout:
            self.channel.fail(error)
        else:
            self.channel.attempt_failed(error, fault.advice if fault.action is Action.STOP else None)
        return delay

    def _finish(self) -> None:
        """
        Close what only the writer uses: everything is committed, or given up and left to whoever adopts the ring file.
        """
        if self.channel.state not in (State.CLOSING, State.FAILED):
            return
        try:
            if self._adoption is not None:
                self._adoption.close()
            self.channel.close_ring()
            self.sink.close()
        except Exception as error:
            self._report(error)
        finally:
            self.channel.finish_close()

    # What went wrong --------------------------------------------------------------------------------------------

    def _crashed(self, error: BaseException) -> None:
        self.restarts += 1
        self._report(error)
        self.channel.attempt_failed(error)
        self.channel.pause(next(self._delays))

    def _report(self, error: BaseException) -> None:
        self._reports.writer_failed(error, failed=self.channel.state is State.FAILED)

    def ring_refused(self, error: RingError) -> None:
        """
        Raise the alarm about an orphan that was set aside, or could not be adopted.
        """
        self._reports.ring_refused(error)

    def _quarantined(self, error: EntryQuarantined) -> None:
        self.quarantined += 1
        self._reports.quarantined(error)
