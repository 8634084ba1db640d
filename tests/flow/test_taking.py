"""
An exception inside `take()`, at the places that matter one by one (test_interrupts.py has every instruction).
"""

from __future__ import annotations

import gc
from typing import Any

import pytest

from audit_buffer._kept import Retention
from audit_buffer._ledger import Ledger
from audit_buffer._ring import MemoryRing
from audit_buffer._timing import FlushReason
from tests.flow.doubles import Flow


def interrupted_take(flow: Flow) -> None:
    with pytest.raises(KeyboardInterrupt):
        flow.channel._ledger.take(flow.ring, FlushReason.FLUSH, 0.0)


@pytest.mark.parametrize("number", ["in_hand_since", "taken_bytes", "taken_floor", "taken", "in_hand"])
def test_a_batch_that_is_out_of_the_ring_is_in_hand(number: str) -> None:
    """
    Cut off in front of any of its numbers: all of them are those of the batch.
    """
    flow, armed = Flow(), [number]

    class Interrupted(Ledger):
        def __setattr__(self, name: str, value: Any) -> None:
            if name in armed:
                armed.remove(name)
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    for _ in range(2):
        flow.record()
    ledger = flow.channel._ledger
    ledger.__class__ = Interrupted
    interrupted_take(flow)
    assert ledger.in_hand is not None
    assert [seq for seq, _ in ledger.in_hand.entries] == [1, 2]
    assert (ledger.taken, ledger.taken_floor, ledger.taken_bytes) == (2, 2, 2)


def test_a_batch_in_hand_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Cut off behind the last of its numbers.
    """
    flow, through = Flow(), list[int]()
    flow.record()
    ledger = flow.channel._ledger

    def forget(seq: int) -> None:
        through.append(seq)
        if len(through) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(ledger.gaps, "forget", forget)
    interrupted_take(flow)
    assert ledger.in_hand is not None
    assert through == [1, 1]


def test_a_batch_that_is_not_complete_is_in_the_ring_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Cut off behind the ring, before anything of it was noted.
    """
    flow = Flow()
    for _ in range(2):
        flow.record()
    ledger = flow.channel._ledger

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(ledger.gaps), "reach", interrupt)
        interrupted_take(flow)
    assert ledger.in_hand is None
    taken = ledger.take(flow.ring, FlushReason.FLUSH, 0.0)
    assert [seq for seq, _ in taken.entries] == [1, 2]


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_memory_ring_offers_again_what_comes_behind(kept: int) -> None:
    """
    And not a second time what it still has.
    """
    ring = MemoryRing()
    if kept:
        ring.retain(Retention(size=kept))
    for seq in range(1, 5):
        ring.put(seq, b"x")
    assert len(ring.take(3, 1 << 20)) == 3
    ring.rewind(1)
    ring.rewind(1)
    assert [seq for seq, _ in ring.take(10, 1 << 20)] == [2, 3, 4]


def test_nobody_is_interrupted_where_nobody_records() -> None:
    """
    What is set aside is measured only inside of a call that stores.
    """
    assert Flow().channel._interrupted_bytes() == 0


def test_the_ring_is_given_up_when_the_last_sync_is_over() -> None:
    """
    A sync that is under way has the file open.
    """
    flow = Flow()
    flow.channel._syncing = True
    flow.clock.acts.append(lambda: setattr(flow.channel, "_syncing", False))
    flow.channel.close_ring()
    assert flow.clock.acts == []


def test_what_waits_in_memory_is_nothing_to_the_garbage_collector() -> None:
    """
    It would run inside of `record()`, once in some hundred calls.
    """
    ring, payload = MemoryRing(), bytearray(b"{}")
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        for seq in range(1, 1001):
            ring.put(seq, payload)
        assert gc.get_count()[0] - before < 10
    finally:
        gc.enable()
    assert ring.take(2, 100) == [(1, b"{}"), (2, b"{}")]
