"""
How the arguments of `record()` become bytes, for each kind of target, and which sink takes the bytes apart again.

`recorder_for()` looks at the target once; what it returns is the fast path of that kind. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from audit_buffer._codec import UNENCODABLE, encode_closely, encode_into, to_micros
from audit_buffer._ring import Payload
from audit_buffer._timing import Clock
from audit_buffer._usual import encode_usual, is_foreign
from audit_buffer.config import BufferConfig
from audit_buffer.errors import ConfigError, EntryRejected
from audit_buffer.service import AuditService
from audit_buffer.sinks._calls import CallSink, encode_call
from audit_buffer.sinks._entries import EntrySink
from audit_buffer.sinks._protocol import Sink
from audit_buffer.sinks._table import TableSink


if TYPE_CHECKING:
    from sqlalchemy.orm import Session


__all__ = ["Publish", "Recorder", "recorder_for"]

Publish = Callable[[Payload], int]
_NOT_SPARED = 64 * 1024  # buffers with so many bytes are not kept
_ENTRY_ARGUMENTS = ("actor", "resource", "outcome", "details", "correlation_id", "occurred_at")


class Recorder(Protocol):
    """
    What is special about one kind of target.
    """

    @property
    def sink(self) -> Sink:
        """
        Return where the bytes go.
        """
        ...

    @property
    def label(self) -> str:
        """
        Return what the target is, for the header of a ring file: only the same label may adopt it.
        """
        ...

    def bind(self, publish: Publish, admit: Publish) -> Callable[..., int]:
        """
        Return `record()`.

        Args:
            publish: Stores encoded bytes and returns their seq, or 0 when there is no room.
            admit: Applies the policy to bytes that found none.
        """
        ...

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        """
        Return the bytes of one call of `record()` without publishing them.
        """
        ...

    def record_event(self, record: Callable[..., int], event: Any) -> None:
        """
        Call *record* with what *event* says.
        """
        ...


def recorder_for(target: Any, config: BufferConfig, clock: Clock) -> Recorder:
    """
    Return the recorder for *target*.

    Raises:
        ConfigError: It is none of the four kinds.
    """
    if isinstance(target, AuditService):
        return EntryRecorder(
            EntrySink(target.engine, config.bulk, config.statement_timeout),
            f"entry:{target.table.fullname}",
            target.record,
            config,
            clock,
        )
    if isinstance(target, TableSink):
        return RowRecorder(target, config)
    if isinstance(target, Sink):
        return EntryRecorder(target, f"sink:{type(target).__qualname__}", None, config, clock)
    if callable(getattr(target, "record", None)):
        return CallRecorder(target, config)
    raise ConfigError(
        "target", target, "must be an AuditService, a TableSink, a Sink, or have a record() method"
    )


class EntryRecorder:
    """
    Entries of the service, for its own table or for a sink of the application.

    Args:
        record_in: What writes an entry through an injected session; None if nothing can.
    """

    def __init__(
        self, sink: Sink, label: str, record_in: Callable[..., int] | None, config: BufferConfig, clock: Clock
    ) -> None:
        self.sink = sink
        self.label = label
        self._record_in = record_in
        self._config = config
        self._time_ns = clock.time_ns
        self._bytes_of = self.bind(bytes, bytes)

    def bind(self, publish: Callable[[Payload], Any], admit: Callable[[Payload], Any]) -> Callable[..., Any]:
        """
        Return `record()`; local names, because each attribute would be looked up once per entry.
        """
        record_in, time_ns = self._record_in, self._time_ns
        redact, max_entry_bytes = self._config.redact, self._config.max_entry_bytes
        spare = list[bytearray]()

        def record(
            event_type: str,
            *,
            actor: str | None = None,
            resource: str | None = None,
            outcome: str = "success",
            details: dict[str, Any] | None = None,
            correlation_id: str | None = None,
            occurred_at: datetime | None = None,
            session: Session | None = None,
        ) -> Any:
            if session is not None:
                if record_in is None:
                    raise TypeError("session= needs an AuditService or a TableSink behind the buffer")
                return record_in(
                    event_type,
                    actor=actor,
                    resource=resource,
                    outcome=outcome,
                    details=details,
                    correlation_id=correlation_id,
                    occurred_at=occurred_at,
                    session=session,
                )
            if redact is not None and details is not None:
                details = dict(redact(details))
            row = (
                time_ns() // 1000,
                None if occurred_at is None else to_micros(occurred_at, "occurred_at"),
                event_type,
                actor,
                resource,
                outcome,
                correlation_id,
                details,
            )
            # A buffer of this call's alone: whoever interrupts it, or runs beside it, takes another one.
            try:
                buffer = spare.pop()
            except IndexError:
                buffer = bytearray()
            # A short cut past encode_closely() for what is neither wrong nor unusual.
            payload: Payload = buffer
            try:
                usual = encode_usual(row, buffer, encode_into)  # looks at types, lengths, NUL
            except UNENCODABLE as error:
                if is_foreign(error):
                    raise
                usual = False
            size = len(buffer)
            if not usual or size > max_entry_bytes:
                payload, size = encode_closely(row, max_entry_bytes), _NOT_SPARED
            published = publish(payload) or admit(payload)
            if size < _NOT_SPARED:
                spare.append(buffer)
            return published

        return record

    def encode(
        self,
        event_type: str,
        *,
        actor: str | None = None,
        resource: str | None = None,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> bytes:
        """
        Return the bytes of one entry.
        """
        payload: bytes = self._bytes_of(
            event_type,
            actor=actor,
            resource=resource,
            outcome=outcome,
            details=details,
            correlation_id=correlation_id,
            occurred_at=occurred_at,
        )
        return payload

    def record_event(self, record: Callable[..., int], event: Any) -> None:
        """
        Record the attributes of *event* that are arguments of `record()`.
        """
        if isinstance(event, Mapping):
            record(**event)
            return
        given = {name: getattr(event, name) for name in _ENTRY_ARGUMENTS if hasattr(event, name)}
        record(event.event_type, **given)


class RowRecorder:
    """
    Rows of an application's own table.
    """

    def __init__(self, sink: TableSink, config: BufferConfig) -> None:
        self.sink = sink
        sink.limit(config.statement_timeout)
        sink.insert_by(config.bulk)
        self.label = f"row:{sink.table.fullname}"
        self._table = sink
        self._redact = config.redact
        self._max_entry_bytes = config.max_entry_bytes

    def bind(self, publish: Publish, admit: Publish) -> Callable[..., int]:
        """
        Return `record(**columns)`.
        """
        encode, record_in, redacted = self.encode, self._table.record_in, self._redacted

        def record(*, session: Session | None = None, **columns: Any) -> int:
            if session is not None:
                return record_in(session, redacted(columns))
            payload = encode(**columns)
            return publish(payload) or admit(payload)

        return record

    def encode(self, **columns: Any) -> bytes:
        """
        Return the bytes of one row.
        """
        return _bounded(self._table.encode(self._redacted(columns)), self._max_entry_bytes)

    def _redacted(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns if self._redact is None else dict(self._redact(columns))

    def record_event(self, record: Callable[..., int], event: Any) -> None:
        """
        Record the mapping *event* as columns.
        """
        record(**event)


class CallRecorder:
    """
    Calls of `record()` on any other object.
    """

    def __init__(self, target: Any, config: BufferConfig) -> None:
        self.sink = CallSink(target)
        self.label = f"call:{type(target).__qualname__}"
        self._target = target
        self._redact = config.redact
        self._max_entry_bytes = config.max_entry_bytes

    def bind(self, publish: Publish, admit: Publish) -> Callable[..., int]:
        """
        Return `record(*args, **kwargs)`; a call with a session is made at once.
        """
        encode, target = self.encode, self._target

        def record(*args: Any, **kwargs: Any) -> int:
            if kwargs.get("session") is not None:
                return cast_seq(target.record(*args, **kwargs))
            kwargs.pop("session", None)
            payload = encode(*args, **kwargs)
            return publish(payload) or admit(payload)

        return record

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        """
        Return the bytes of one call.
        """
        if self._redact is not None:
            kwargs = dict(self._redact(kwargs))
        return _bounded(encode_call(args, kwargs), self._max_entry_bytes)

    def record_event(self, record: Callable[..., int], event: Any) -> None:
        """
        Pass *event* on as the only argument.
        """
        record(event)


def cast_seq(returned: Any) -> int:
    """
    Return what a wrapped `record()` returned if that is a number, else 0.
    """
    return returned if isinstance(returned, int) else 0


def _bounded(payload: bytes, most: int) -> bytes:
    if len(payload) > most:
        raise EntryRejected(
            f"the entry takes {len(payload)} bytes, more than max_entry_bytes = {most}; "
            "store the large part elsewhere and record a reference"
        )
    return payload
