"""
`AuditBuffer`: the wiring of channel, writer and sink behind the face of the wrapped service.

Guarantees, assumptions:
    * Every public method may be called from any thread. `record()` never touches the database (but see `on_full`);
      `flush()`, `wait()` and `close()` block, and keep one deadline.
    * Nothing but this module starts anything. The writer's thread starts with the first entry.
    * The buffer may be forgotten: a `ResourceWarning` says so, and what it holds is written all the same, because the
      writer does not refer to the buffer.
"""

from __future__ import annotations

import sys
import warnings
from datetime import datetime
from functools import wraps
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self
from uuid import UUID

import attrs

from audit_buffer import _fork, instrumentation
from audit_buffer._admission import Admission
from audit_buffer._durability import place_for
from audit_buffer._health import Checkup, Health
from audit_buffer._lifecycle import EngineRoom
from audit_buffer._recorders import recorder_for
from audit_buffer._state import State
from audit_buffer._timing import USUAL_BATCH, USUAL_BATCH_BYTES, Clock, Deadline, SystemClock
from audit_buffer.config import BufferConfig, Durability
from audit_buffer.errors import ConfigError
from audit_buffer.stats import BufferStats


if TYPE_CHECKING:
    from sqlalchemy.orm import Session


__all__ = ["AuditBuffer", "BufferStats"]


