"""
Recording while another thread has the channel's lock: it is never waited for in the kernel, and given back as often as it was taken.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from audit_buffer import _turn
from audit_buffer._turn import turn_at, wait_for_turn
from tests.flow.doubles import PATIENCE, Flow


class Holder:
    """
    A thread that has a lock until it is told to give it back.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._taken, self._enough = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        assert self._taken.wait(PATIENCE)

    def _hold(self) -> None:
        with self._lock:
            self._taken.set()
            self._enough.wait(PATIENCE)

    def give_back(self) -> None:
        self._enough.set()
        self._thread.join(PATIENCE)


@contextmanager
def held(lock: threading.RLock) -> Iterator[Holder]:
    holder = Holder(lock)
    try:
        yield holder
    finally:
        holder.give_back()


def is_free(lock: threading.RLock) -> bool:
    """
    Tell whether another thread could take *lock*.
    """
    found: list[bool] = []

    def take() -> None:
        if lock.acquire(blocking=False):
            lock.release()
            found.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(PATIENCE)
    return bool(found)


@pytest.fixture
def lock() -> threading.RLock:
    return threading.RLock()


def test_a_free_lock_is_taken_and_given_back(lock: threading.RLock) -> None:
    with turn_at(lock) as is_mine:
        assert is_mine
        assert not is_free(lock)
    assert is_free(lock)


def test_what_interrupts_the_holder_has_its_turn_at_once(lock: threading.RLock) -> None:
    """
    A signal handler that records would otherwise wait for the very call that it interrupts.
    """
    turn = turn_at(lock)
    with turn as outer, turn as inner:
        assert outer
        assert inner
    assert is_free(lock)


def test_an_exception_gives_the_lock_back(lock: threading.RLock) -> None:
    with pytest.raises(KeyboardInterrupt), turn_at(lock):
        raise KeyboardInterrupt
    assert is_free(lock)


def test_a_taken_lock_is_waited_for(lock: threading.RLock, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(lock) as holder:
        monkeypatch.setattr(_turn, "sleep", lambda _: holder.give_back())
        with turn_at(lock) as is_mine:
            assert not is_mine
            wait_for_turn(lock)
            assert not is_free(lock)
    assert is_free(lock)


def test_an_interrupted_wait_leaves_the_lock_free(
    lock: threading.RLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The `with` statement gives back what the wait has not got yet, so the wait gets it before it raises.
    """
    with held(lock) as holder:

        def interrupt(_: float) -> None:
            holder.give_back()
            raise KeyboardInterrupt

        monkeypatch.setattr(_turn, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt), turn_at(lock):
            wait_for_turn(lock)
    assert is_free(lock)


class InterruptedLock:
    """
    A lock that was taken just before a signal handler raised.
    """

    def __init__(self) -> None:
        self.taken = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.taken += 1
        if not blocking:
            raise KeyboardInterrupt
        return True

    def _is_owned(self) -> bool:
        return self.taken > 0


def test_an_interruption_behind_the_wait_takes_the_lock_no_second_time() -> None:
    lock = InterruptedLock()
    with pytest.raises(KeyboardInterrupt):
        wait_for_turn(lock)  # type: ignore[arg-type]
    assert lock.taken == 1


def test_record_waits_for_whoever_is_inside_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow()
    with held(flow.channel._lock) as holder:
        monkeypatch.setattr(_turn, "sleep", lambda _: holder.give_back())
        assert flow.channel.publish(b"entry") == 1
    assert is_free(flow.channel._lock)
