"""
What replayed calls promise: any object with `record()`, the same arguments, in order, at least once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_buffer import AuditBuffer, Batch, BufferConfig, ConfigError, EntryRejected, SinkError
from audit_buffer.sinks._calls import CallSink, encode_call
from tests.rules.values import Flags, Plain, same, typed_values


class Recorder:
    """
    An application's recorder; calls fail as scripted.
    """

    def __init__(self, *script: Exception | None) -> None:
        self.script = list(script)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(self, *args: Any, **kwargs: Any) -> str:
        outcome = self.script.pop(0) if self.script else None
        if outcome is not None:
            raise outcome
        self.calls.append((args, kwargs))
        return "ignored"

    def history(self) -> int:
        return len(self.calls)


@given(st.lists(typed_values(), max_size=3), st.dictionaries(st.text(), typed_values(), max_size=3))
def test_the_callee_gets_what_the_caller_gave(args: list[Any], kwargs: dict[str, Any]) -> None:
    """
    Positional or named, each of the same type all the way down.
    """
    recorder = Recorder()
    sink = CallSink(recorder)
    sink.write(
        Batch(buffer_id=UUID(int=1), after=0, through=1, stored=[(1, encode_call(tuple(args), kwargs))])
    )
    ((got_args, got_kwargs),) = recorder.calls
    assert same(list(got_args), args)
    assert same(got_kwargs, kwargs)


def test_calls_are_replayed_in_order_behind_a_buffer() -> None:
    """
    And reads of the object see them, because they flush first.
    """
    recorder = Recorder()
    now = datetime.now(UTC)
    with AuditBuffer(recorder, durability="memory", flush_interval=60.0) as audit:
        assert audit.record("a", when=now, amount=Decimal("1.10"), flags=Flags.A | Flags.B) == 1
        assert audit.record(Plain.TWO, (1, {2}), raw=b"\x00") == 2
        assert audit.history() == 2
    assert recorder.calls == [
        (("a",), {"when": now, "amount": Decimal("1.10"), "flags": Flags.A | Flags.B}),
        ((Plain.TWO, (1, {2})), {"raw": b"\x00"}),
    ]


def test_an_argument_of_an_unknown_class_is_refused_with_the_remedy() -> None:
    """
    At the call; the object's `record()` never hears of it.
    """
    recorder = Recorder()
    with AuditBuffer(recorder, durability="memory") as audit:
        with pytest.raises(
            EntryRejected, match=r"who\['x'\] = .* which cannot be kept as it is; pass text"
        ) as caught:
            audit.record("a", who={"x": recorder})
        assert caught.value.field == "who"
        with pytest.raises(EntryRejected, match="max_entry_bytes"):
            audit.record(b"x" * (1 << 20))
    assert recorder.calls == []


def test_no_call_that_returned_is_made_again_in_this_process() -> None:
    """
    A failure in the middle of a batch comes again at the call that failed, and not at the first.
    """
    recorder = Recorder(None, None, OSError("down"), OSError("still down"))
    with AuditBuffer(
        recorder, durability="memory", flush_interval=60.0, retry_backoff=0.001, retry_backoff_max=0.001
    ) as audit:
        for number in range(5):
            audit.record(number)
        audit.flush(timeout=20)
        assert audit.stats().retries == 2
    assert [args[0] for args, _ in recorder.calls] == [0, 1, 2, 3, 4]


def test_what_a_call_raised_is_told_by_flush() -> None:
    """
    With the callee's own error as the cause.
    """
    failure = OSError("down")
    # It fails until flush() has looked, however late that is.
    recorder = Recorder(*[failure] * 1000)
    with AuditBuffer(recorder, durability="memory", flush_interval=60.0, retry_backoff=0.001) as audit:
        audit.record(1)
        with pytest.raises(SinkError) as caught:
            audit.flush()
        recorder.script.clear()
        assert caught.value.__cause__ is failure


def test_redaction_sees_the_named_arguments() -> None:
    """
    Those without a name are passed as they are.
    """
    recorder = Recorder()
    config = BufferConfig(durability="memory", redact=lambda named: {**named, "password": "***"})
    with AuditBuffer(recorder, config) as audit:
        audit.record("login", password="hunter2")
    assert recorder.calls == [(("login",), {"password": "***"})]


def test_a_call_with_a_session_is_made_at_once() -> None:
    """
    Its owner commits; the object sees the session itself.
    """
    recorder, session = Recorder(), object()
    with AuditBuffer(recorder, durability="memory") as audit:
        audit.record("a", session=session)
        assert recorder.calls == [(("a",), {"session": session})]
        audit.record("b", session=None)
    assert recorder.calls[1] == (("b",), {})


def test_an_object_without_record_is_no_target() -> None:
    """
    The error names the four kinds.
    """
    with pytest.raises(
        ConfigError, match=r"an AuditService, a TableSink, a Sink, or have a record\(\) method"
    ):
        AuditBuffer(object())


def test_positions_are_kept_apart_by_buffer() -> None:
    """
    Two buffers may share one object.
    """
    sink = CallSink(Recorder())
    one, other = uuid4(), uuid4()
    sink.open()
    sink.write(
        Batch(buffer_id=one, after=0, through=2, stored=[(1, encode_call((), {})), (2, encode_call((), {}))])
    )
    assert (sink.position(one), sink.position(other)) == (2, 0)
    sink.close()
