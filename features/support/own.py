"""
What an application has of its own: a table of payments, and a service that keeps a journal.
"""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import Column, Engine, Enum, Integer, MetaData, Numeric, String, Table


__all__ = ["Journal", "PaymentState", "create_payments", "payments", "shift"]

# The shift that works at the moment; the default of a column.
shift = ["early"]


class PaymentState(enum.Enum):
    """
    How a payment ended.
    """

    paid = "P"
    refused = "R"


payments = Table(
    "payments",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("amount", Numeric(12, 2), nullable=False),
    Column("state", Enum(PaymentState), nullable=False, default=PaymentState.paid),
    Column("note", String(100)),
    Column("shift", String(10), nullable=False, default=lambda: shift[0]),
)


def create_payments(engine: Engine) -> None:
    """
    Create the application's table, and begin with the early shift.
    """
    shift[0] = "early"
    payments.create(engine)


class Journal:
    """
    A service of the application that knows nothing of this library.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(self, *args: Any, **kwargs: Any) -> None:
        """
        Keep the call.
        """
        self.calls.append((args, kwargs))
