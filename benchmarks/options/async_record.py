"""
Option 1: `record()` becomes a coroutine; the domain operation awaits it, and a worker thread does INSERT and COMMIT.

The event loop is free meanwhile; the operation itself waits as long as before, and everything between it and its entry
point has to become a coroutine, too.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from audit_buffer import AuditService


class AsyncRecord:
    """
    An audit service for applications that are asyncio through and through.
    """

    def __init__(self, service: AuditService) -> None:
        self._service = service
        # One thread: SQLite takes one writer at a time, and more threads would lose the order of concurrent callers.
        self._executor = ThreadPoolExecutor(max_workers=1)

    async def record(self, event_type: str, **arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, partial(self._service.record, event_type, **arguments))

    async def close(self) -> None:
        """
        Nothing to do: what was awaited is committed.
        """
