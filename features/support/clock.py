"""
A clock that scenarios move by hand while the buffer's threads really run.

Guarantees:
    * Time stands still until `advance()`; nothing here sleeps.
    * A wait ends when somebody notifies its condition, or when time has moved. It may end early; whoever waits looks again.
    * When `advance()` returns, the writer has seen the new time and done what it asks for, if it was asleep before.

Lock order: the condition of a waiting thread, then the guard. The guard is never held while a condition is acquired.
"""

from __future__ import annotations

import threading
from threading import Condition, current_thread, get_ident

from audit_buffer.testing import FakeClock


__all__ = ["PATIENCE", "HandClock"]

# Seconds after which a wait for something that must come is a failure.
PATIENCE = 20.0


class HandClock(FakeClock):
    """
    A `FakeClock` for several threads.
    """

    def __init__(self) -> None:
        super().__init__()
        # Guards the time and who sleeps: name of the thread -> (condition, timeout, the moment it went to sleep).
        self._guard = Condition()
        self._asleep: dict[str, tuple[Condition, float | None, float]] = {}
        self._seen = threading.local()
        self._let_go = False

    def monotonic(self) -> float:
        self._seen.now = super().monotonic()
        return float(self._seen.now)

    def wait(self, condition: Condition, timeout: float | None) -> None:
        name = current_thread().name or str(get_ident())
        with self._guard:
            now = super().monotonic()
            if timeout is not None and getattr(self._seen, "now", now) != now:
                # Time moved between the look at the clock and here: the timeout is out of date.
                return
            self._asleep[name] = (condition, timeout, now)
            self._guard.notify_all()
        try:
            if self._let_go and timeout is not None:
                with self._guard:
                    super().advance(timeout)
                return
            # `advance()` notifies under this condition's lock, which is ours until the wait has begun.
            patience = None if name.startswith("audit-writer") else PATIENCE
            assert condition.wait(patience), "the application waits, and nothing will ever wake it"
        finally:
            with self._guard:
                del self._asleep[name]

    def advance(self, seconds: float) -> None:
        """
        Let *seconds* pass, wake who waits for that, and let the writer settle.
        """
        with self._guard:
            super().advance(seconds)
            now = super().monotonic()
        for name in self._wake():
            if name.startswith("audit-writer"):
                self._until(lambda name=name: name in self._asleep and self._asleep[name][2] == now)

    def let_go(self) -> None:
        """
        At the end of a scenario: whoever waits for a time has waited long enough.
        """
        self._let_go = True
        self._wake()

    def _wake(self) -> list[str]:
        with self._guard:
            sleepers = dict(self._asleep)
        for condition, _, _ in sleepers.values():
            with condition:
                condition.notify_all()
        return list(sleepers)

    def wait_until_asleep(self, prefix: str) -> None:
        """
        Return when a thread whose name begins with *prefix* waits on this clock.
        """
        self._until(lambda: any(name.startswith(prefix) for name in self._asleep))

    def alarm(self, prefix: str) -> float | None:
        """
        Return after how many seconds the sleeping thread wants to be woken; None: by nothing but new work.
        """
        with self._guard:
            return next(timeout for name, (_, timeout, _) in self._asleep.items() if name.startswith(prefix))

    def _until(self, reached: object) -> None:
        with self._guard:
            assert callable(reached)
            assert self._guard.wait_for(reached, PATIENCE), f"nobody settled; asleep: {list(self._asleep)}"
