"""
Settings: where they come from, and what they become.
"""

from __future__ import annotations

import ast
from typing import Any

from behave import given, then, when

from audit_buffer import BufferConfig


@given("the environment")
def environment(context: Any) -> None:
    context.environ = {row["variable"]: row["value"] for row in context.table}


@given('the file "{name}"')
def file(context: Any, name: str) -> None:
    (context.world.folder / name).write_text(context.text, encoding="utf-8")


@when("the settings are read from the environment")
def from_environment(context: Any) -> None:
    context.read_settings = None
    context.world.attempt(
        lambda: setattr(context, "read_settings", BufferConfig.from_env(environ=context.environ))
    )


@when('the settings are read from "{name}"')
def from_file(context: Any, name: str) -> None:
    path = context.world.folder / name
    context.world.attempt(lambda: setattr(context, "read_settings", BufferConfig.from_toml(path)))


@when("a buffer is to be opened with {name:w} = {value}")
def open_with(context: Any, name: str, value: str) -> None:
    world = context.world
    if not hasattr(world, "service"):
        world.use_database()
        world.log.create_schema()
    world.attempt(lambda: world.open_buffer(**{name: ast.literal_eval(value)}))


@then("the settings are")
def settings_are(context: Any) -> None:
    assert context.world.error is None, f"{context.world.error}"
    for row in context.table:
        found = getattr(context.read_settings, row["name"])
        assert repr(found) == row["value"], f"{row['name']} is {found!r}"
