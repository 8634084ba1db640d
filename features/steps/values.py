"""
Values of entries: kept, or refused at the call.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from behave import then, when


def value_of(expression: str) -> Any:
    """
    Return the value that a table writes as Python does.
    """
    return eval(expression, {"UUID": UUID, "datetime": datetime, "float": float})


@when("the application records each of these values")
def record_each(context: Any) -> None:
    context.values = [value_of(row["value"]) for row in context.table]
    for value in context.values:
        text = value if isinstance(value, str) else None
        context.world.buffer.record("value.set", actor=text, details={"value": value})


@when('the application tries to record {value} under "details"')
def try_details(context: Any, value: str) -> None:
    details = {"value": value_of(value)}
    context.world.attempt(lambda: context.world.buffer.record("value.set", details=details))


@when('the application tries to record {value} as its "{argument}"')
def try_argument(context: Any, value: str, argument: str) -> None:
    arguments = {"event_type": "value.set", argument: value_of(value)}
    context.world.attempt(lambda: context.world.buffer.record(**arguments))


@then("the log gives each of them back equal")
def given_back(context: Any) -> None:
    rows = context.world.rows()
    assert len(rows) == len(context.values)
    for row, value in zip(rows, context.values, strict=True):
        found = row.details["value"]
        assert found == value, f"{found!r}"
        assert type(found) is type(value), f"{found!r}"
        assert row.actor == (value if isinstance(value, str) else None)
        assert context.world.log.count(actor=row.actor) == 1 or row.actor is None
