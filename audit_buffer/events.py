"""
`EventBus`: the small synchronous bus of the application, with which the problem and the remedy are shown.

`emit()` calls every handler before it returns, so a handler that waits for a COMMIT makes the domain operation wait,
too. Subscribing is safe from any thread; handlers run on the thread that emits.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from threading import Lock
from typing import Any

import attrs


__all__ = ["DomainEvent", "EventBus"]


@attrs.frozen(kw_only=True)
class DomainEvent:
    """
    What a domain operation emits; any object with an *event_type* will do as well.
    """

    event_type: str
    actor: str | None = None
    resource: str | None = None
    outcome: str = "success"
    details: dict[str, Any] | None = None
    correlation_id: str | None = None
    occurred_at: datetime | None = None


Handler = Callable[[Any], object]


class EventBus:
    """
    Calls handlers, one after the other, on the thread that emits.
    """

    def __init__(self) -> None:
        # The lock guards replacing the tuple; whoever emits goes through the tuple it found.
        self._lock = Lock()
        self._handlers: tuple[tuple[str | None, Handler], ...] = ()

    def subscribe(self, event_type: str | None, handler: Handler) -> Callable[[], None]:
        """
        Have *handler* called with every event of *event_type*, or with every event if that is None.

        Returns:
            A function that ends the subscription.
        """
        subscription = (event_type, handler)
        with self._lock:
            self._handlers = (*self._handlers, subscription)

        def unsubscribe() -> None:
            with self._lock:
                self._handlers = tuple(held for held in self._handlers if held is not subscription)

        return unsubscribe

    def emit(self, event: Any) -> None:
        """
        Call the handlers in the order of their subscription; what one raises goes to the caller.
        """
        for event_type, handler in self._handlers:
            if event_type is None or event_type == event.event_type:
                handler(event)
