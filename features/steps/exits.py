"""
Applications that end: each is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from behave import then, when


APPLICATION = Path(__file__).parent.parent / "applications" / "records_and_ends.py"
ROOT = APPLICATION.parent.parent.parent


@when("an application records {count:d} entries and ends by {end}")
def run(context: Any, count: int, end: str) -> None:
    context.ended = subprocess.run(
        [sys.executable, APPLICATION, context.world.url, str(count), end],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@then("its exit code is {code:d}")
def exit_code(context: Any, code: int) -> None:
    assert context.ended.returncode == code, f"{context.ended.returncode}: {context.ended.stderr}"


@then('it says "{words}"')
def says(context: Any, words: str) -> None:
    assert words in context.ended.stderr, f"{context.ended.stderr}"
