"""
The application that `demo` plays: a small shop whose operations emit domain events.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator

from audit_buffer.events import DomainEvent


__all__ = ["domain_events", "work"]

_ACTORS = ("alice@example.org", "bob@example.org", "carol@example.org", "api-key/4f2a", "agent-7")
_CARRIERS = ("DHL", "UPS", "Posta", "Royal Mail")


def domain_events(seed: int = 7) -> Iterator[DomainEvent]:
    """
    Yield events without an end, the same for the same *seed*.
    """
    chance = random.Random(seed)  # noqa: S311  (a play, not a secret)
    makers = (_order_placed, _payment_captured, _parcel_shipped, _login, _price_changed)
    number = 0
    while True:
        number += 1
        yield makers[number % len(makers)](chance, number)


def work(seconds: float) -> None:
    """
    Keep the CPU busy, as a domain operation does between its events.
    """
    until = time.perf_counter() + seconds
    digest = b"order"
    while time.perf_counter() < until:
        digest = hashlib.sha256(digest).digest()


def _order_placed(chance: random.Random, number: int) -> DomainEvent:
    items = [
        {"sku": f"SKU-{chance.randrange(1000):04}", "quantity": chance.randint(1, 4)}
        for _ in range(chance.randint(1, 3))
    ]
    return DomainEvent(
        event_type="order.placed",
        actor=chance.choice(_ACTORS),
        resource=f"order/{number}",
        details={"items": items, "total": round(chance.uniform(5, 400), 2), "currency": "EUR"},
        correlation_id=f"req-{number:08x}",
    )


def _payment_captured(chance: random.Random, number: int) -> DomainEvent:
    declined = chance.random() < 0.08
    return DomainEvent(
        event_type="payment.captured",
        actor="payments",
        resource=f"order/{number}",
        outcome="declined" if declined else "success",
        details={"method": "card", "last4": f"{chance.randrange(10_000):04}"},
        correlation_id=f"req-{number:08x}",
    )


def _parcel_shipped(chance: random.Random, number: int) -> DomainEvent:
    return DomainEvent(
        event_type="parcel.shipped",
        actor="warehouse",
        resource=f"order/{number}",
        details={"carrier": chance.choice(_CARRIERS), "weight_g": chance.randrange(100, 20_000)},
    )


def _login(chance: random.Random, number: int) -> DomainEvent:
    failed = chance.random() < 0.1
    return DomainEvent(
        event_type="user.login",
        actor=chance.choice(_ACTORS),
        outcome="failure" if failed else "success",
        details={"ip": f"198.51.100.{chance.randrange(256)}", "mfa": not failed},
    )


def _price_changed(chance: random.Random, number: int) -> DomainEvent:
    old = round(chance.uniform(1, 100), 2)
    return DomainEvent(
        event_type="price.changed",
        actor=chance.choice(_ACTORS),
        resource=f"product/SKU-{chance.randrange(1000):04}",
        details={"from": old, "to": round(old * chance.uniform(0.8, 1.2), 2)},
    )