class AuditBuffer:
    """
    A write-behind buffer in front of an audit service.

    Args:
        target: An `AuditService`, a `TableSink`, a `Sink`, or any object with `record()`.
        config: Settings; the defaults if None.
        clock: For tests; see `audit_buffer.testing.FakeClock`.
        overrides: Single settings in place of those of *config*, such as ``batch_size=200``.

    Raises:
        ConfigError: A setting cannot work, or the target cannot be written to.
    """

    def __init__(
        self,
        target: Any,
        config: BufferConfig | None = None,
        *,
        clock: Clock | None = None,
        **overrides: Any,
    ) -> None:
        config = (config or BufferConfig()).evolve(**overrides)
        if not config.asynchronous:
            raise ConfigError(
                "asynchronous", False, "means no buffer: open_audit() returns the plain service then"
            )
        self._target = target
        self._clock: Clock = clock or SystemClock()
        recorder = recorder_for(target, config, self._clock)
        recorder.sink.open()
        if not getattr(recorder.sink, "takes_large_batches", False):
            config = config.evolve(
                batch_size=config.batch_size or USUAL_BATCH,
                batch_max_bytes=config.batch_max_bytes or USUAL_BATCH_BYTES,
            )
        place = place_for(config, recorder.label, getattr(target, "engine", None))
        self._room = room = EngineRoom(place, config, recorder.sink, self._clock)
        self.config = room.config
        self._channel = room.channel
        self._writer = room.writer
        self._recorder = recorder
        self._admission = Admission(room.channel, room.writer, room.syncer, self._clock)
        self._checkup = Checkup(room, target)
        self._record = recorder.bind(self._admission.publisher(place.level), self._admission.admit)
        if type(self).record is AuditBuffer.record:
            # The class documents record(); the instance calls straight into the bound one, and saves a call per entry.
            self.__dict__["record"] = self._record
        instrumentation.emit(
            instrumentation.BufferOpened(
                buffer_id=room.channel.ring.buffer_id, target=repr(target), durability=place.level
            )
        )

    @property
    def buffer_id(self) -> UUID:
        """
        The id under which this process's entries stand in the table.
        """
        _fork.notice()
        return self._channel.ring.buffer_id

    @property
    def durability(self) -> Durability:
        """
        The durability level in force.
        """
        return self._room.place.level

    def __repr__(self) -> str:
        now = self._channel.snapshot()
        return (
            f"<AuditBuffer {now.state.value} of {self._target!r}: published {now.published}, "
            f"committed {now.committed}, pending {now.pending}>"
        )

    # Recording --------------------------------------------------------------------------------------------------

    def record(
        self,
        event_type: str,
        *,
        actor: str | None = None,
        resource: str | None = None,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        occurred_at: datetime | None = None,
        session: Session | None = None,
    ) -> int:
        """
        Publish one entry and return its seq; a few microseconds, and no database.

        The arguments are those of `AuditService.record()`. In front of a `TableSink` they are the table's columns, in
        front of any other object those of its own `record()`. With *session* the entry is written through that
        session, at once, as the service would.

        Raises:
            EntryRejected: An argument cannot be stored and come back equal.
            BufferFull: There is no room and `on_full` made none.
            BufferClosed: The buffer was closed, or has failed.
            RingError: At "sync", nothing can be synced any more; the entry is kept, see `RingError.seq`.
        """
        return self._record(
            event_type,
            actor=actor,
            resource=resource,
            outcome=outcome,
            details=details,
            correlation_id=correlation_id,
            occurred_at=occurred_at,
            session=session,
        )

    def on_event(self, event: Any) -> None:
        """
        Record a domain event: a handler for `EventBus.subscribe()`, and for a `reactivex` Subject.

        Args:
            event: An object with *event_type* and any of the other arguments of `record()` as attributes, or a mapping
                of the arguments themselves.
        """
        self._recorder.record_event(self._record, event)

    async def arecord(self, *args: Any, **kwargs: Any) -> int:
        """
        Record as `record()` does; where that would wait for room, wait without blocking the event loop.

        Raises:
            BufferFull: The ring stayed full for `block_timeout` seconds, or the policy is "raise".
        """
        payload = self._recorder.encode(*args, **kwargs)
        seq = self._channel.publish(payload) or await _aio().admit(
            self._channel, self._admission, self._clock, payload
        )
        if self.durability == "sync":
            await _aio().sync(self._room.syncer, seq)
        return seq

    # Waiting ----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """
        Return when everything recorded before the call is committed.

        Args:
            timeout: Seconds; the writer's retries go on until then. None: as long as it takes, but the first attempt that
                fails from now on is raised, so that a broken database never means waiting for ever.

        Raises:
            FlushTimeout: The deadline came first; *remaining* says how many entries still wait, ``__cause__`` why.
            SinkError: The writer's error.
        """
        _fork.notice()
        self._channel.wait_committed(None, self._deadline(timeout))

    def wait(
        self, seq: int, until: Literal["committed", "synced"] = "committed", timeout: float | None = None
    ) -> None:
        """
        Return when entry *seq* and all before it are committed (or survive a power cut, for "synced").

        Raises:
            FlushTimeout: The deadline came first.
            SinkError: The writer's error; see `flush()`.
            ValueError: *seq* was not given out yet, or *until* is something else.
        """
        if until not in ("committed", "synced"):
            raise ValueError(f"until = {until!r}: must be 'committed' or 'synced'")
        _fork.notice()
        published = self._channel.snapshot().published
        if seq > published:
            raise ValueError(f"seq = {seq}: the last seq given out is {published}")
        if until == "synced" and self.durability != "memory":
            self._room.syncer.sync(seq, timeout)
        else:
            # In memory nothing survives a power cut before it is in the database.
            self._channel.wait_committed(seq, self._deadline(timeout))

    def close(self, timeout: float | None = None) -> None:
        """
        Take no more entries, return when all are committed. A second call does nothing, or waits again.

        Args:
            timeout: Seconds; None means `close_timeout`.

        Raises:
            FlushTimeout: The deadline came first. The writer goes on, and the exit hook makes a last attempt.
            SinkError: The buffer has failed.
        """
        self._channel.wait_closed(self._begin_close(timeout))
        self._room.closed()

    def _begin_close(self, timeout: float | None) -> Deadline:
        _fork.notice()
        self._channel.begin_close()
        if self._channel.state is State.CLOSING:
            self._writer.ensure_running()
        return self._deadline(self.config.close_timeout if timeout is None else timeout)

    def _deadline(self, timeout: float | None) -> Deadline:
        # What the writer itself calls (on_error, a hook), or what interrupts the channel, may look but not wait.
        must_not_wait = self._writer.writes_here() or self._channel.is_held_here()
        return Deadline(self._clock, 0.0 if must_not_wait else timeout)

    async def aflush(self, timeout: float | None = None) -> None:
        """
        Flush without blocking the event loop; see `flush()`.
        """
        _fork.notice()
        await _aio().wait_committed(self._channel, Deadline(self._clock, timeout))

    async def aclose(self, timeout: float | None = None) -> None:
        """
        Close without blocking the event loop; see `close()`.
        """
        await _aio().wait_closed(self._channel, self._begin_close(timeout))
        self._room.closed()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AuditBuffer cannot be copied or pickled: share it, or make one in each process")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        channel = self.__dict__.get("_channel")
        if channel is None or channel.state is not State.OPEN or sys.is_finalizing():
            return
        warnings.warn(
            f"{self!r} was never closed; use close() or a with block",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        self._begin_close(0)

    # Looking ----------------------------------------------------------------------------------------------------

    def stats(self) -> BufferStats:
        """
        Return the counters; cheap, and from any thread.
        """
        _fork.notice()
        now = attrs.asdict(self._channel.snapshot(), recurse=False)
        return BufferStats(
            **{**now, "state": now["state"].value},
            batches=self._writer.batches,
            retries=self._writer.retries,
            quarantined=self._writer.quarantined,
        )

    def health(self, timeout: float = 2.0) -> Health:
        """
        Look at writer, ring and database, and say what is not as it should be and what to do about it.

        Opens a connection of its own, which it drops again; from any thread. In an event loop call it through
        `asyncio.to_thread()`.

        Args:
            timeout: Seconds to wait for the database; one that has not answered by then counts as unreachable.
        """
        _fork.notice()
        return self._checkup.examine(timeout)

    def __getattr__(self, name: str) -> Any:
        """
        Delegate anything else to the wrapped service, after a flush if `read_your_writes` is on.
        """
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self._target, name)
        if not callable(value) or not self.config.read_your_writes:
            return value

        @wraps(value)
        def read_after_flush(*args: Any, **kwargs: Any) -> Any:
            self.flush()
            return value(*args, **kwargs)

        return read_after_flush


def _aio() -> ModuleType:
    """
    Return what waits in event loops; a program without asyncio does not pay for its import.
    """
    from audit_buffer import _aio as module  # noqa: PLC0415

    return module
