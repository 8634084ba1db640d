"""
Stop the library at its k-th bytecode instruction, by whatever an action does there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import audit_buffer


PACKAGE = str(Path(audit_buffer.__file__).parent)


class Counter:
    """
    How many instructions were executed so far.
    """

    def __init__(self) -> None:
        self.executed = 0


@contextmanager
def at_opcode(
    k: int, action: Callable[[], None], only: Callable[..., Any] | None = None
) -> Iterator[Counter]:
    """
    Run *action* in front of the *k*-th instruction (from 1) of the package, or of the function *only*.

    The block sees the counter; an exception of *action* comes out of the instruction.
    """
    counter = Counter()
    code = None if only is None else only.__code__

    def local(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode":
            counter.executed += 1
            if counter.executed == k:
                action()
        return local

    def begin(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code is code if code else frame.f_code.co_filename.startswith(PACKAGE):
            frame.f_trace = local  # Python 3.13 takes notice of the next line only when this is set.
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return local
        return None

    previous = sys.gettrace()
    # Python 3.12 reports instructions only when some frame asked for them before settrace().
    sys._getframe().f_trace_opcodes = True
    sys.settrace(begin)
    try:
        yield counter
    finally:
        sys.settrace(previous)
