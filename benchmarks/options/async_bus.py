"""
Option 4: the bus calls its handlers as tasks; `emit()` returns before they have run.

The audit handler hands INSERT and COMMIT to the loop's own executor, as such handlers do; its threads race, and nobody is
told when one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from audit_buffer import AuditService


class AsyncBus:
    """
    A bus for handlers that are coroutine functions.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[..., Awaitable[object]]] = []
        self._running: set[asyncio.Task[object]] = set()

    def subscribe(self, handler: Callable[..., Awaitable[object]]) -> None:
        self._handlers.append(handler)

    def emit(self, event_type: str, **arguments: Any) -> None:
        """
        Start every handler and return.
        """
        for handler in self._handlers:
            task = asyncio.ensure_future(handler(event_type, **arguments))
            self._running.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._running.discard)

    async def drain(self) -> None:
        """
        Return when all handlers have.
        """
        while self._running:
            await asyncio.wait(self._running)


class AsyncHandlers:
    """
    The domain's side of it: recording is emitting.
    """

    def __init__(self, service: AuditService) -> None:
        self._service = service
        self._bus = AsyncBus()
        self._bus.subscribe(self._audit)

    async def record(self, event_type: str, **arguments: Any) -> None:
        self._bus.emit(event_type, **arguments)

    async def _audit(self, event_type: str, **arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, partial(self._service.record, event_type, **arguments))

    async def close(self) -> None:
        await self._bus.drain()
