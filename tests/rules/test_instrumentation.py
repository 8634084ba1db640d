"""
What the events for observers promise.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from uuid import UUID

import attrs
import pytest
import structlog
from structlog.testing import LogCapture

from audit_buffer import instrumentation
from audit_buffer.instrumentation import BatchCommitted, BatchFailed, BufferClosedEvent, Event


COMMITTED = BatchCommitted(
    buffer_id=UUID(int=1), first_seq=1, last_seq=3, entries=3, reason="flush", seconds=0.5
)
FAILED = BatchFailed(buffer_id=None, first_seq=1, last_seq=3, attempt=2, retry_in=0.5, error="down")


@pytest.fixture
def no_structlog() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def hooks() -> Iterator[None]:
    yield
    instrumentation.set_hooks([instrumentation.log_event])


def kinds() -> list[type[Event]]:
    return [
        kind for kind in vars(instrumentation).values() if isinstance(kind, type) and issubclass(kind, Event)
    ]


def test_every_event_is_named_after_its_class() -> None:
    """
    `audit_buffer.` and the class in snake case; the words are those of the docs.
    """
    names = {kind.__name__: kind.name.fget(object.__new__(kind)) for kind in kinds() if kind is not Event}
    assert names["BatchCommitted"] == "audit_buffer.batch_committed"
    assert names["BufferClosedEvent"] == "audit_buffer.buffer_closed"
    assert len(set(names.values())) == len(names)
    assert set(names) | {"Event"} <= set(instrumentation.__all__)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_event_is_frozen_and_has_a_level_of_structlog(kind: type[Event]) -> None:
    """
    Hooks on several threads may hold the same event.
    """
    assert kind.level in ("debug", "info", "warning", "error")
    event = attrs.evolve(COMMITTED)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.entries = 4  # type: ignore[misc]


@pytest.mark.usefixtures("no_structlog")
def test_a_configured_structlog_gets_every_event_as_fields() -> None:
    """
    The buffer_id is text there, because log lines are.
    """
    log = LogCapture()
    structlog.configure(processors=[log])
    instrumentation.emit(COMMITTED)
    assert log.entries == [
        {
            "event": "audit_buffer.batch_committed",
            "log_level": "debug",
            "buffer_id": UUID(int=1).hex,
            "first_seq": 1,
            "last_seq": 3,
            "entries": 3,
            "reason": "flush",
            "seconds": 0.5,
        }
    ]


@pytest.mark.usefixtures("no_structlog")
def test_without_structlog_only_warnings_and_errors_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """
    On standard error: standard output belongs to the program.
    """
    instrumentation.emit(COMMITTED)
    instrumentation.emit(BufferClosedEvent(buffer_id=None, committed=3))
    assert capsys.readouterr() == ("", "")
    instrumentation.emit(FAILED)
    said = capsys.readouterr()
    assert said.out == ""
    assert "audit_buffer.batch_failed" in said.err


@pytest.mark.usefixtures("hooks")
def test_a_hook_that_raises_harms_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The hooks behind it are called, and the traceback goes to standard error.
    """
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise LookupError(event.name)

    instrumentation.set_hooks([broken, seen.append])
    instrumentation.emit(COMMITTED)
    assert seen == [COMMITTED]
    assert "LookupError: audit_buffer.batch_committed" in capsys.readouterr().err


@pytest.mark.usefixtures("hooks")
def test_a_closed_standard_error_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A daemon may have closed it; then there is nobody left to tell.
    """
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    instrumentation.set_hooks([lambda event: 1 / 0])
    instrumentation.emit(FAILED)


@pytest.mark.usefixtures("hooks")
def test_set_hooks_replaces_them_for_the_whole_process() -> None:
    """
    The default hook is one of them: name it again to keep it.
    """
    seen: list[Event] = []
    instrumentation.set_hooks(iter([seen.append]))
    instrumentation.emit(COMMITTED)
    instrumentation.set_hooks([])
    instrumentation.emit(FAILED)
    assert seen == [COMMITTED]
