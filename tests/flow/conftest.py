"""
Every test of the flow collects events instead of logging them, and leaves nothing for the exit hook.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from audit_buffer import instrumentation
from audit_buffer.instrumentation import Event


@pytest.fixture(autouse=True)
def events() -> Iterator[list[Event]]:
    """
    What was observed during the test.
    """
    seen: list[Event] = []
    instrumentation.set_hooks([seen.append])
    yield seen
    instrumentation.set_hooks([instrumentation.log_event])
