"""
Option 3: a plain thread per service behind a `queue.Queue`, one COMMIT per entry; what the original application merged.

`record()` keeps its signature. What is recorded is the caller's own dict, encoded later; the thread is a daemon, since any
other would keep a process alive that forgot `close()`.
"""

from __future__ import annotations

from queue import Queue
from threading import Thread
from typing import Any

from audit_buffer import AuditService


class ThreadQueue:
    """
    An audit service whose `record()` puts its arguments into a queue.
    """

    def __init__(self, service: AuditService, maxsize: int = 10_000) -> None:
        self._service = service
        self._queue: Queue[tuple[str, dict[str, Any]] | None] = Queue(maxsize)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def record(self, event_type: str, **arguments: Any) -> None:
        self._queue.put((event_type, arguments))

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            event_type, arguments = entry
            self._service.record(event_type, **arguments)

    def close(self) -> None:
        """
        Return when all that was recorded is committed.
        """
        self._queue.put(None)
        self._thread.join()
