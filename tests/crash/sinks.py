"""
Sinks for programs that are killed or that end while the database hangs.
"""

from __future__ import annotations

import threading
from uuid import UUID

from audit_buffer import Batch


class BlockedSink:
    """
    A database that hangs: `write()` returns when `gate` is set.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.written: list[str] = []
        self._position: dict[UUID, int] = {}

    def open(self) -> None: ...

    def position(self, buffer_id: UUID) -> int:
        return self._position.get(buffer_id, 0)

    def write(self, batch: Batch) -> None:
        self.entered.set()
        self.gate.wait()
        self.written += [entry.event_type for entry in batch.entries()]
        self._position[batch.buffer_id] = batch.through

    def close(self) -> None: ...
