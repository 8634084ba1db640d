"""
What the small event bus promises.
"""

from __future__ import annotations

from threading import Barrier, Thread

import pytest

from audit_buffer import DomainEvent, EventBus


def test_handlers_are_called_in_the_order_of_their_subscription() -> None:
    """
    On the thread that emits, each before the next, those of the type and those of every type alike.
    """
    bus, calls = EventBus(), []
    bus.subscribe("a", lambda event: calls.append(("first", event.event_type)))
    bus.subscribe(None, lambda event: calls.append(("every", event.event_type)))
    bus.subscribe("b", lambda event: calls.append(("other", event.event_type)))
    bus.emit(DomainEvent(event_type="a"))
    bus.emit(DomainEvent(event_type="b"))
    assert calls == [("first", "a"), ("every", "a"), ("every", "b"), ("other", "b")]


def test_unsubscribing_ends_one_subscription() -> None:
    """
    The same handler may be subscribed twice; ending a subscription twice does no harm.
    """
    bus, calls = EventBus(), []
    end = bus.subscribe(None, calls.append)
    bus.subscribe(None, calls.append)
    end()
    end()
    bus.emit(DomainEvent(event_type="a"))
    assert len(calls) == 1


def test_a_handler_may_end_its_own_subscription_while_it_is_called() -> None:
    """
    An emit in progress goes through the handlers that it found.
    """
    bus, calls = EventBus(), []
    ends = []

    def once(event: DomainEvent) -> None:
        calls.append("once")
        ends[0]()

    ends.append(bus.subscribe(None, once))
    bus.subscribe(None, lambda event: calls.append("always"))
    bus.emit(DomainEvent(event_type="a"))
    bus.emit(DomainEvent(event_type="a"))
    assert calls == ["once", "always", "always"]


def test_what_a_handler_raises_reaches_the_emitter() -> None:
    """
    The bus is synchronous in this, too.
    """
    bus, calls = EventBus(), []

    def fail(event: DomainEvent) -> None:
        raise KeyError(event.event_type)

    bus.subscribe(None, fail)
    bus.subscribe(None, calls.append)
    with pytest.raises(KeyError, match="a"):
        bus.emit(DomainEvent(event_type="a"))
    assert not calls


def test_no_subscription_is_lost_between_threads() -> None:
    """
    Threads that subscribe at once are all heard.
    """
    bus, calls, barrier = EventBus(), [], Barrier(4)

    def subscribe() -> None:
        barrier.wait()
        for _ in range(100):
            bus.subscribe(None, calls.append)

    threads = [Thread(target=subscribe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.emit(DomainEvent(event_type="a"))
    assert len(calls) == 400
