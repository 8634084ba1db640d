"""
The only module that makes threads.

Guarantees:
    * A worker's thread runs its step again and again until the step says that there is nothing to come. Nothing else
      ends it: whatever a step raises is handed to *on_crash*, and the thread goes on.
    * It is a daemon: it never keeps the process alive, and the exit hook does what it has left.
    * Where no thread can be started (the interpreter ends, or the system refuses), `ensure_running()` says so.

Any thread may call `ensure_running()` and `join()`, and take a `FairLock`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from threading import Lock, RLock, Thread


__all__ = ["FairLock", "Worker"]

_SLICE = 1.0


class FairLock:
    """
    A re-entrant lock that a thread which takes it again and again cannot keep from one that waits for it.

    Python's own may be taken again before the one who waits has woken up.
    """

    def __init__(self) -> None:
        self._turn = Lock()  # held by the one who is next
        self._lock = RLock()

    def is_owned(self) -> bool:
        """
        Tell whether this thread holds the lock.
        """
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  (as Condition asks)

    def acquire(self, timeout: float = -1) -> bool:
        """
        Take the lock within *timeout* seconds, -1 means as long as it takes; tell whether it worked.
        """
        if self.is_owned():
            return self._lock.acquire()
        if timeout < 0:
            with self._turn:
                return self._lock.acquire()
        started = time.monotonic()
        if not self._turn.acquire(timeout=timeout):
            return False
        try:
            return self._lock.acquire(timeout=max(0.0, timeout - (time.monotonic() - started)))
        finally:
            self._turn.release()

    def release(self) -> None:
        """
        Give the lock to whoever is next.
        """
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Worker:
    """
    One thread around one step.

    Args:
        step: Does some work, waiting for it first; False ends the thread.
        on_crash: Told of whatever a step raises; it may wait a moment.
    """

    def __init__(
        self, name: str, step: Callable[[], bool], on_crash: Callable[[BaseException], None]
    ) -> None:
        self._name = name
        self._step = step
        self._on_crash = on_crash
        self._starting = Lock()
        self._thread: Thread | None = None

    def ensure_running(self) -> None:
        """
        Start the thread unless it runs.

        Raises:
            RuntimeError: No thread can be started.
        """
        # Whoever holds the lock starts the thread, perhaps further down this very stack: nobody waits for that.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        except RuntimeError:
            self._thread = None
            raise
        finally:
            self._starting.release()

    @property
    def is_running(self) -> bool:
        """
        Tell whether the thread lives.
        """
        thread = self._thread
        return thread is not None and thread.is_alive()

    def join(self, timeout: float | None) -> None:
        """
        Wait for the thread to end; returns at once on that thread itself, and where none has come up yet.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            # In slices: a signal that comes just before a wait begins does not end it, and would be noticed after all of it.
            while thread.is_alive() and (ends is None or time.monotonic() < ends):
                thread.join(_SLICE if ends is None else max(0.0, min(_SLICE, ends - time.monotonic())))
        except RuntimeError:
            # Whoever starts it is in the middle of that, or was interrupted there: there is nothing to wait for.
            return

    def _run(self) -> None:
        while True:
            try:
                while self._step():
                    pass
                return
            except BaseException as error:
                # Ending here would strand every entry to come.
                self._survive(error)

    def _survive(self, error: BaseException) -> None:
        try:
            self._on_crash(error)
        except BaseException:
            # Whoever was to be told (a hook, on_error) died of it as well; standard error is what is left.
            traceback.print_exc()
