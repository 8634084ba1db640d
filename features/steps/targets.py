"""
Other places than the audit log: the application's own table, its own service, its own sink.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from behave import step, then, when
from sqlalchemy import select

from audit_buffer.schema import gap_table
from features.support.own import PaymentState, payments, shift


def rows(context: Any, table: Any = payments) -> list[Any]:
    """
    Return the rows of *table* as the auditor sees them.
    """
    with context.world.auditor.connect() as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key)))


@when("the application records these payments")
def record_payments(context: Any) -> None:
    context.payments = [
        {"amount": Decimal(row["amount"]), "state": PaymentState[row["state"]], "note": row["note"]}
        for row in context.table
    ]
    for payment in context.payments:
        # An empty cell is a column that the call does not name.
        context.world.buffer.record(**{name: value for name, value in payment.items() if value})


@when("the application records {count:d} payments")
def record_many(context: Any, count: int) -> None:
    for _ in range(count):
        context.world.recorded += 1
        context.world.buffer.record(amount=Decimal(context.world.recorded))


@when("the application records a payment of {amount}")
def record_payment(context: Any, amount: str) -> None:
    context.world.buffer.record(amount=Decimal(amount))


@when('the application tries to record a payment with a column "{name}"')
def try_unknown(context: Any, name: str) -> None:
    context.world.attempt(lambda: context.world.buffer.record(amount=Decimal(1), **{name: "red"}))


@step('the shift is "{name}"')
def shift_is(context: Any, name: str) -> None:
    shift[0] = name


@then("the own table holds these payments in this order")
def holds_payments(context: Any) -> None:
    found = [{"amount": row.amount, "state": row.state, "note": row.note or ""} for row in rows(context)]
    assert found == context.payments, f"{found}"


@then('the own table dates that payment to the "{name}" shift')
def dated(context: Any, name: str) -> None:
    (row,) = rows(context)
    assert row.shift == name


@then("the own table holds {count:d} payments")
def holds_count(context: Any, count: int) -> None:
    assert len(rows(context)) == count


@then("the own table holds {count:d} payments in order, each once")
def holds_once(context: Any, count: int) -> None:
    assert [row.amount for row in rows(context)] == list(range(1, count + 1))


@then("beside the own table it says that {count:d} payments were dropped")
def says_dropped(context: Any, count: int) -> None:
    (gap,) = rows(context, gap_table)
    assert (gap.dropped, gap.last_seq - gap.first_seq + 1) == (count, count)


@when("the application calls its service with a date, an amount and a tuple")
def call_service(context: Any) -> None:
    context.call = (("paid", dt.date(2026, 11, 24)), {"amount": Decimal("1.50"), "items": (1, b"two", None)})
    args, kwargs = context.call
    context.world.buffer.record(*args, **kwargs)


@then("the service was called with the same values of the same types")
def called(context: Any) -> None:
    (call,) = context.journal.calls
    assert repr(call) == repr(context.call), f"{call}"


@then("the place was given the entries 1 to {last:d} in this order")
def given(context: Any, last: int) -> None:
    assert context.place.seqs == list(range(1, last + 1))
    assert [entry.details["ordinal"] for entry in context.place.entries] == context.place.seqs
