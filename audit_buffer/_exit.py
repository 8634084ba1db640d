"""
What is to be done last when the process ends.

Guarantees:
    * It comes behind every exit hook that the application has registered since it imported the package, because those who register first
      are called last. So this module is imported with the package, before any name of it is used.

Any thread.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable


__all__ = ["at_exit"]

_to_do: list[Callable[[], object]] = []


def at_exit(function: Callable[[], object]) -> None:
    """
    Have *function* called at the end of the process; it must not raise.
    """
    _to_do.append(function)


def _exit() -> None:
    for function in _to_do:
        function()


atexit.register(_exit)
