"""
What a forked child finds: its own buffers, empty, and nothing of its parent's.

Guarantees:
    * The child delivers nothing that the parent recorded; locks that other threads held at the fork do not exist in it.
    * No thread is inside a sink at the moment of a fork that Python is told of (unless it stays there too long): a driver's
      own locks and half a transaction would be in the child for ever.
    * A fork that Python is not told of (from C) is noticed by the first `record()`: the kernel wipes one page in every
      child (``MADV_WIPEONFORK``), and looking at it costs some 30 ns.

Assumptions:
    * `watch()` is given objects whose `begin_anew()` copes with threads that are gone and locks that are held for ever.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, MutableSequence
from threading import local
from typing import Any, Protocol
from weakref import WeakSet


__all__ = ["Forkable", "after_fork", "alive", "in_multiprocessing_child", "notice", "watch"]

_MADV_WIPEONFORK = 18  # linux/mman-common.h; Python's mmap has no name for it


class Forkable(Protocol):
    """
    Something that must begin anew in a forked child.
    """

    def hold_still(self) -> bool:
        """
        Come to rest before a fork, and stay so until `go_on()`; False when that would take too long.
        """
        ...

    def go_on(self) -> None:
        """
        Go on in the parent, after `hold_still()` returned True.
        """
        ...

    def begin_anew(self) -> None:
        """
        Let go of all that belongs to the parent. Runs in the child, where this is the only thread.
        """
        ...


def _canary() -> MutableSequence[int]:
    """
    Return something whose first byte is 1 in this process and 0 in a forked child, if the system can do that.
    """
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        return bytearray(b"\1")
    page[0] = 1
    return page  # type: ignore[return-value]


_watched: WeakSet[Forkable] = WeakSet()

# `alive[0]` is 0 in a child that has not been through `after_fork()`.
alive = _canary()


def watch(forkable: Forkable) -> None:
    """
    Have *forkable* begin anew in every child, as long as somebody else holds it.
    """
    _watched.add(forkable)


def notice() -> None:
    """
    Begin anew if this is a child that Python was not told of. For whatever may be the first call in it.
    """
    if not alive[0]:
        after_fork()


def after_fork() -> None:
    """
    Begin anew; in the child, once. What fails to, raises when everything else has.
    """
    if alive[0] and _pid == os.getpid():
        return
    _remember_pid()
    _resting.__dict__.clear()
    failure = None
    for forkable in list(_watched):
        try:
            forkable.begin_anew()
        except Exception as error:
            failure = error
    alive[0] = 1
    if failure is not None:
        raise failure


_pid = os.getpid()


def _remember_pid() -> None:
    global _pid
    _pid = os.getpid()


# Around a fork that Python is told of ---------------------------------------------------------------------------------

_resting = local()  # what this thread has brought to rest; several may fork at once


def _before_fork() -> None:
    _register()
    _resting.found = [forkable for forkable in list(_watched) if forkable.hold_still()]


def _after_in_parent() -> None:
    for forkable in _resting.__dict__.pop("found", ()):
        forkable.go_on()


# multiprocessing -------------------------------------------------------------------------------------------------
#
# Children that it forked, itself or by its fork server, leave by os._exit() without atexit (up to Python 3.12), but run
# multiprocessing's finalizers.

_in_children: list[Callable[[], None]] = []
_registered: list[Any] = []


def in_multiprocessing_child(at_exit: Callable[[], None]) -> None:
    """
    Have *at_exit* called when a child that multiprocessing forked ends. A spawned one runs atexit as any process does.
    """
    _in_children.append(at_exit)
    _register()  # in a fork server's child, the fork is over when this module is imported


def _register() -> None:
    # The child throws the finalizers away and then runs the functions registered here.
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _registered:
        # The registry holds its first argument weakly, which a list cannot be.
        util.register_after_fork(_finalize_later, _finalize_later)
        _registered.append(util)


def _finalize_later(_: object) -> None:
    from multiprocessing.util import Finalize  # noqa: PLC0415  (only where multiprocessing is in use already)

    for at_exit in _in_children:
        # Negative: after the application's own finalizers, which may record.
        Finalize(None, at_exit, exitpriority=-100)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=after_fork)
