"""
Opt-in signal handling: a signal that would end the process on the spot ends it through the exit hook instead.

Guarantees:
    * The handler takes no lock and touches no buffer: it marks that the signal came, and either calls the handler that was
      there before or raises `SystemExit` with the status a shell reports (128 + signal), so that the process unwinds and
      the exit hook writes what is left.
    * A second signal does nothing: it cannot cut that short.
    * The handlers from before are back when the last buffer that asked is closed.

Only the main thread may install handlers; that is Python's rule.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from audit_buffer.errors import ConfigError


__all__ = ["handle", "ignore_from_now_on", "release"]

_previous: dict[signal.Signals, Any] = {}
_users: dict[signal.Signals, int] = {}
_came: set[int] = set()


def handle(signals: tuple[signal.Signals, ...]) -> None:
    """
    Extend the handlers of *signals*.

    Raises:
        ConfigError: This is not the main thread, or a signal cannot be handled.
    """
    if signals and threading.current_thread() is not threading.main_thread():
        raise ConfigError("handle_signals", signals, "needs the buffer to be made in the main thread")
    for number in signals:
        if not _users.get(number):
            try:
                previous = signal.signal(number, _handler)
            except (OSError, ValueError) as error:
                raise ConfigError("handle_signals", number, f"cannot be handled ({error})") from error
            # Ours is still there when the last buffer was closed by another thread.
            if previous is not _handler:
                _previous[number] = previous
            _came.discard(number)
        _users[number] = _users.get(number, 0) + 1


def release(signals: tuple[signal.Signals, ...]) -> None:
    """
    Put the handlers from before back, unless another buffer needs ours or somebody has replaced them.
    """
    for number in signals:
        _users[number] -= 1
        on_main_thread = threading.current_thread() is threading.main_thread()
        if not _users[number] and on_main_thread and signal.getsignal(number) is _handler:
            signal.signal(number, _previous.pop(number))


def ignore_from_now_on() -> None:
    """
    Have no handled signal cut the exit hook short: the process ends already.
    """
    _came.update(_users)


def _handler(number: int, frame: FrameType | None) -> None:
    if number in _came:
        return
    _came.add(number)
    previous = _previous.get(signal.Signals(number))
    if callable(previous):
        previous(number, frame)
    elif previous is not signal.SIG_IGN:
        raise SystemExit(128 + number)
