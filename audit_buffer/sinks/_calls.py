"""
`CallSink`: any object with `record()`; its calls are replayed in order on the writer's thread.

At least once: within this process each call is made once, but a call that raised may have had an effect, and after a
crash (with a ring file) the calls since the last watermark are made again. A dropped call leaves no gap row, because
there is no table to put it in; the event and `stats().dropped` tell.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from audit_buffer._values import decode_values, encode_values
from audit_buffer.sinks._protocol import Batch


__all__ = ["CallSink", "Recorder", "encode_call"]


class Recorder(Protocol):
    """
    What can be wrapped when nothing else is known of it.
    """

    def record(self, *args: Any, **kwargs: Any) -> Any:
        """
        Record one fact.
        """
        ...


class CallSink:
    """
    Replays calls of `record()` on *target*.
    """

    def __init__(self, target: Recorder) -> None:
        self._target = target
        self._position: dict[UUID, int] = {}

    def open(self) -> None:
        """
        Nothing to check: the object was given alive.
        """

    def position(self, buffer_id: UUID) -> int:
        """
        Return the seq of the last call that returned.
        """
        return self._position.get(buffer_id, 0)

    def write(self, batch: Batch) -> None:
        """
        Make the calls of *batch*, each with the argument types it was recorded with.
        """
        for seq, payload in batch.stored:
            args, kwargs = decode_values(payload)
            self._target.record(*args, **kwargs)
            self._position[batch.buffer_id] = seq

    def close(self) -> None:
        """
        Nothing to give up: the object belongs to the application.
        """


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """
    Return one call as bytes.

    Raises:
        EntryRejected: An argument has a type that would not come back.
    """
    return encode_values(kwargs, args)
