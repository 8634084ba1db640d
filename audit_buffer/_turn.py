"""
A lock taken without ever waiting for it in the kernel.

Whoever waits there gets the lock without the interpreter's own, and keeps it while waiting for that one; meanwhile the thread
that runs meets a taken lock at its next entry, and waits there in its place. One such meeting, and from then on the threads
change places at every entry: eight of them record about half of what one does. A thread that only looks whether the lock
is free, and rests if not, owns it never but while it runs.

Guarantees:
    * An exception that a signal handler raises finds the lock taken and given back as often as `with lock:` would: the lock is taken
      by the `with` statement itself, in C, without a place between the two where one could be raised.

Any thread.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from threading import RLock
from time import sleep
from typing import cast


__all__ = ["turn_at", "wait_for_turn"]

# The shortest that the kernel rests is longer, some 60 µs; a holder that has the interpreter needs a few.
_REST_SECONDS = 10e-6


def turn_at(lock: RLock) -> AbstractContextManager[bool]:
    """
    Return what takes *lock* in a `with` statement if it is free, tells whether it was, and gives it back.

    When it was not, `wait_for_turn()` comes first in the statement's body, because the end of the body gives it back.
    """
    methods = {
        "__enter__": staticmethod(partial(lock.acquire, False)),  # by keyword it takes twice as long
        "__exit__": staticmethod(lock.__exit__),
    }
    # A class of its own, because `with` looks its two methods up in the class; so that it finds them ready to be called.
    return cast("AbstractContextManager[bool]", type("Turn", (), methods)())


def wait_for_turn(lock: RLock) -> None:
    """
    Return, or raise what a signal handler raises, with *lock* taken.

    What is interrupted once more while it takes the lock for that has not taken it; the `with` statement says so with a
    RuntimeError.
    """
    try:
        while not lock.acquire(blocking=False):
            sleep(_REST_SECONDS)
    except BaseException:
        if not lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (as Condition asks)
            lock.acquire()
        raise
