"""
What the error tree promises.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from uuid import UUID

import pytest

import audit_buffer
from audit_buffer import errors


EXAMPLES = [
    errors.BufferFull("full", depth=3, pending_bytes=99, oldest_age=0.5, last_error=OSError("down")),
    errors.BufferClosed("closed"),
    errors.FlushTimeout(2, 1.5, OSError("down")),
    errors.EntryRejected("no", field="actor"),
    errors.SinkError("refused", advice="grant it"),
    errors.EntryQuarantined("set aside", buffer_id=UUID(int=7), seq=3),
    errors.IntegrityAlarm(
        "strangers", buffer_id=UUID(int=7), first_seq=3, last_seq=4, continued_as=UUID(int=8)
    ),
    errors.RingError("broken", path=Path("ring")),
    errors.RingCorrupt("damaged", path=Path("ring")),
    errors.RingInUse("taken", path=Path("ring")),
    errors.RingVersionUnsupported("9", path=Path("ring")),
    errors.ConfigError("batch_size", -1, "must be positive"),
]
BY_NAME = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def test_every_error_is_in_the_tree_and_exported() -> None:
    """
    One `except AuditBufferError` catches all, and each has a public name.
    """
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__) - {"AuditBufferError"}
    assert set(errors.__all__) <= set(audit_buffer.__all__)
    assert all(isinstance(error, errors.AuditBufferError) for error in EXAMPLES)


@BY_NAME
def test_the_drawing_names_every_error(error: Exception) -> None:
    """
    The module's docstring draws the tree.
    """
    assert type(error).__name__ in str(errors.__doc__)


@BY_NAME
def test_an_error_crosses_a_process_boundary(error: Exception) -> None:
    """
    Message and attributes survive pickling; a `multiprocessing.Pool` would hang on one that does not.
    """
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other).keys() == vars(error).keys()
        assert all(repr(vars(other)[name]) == repr(value) for name, value in vars(error).items())


def test_refused_arguments_and_settings_are_value_errors_too() -> None:
    """
    Code that knows nothing of this library may catch `ValueError`.
    """
    assert issubclass(errors.EntryRejected, ValueError)
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.RingCorrupt, errors.RingError)


def test_messages_say_how_much_waits_and_why() -> None:
    """
    The numbers are attributes, and they are in the message as well.
    """
    full, timeout = EXAMPLES[0], EXAMPLES[2]
    assert str(full) == (
        "full: 3 entries (99 bytes) wait for the database, the oldest for 0.500 s; the writer last met OSError('down')"
    )
    assert str(timeout) == "2 entries still wait after 1.5 s; the writer last met OSError('down')"
    assert "met" not in str(errors.FlushTimeout(1, 0, None))
    assert "met" not in str(errors.BufferFull("full", depth=1, pending_bytes=1, oldest_age=0.0))


class Broken:
    def __repr__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("x" * 1000, f"'{'x' * 199}… (1002 characters)"),
        (Broken(), "<Broken whose repr raises LookupError>"),
        pytest.param(10**5000, "<int whose repr raises ValueError>", id="huge"),
    ],
)
def test_any_value_can_be_shown_in_a_message(value: object, text: str) -> None:
    """
    A message about a refused value must not fail on that value, nor be as long as it.
    """
    assert errors.shown(value) == text
