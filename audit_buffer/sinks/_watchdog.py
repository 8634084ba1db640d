"""
`Watchdog`: ends a wait for a server that does not answer.

A server that is stopped, or a network that swallows packets, leaves a driver waiting in ``recv()``; psycopg has no timeout
for that, and nothing inside the process but the socket itself can end it. So a thread of the watchdog's own shuts it.

Guarantees:
    * A socket is shut only while it is watched, and only when `answered()` was not called for *limit* seconds.
    * It holds a duplicate of the descriptor: the number may have been given to another file by the time it is used.
    * Watching a transaction wakes no thread. The thread starts with the first one and ends when nothing was watched for
      *limit* seconds, or with `let_go()`.
    * Where no thread can be started (the process ends), nothing is watched; what the kernel and the driver notice remains.

One thread at a time, but for the watchdog's own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from threading import Condition, Lock
from types import TracebackType

from audit_buffer._worker import Worker


__all__ = ["Watchdog"]


class Watchdog:
    """
    Watches one connection; a context manager around whatever waits for the server.

    Args:
        limit: Seconds without an answer.
        now: A monotonic clock.
    """

    def __init__(self, limit: float, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._now = now
        self._changed = Condition(Lock())  # guards everything below
        self._line: socket.socket | None = None
        self._due: float | None = None
        self._running = False
        self._worker = Worker("audit-watchdog", self._step, self._crashed)
        # Whether the connection that is held was shut.
        self.has_bitten = False

    def hold(self, descriptor: int) -> socket.socket:
        """
        Watch the socket *descriptor* from now on, and return a duplicate of it.
        """
        self.let_go()
        blocking = os.get_blocking(descriptor)
        line = socket.socket(fileno=os.dup(descriptor))
        # With a default timeout set in Python, a new socket object would turn the driver's into a non-blocking one.
        os.set_blocking(descriptor, blocking)
        with self._changed:
            self._line, self.has_bitten = line, False
        return line

    def let_go(self) -> None:
        """
        Forget the socket, and end the thread.
        """
        with self._changed:
            line, self._line, self._due = self._line, None, None
            self._changed.notify_all()
        if line is not None:
            line.close()

    def abandon(self) -> None:
        """
        In a forked child: forget the socket without the lock, which a thread of the parent's may hold.
        """
        if self._line is not None:
            self._line.close()

    def watch(self) -> None:
        """
        Expect an answer within *limit* seconds.
        """
        with self._changed:
            if self._line is None:
                return
            self._due = self._now() + self.limit
            # Both: an exception may have fallen between the mark and the thread.
            running = self._running and self._worker.is_running
        if not running:
            self._start()

    def _start(self) -> None:
        # It may be on its last few instructions.
        self._worker.join(None)
        self._running = True
        try:
            self._worker.ensure_running()
        except RuntimeError:
            self._running = False

    def answered(self) -> None:
        """
        Note that the server has answered.
        """
        with self._changed:
            if self._due is not None:
                self._due = self._now() + self.limit

    def rest(self) -> None:
        """
        Expect nothing.
        """
        with self._changed:
            self._due = None

    def __enter__(self) -> None:
        self.watch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()

    # On the watchdog's own thread -------------------------------------------------------------------------------

    def _step(self) -> bool:
        with self._changed:
            if self._due is None:
                self._changed.wait(self.limit if self._line is not None else 0)
                self._running = self._due is not None
                return self._running
            left = self._due - self._now()
            if left > 0:
                self._changed.wait(left)
            else:
                self._bite()
            return True

    def _bite(self) -> None:
        self._due, self.has_bitten = None, True
        if self._line is not None:
            try:
                self._line.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Gone already: the driver knows, too.
                return

    def _crashed(self, error: BaseException) -> None:
        # Nothing in a step can fail but for want of memory; the next transaction is watched again.
        self.rest()
