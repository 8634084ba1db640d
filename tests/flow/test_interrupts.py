"""
KeyboardInterrupt at every opcode of `record()`, `flush()` and `close()` (hazard 7).

The interpreter looks for signals where calls return and loops go back, not between leaving a `with` block's body and calling
`__exit__`; those few opcodes are left out, because an exception there cannot happen, and would leak any lock in Python.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import audit_buffer
import audit_buffer.testing
from audit_buffer import AuditBuffer, EntryRejected, _recorders
from audit_buffer._ring import MemoryRing
from audit_buffer._usual import encode_usual, encode_usual_by_msgspec
from audit_buffer.testing import FakeClock, MemorySink
from tests.flow.doubles import PATIENCE, seqs_of
from tests.flow.test_reentrancy import InterruptedRing


PACKAGE = str(Path(audit_buffer.__file__).parent)


@cache
def uninterruptible(code: CodeType) -> frozenset[int]:
    """
    Return the offsets at which a `with` block's `__exit__(None, None, None)` is about to be called, and those of NOPs.
    """
    instructions = list(dis.get_instructions(code))
    # A NOP marks a line, `try:` for one, and stands in no exception table.
    offsets = {i.offset for i in instructions if i.opname == "NOP"}
    for at in range(len(instructions) - 3):
        three = instructions[at : at + 3]
        if all(i.opname in ("LOAD_CONST", "RETURN_CONST") and i.argval is None for i in three):
            before, behind = at - 1, at + 3
            offsets.update(i.offset for i in three)
            while instructions[before].opname == "SWAP":
                offsets.add(instructions[before].offset)
                before -= 1
            while instructions[behind].opname in ("PRECALL", "CALL"):
                offsets.add(instructions[behind].offset)
                behind += 1
    return frozenset(offsets)


def interrupted_at(count: int, call: Callable[[], Any]) -> bool:
    """
    Run *call* with a KeyboardInterrupt at its opcode number *count*; tell whether it has so many.
    """
    left = count

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        # The sink stands for a database, whose transactions are whole or not at all.
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file == audit_buffer.testing.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti not in uninterruptible(frame.f_code):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    coverage = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at this when settrace() is called
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(coverage)
    return left <= 0


def handled_at(count: int, call: Callable[[], Any], handler: Callable[[], Any]) -> bool:
    """
    Run *call*, and *handler* as a signal handler at its place number *count* where CPython runs one; tell whether it has so many.

    That is where a function begins, behind a call, and where a loop goes back; nowhere else.
    """
    left = count
    behind: dict[FrameType, str] = {}  # the instruction that each frame has executed last

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if behind.get(frame, "RESUME").startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                left -= 1
                if left == 0:
                    handler()
            behind[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        return trace

    coverage = sys.gettrace()
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(coverage)
    return left <= 0


def each_opcode(call: Callable[[int], Callable[[], Any]]) -> Iterator[int]:
    """
    Yield after each interruption, until the call comes to its end before it.
    """
    count = 1
    while interrupted_at(count, call(count)):
        yield count
        count += 1


def quiet_buffer(ring: MemoryRing | None = None, **settings: Any) -> AuditBuffer:
    """
    Return a buffer whose writer does not start, so that only this thread does anything.
    """
    audit = AuditBuffer(MemorySink(), clock=FakeClock(), **settings)
    if ring is not None:
        audit._channel.ring = ring
    audit._writer.worker.ensure_running = lambda: None  # type: ignore[method-assign]
    return audit


def finish(audit: AuditBuffer) -> dict[int, str]:
    """
    Write all that is there, and return it.
    """
    channel = audit._channel
    assert not channel.is_held_here(), "a lock is left held"
    assert not audit._writer.writes_here(), "a lock is left held"
    channel.begin_close()
    while audit._writer.step():
        pass
    audit.close()  # or each of many thousands would begin anew in whatever a later test forks
    now = channel.snapshot()
    assert now.committed == now.published
    assert (now.pending, now.pending_bytes) == (0, 0), "numbers are mended"
    assert seqs_of(audit._target) == list(range(1, now.published + 1)), "dense, each once"
    return {entry.seq: entry.event_type for entry in audit._target.entries}


@pytest.mark.parametrize("queue_maxsize", [3, 100_000])
def test_record_interrupted_at_every_opcode_leaves_no_gap_and_no_double(queue_maxsize: int) -> None:
    """
    The entry is there or it is not; the next record gets the next seq, and no gap is left.

    With a ring of three each record crosses a threshold as well.
    """
    audit = quiet_buffer(queue_maxsize=queue_maxsize)
    promised: dict[int, str] = {}
    opcodes = 0
    for count in each_opcode(lambda count: lambda: audit.record(f"try.{count}", details={"n": count})):
        opcodes = count
        assert not audit._channel.is_held_here()
        before = audit.stats().published
        seq = audit.record(f"next.{count}")
        assert seq == before + 1
        promised[seq] = f"next.{count}"
        if queue_maxsize == 3:
            audit._channel.request_flush()
            while audit._channel.snapshot().pending:
                audit._writer.step()
    assert opcodes > 50
    stored = finish(audit)
    assert audit.stats().dropped == 0
    assert audit._target.gaps == []
    assert all(stored[seq] == event for seq, event in promised.items())
    tries = [event for event in stored.values() if event.startswith("try")]
    assert len(tries) == len(set(tries))


@pytest.mark.parametrize("look", dict.fromkeys((encode_usual, encode_usual_by_msgspec)))
@pytest.mark.parametrize("error", [ValueError, TimeoutError, EntryRejected])
def test_what_a_signal_handler_raises_comes_out_of_record(
    error: type[Exception], look: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Also where `record()` expects such an error of the encoder: a time limit, or the handler's own refused entry, is not lost.
    """
    monkeypatch.setattr(_recorders, "encode_usual", look)
    audit = quiet_buffer()

    def handler() -> None:
        raise error("raised by the handler")

    def outcome(count: int) -> str:
        try:
            return "too late" if handled_at(count, record, handler) else "at the end"
        except error as raised:
            return str(raised)

    def record() -> int:
        return audit.record("e", actor="a", details={"n": 1, "tags": ["x"]})

    outcomes = [outcome(count) for count in range(1, 60)]
    places = outcomes.index("at the end")
    assert places > 10
    assert outcomes[:places] == ["raised by the handler"] * places
    finish(audit)


def test_record_interrupted_while_it_was_interrupted_keeps_every_promise() -> None:
    """
    An inner record got its seq; wherever the outer one is cut off, the inner entry is there, under that seq, once.
    """
    ring = InterruptedRing()
    audit = quiet_buffer(ring)
    promised: dict[int, str] = {}

    def inner(name: str) -> Callable[[], None]:
        return lambda: promised.__setitem__(audit.record(name), name)

    def outer(count: int) -> Callable[[], int]:
        ring.before[:] = [inner(f"a.{count}"), inner(f"b.{count}")]
        ring.after[:] = [inner(f"c.{count}")]
        return lambda: audit.record(f"outer.{count}")

    for count in each_opcode(outer):
        ring.before.clear()
        ring.after.clear()
        promised[audit.record(f"next.{count}")] = f"next.{count}"
    stored = finish(audit)
    assert all(stored[seq] == event for seq, event in promised.items())
    assert len(stored.values()) == len(set(stored.values()))


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_records_from_a_signal_handler_anywhere_in_record_keep_their_bytes_and_seqs(
    durability: str, tmp_path: Path
) -> None:
    """
    A signal handler records two entries, at each place: each of the three has its own bytes, under the seq it was promised.
    """
    audit = quiet_buffer(durability=durability, ring_dir=tmp_path, queue_maxsize=100_000)
    promised: dict[int, str] = {}

    def record(name: str) -> None:
        promised[audit.record(name, details={"name": name * 20})] = name

    def handler() -> None:
        record("first")
        record("second")

    places = 1
    while handled_at(places, lambda: record("interrupted"), handler):
        places += 1
    assert places > 10
    assert finish(audit) == promised
    kept = {entry.seq: entry.details for entry in audit._target.entries}
    assert kept == {seq: {"name": name * 20} for seq, name in promised.items()}
    audit.close()


@pytest.mark.parametrize("policy", ["raise", "block", "drop_newest", "drop_oldest"])
def test_a_full_ring_interrupted_at_every_opcode_accounts_for_every_seq(policy: str) -> None:
    """
    Wherever the policy is cut off: entries and gaps cover all seqs, and there is room again afterwards.
    """
    for count in range(1, 10_000):
        audit = quiet_buffer(on_full=policy, queue_maxsize=4, block_timeout=1.0)
        for number in range(4):
            audit.record(f"first.{number}")

        def call(audit: AuditBuffer = audit) -> None:
            try:
                audit.record("late")
            except audit_buffer.BufferFull:
                return

        if not interrupted_at(count, call):
            finish(audit)
            break
        audit._channel.request_flush()
        audit._writer.step()
        audit._writer.step()
        promised = audit.record("next")
        stored = finish(audit)
        assert stored[promised] == "next"
        gaps = sum(gap.dropped for gap in audit._target.gaps)
        assert gaps - audit.stats().dropped in (0, 1), (
            "the counter may miss the drop that was cut off, no gap row does"
        )
        if policy in ("raise", "block"):
            assert gaps == 0


@pytest.mark.parametrize("retain", [0, 1000])
@pytest.mark.parametrize("drops", ["", "drop_newest", "drop_oldest"])
def test_writing_interrupted_at_every_opcode_announces_no_entry_as_a_gap(drops: str, retain: int) -> None:
    """
    Wherever an exception falls between the ring and the database, also on the thread that exits: the batch is written by
    whoever writes next, once, and a gap row names only what was dropped.
    """

    for count in range(1, 10_000):
        # Two batches of two, and one that is dropped before or behind them.
        audit = quiet_buffer(on_full=drops or "raise", queue_maxsize=4, batch_size=2, retain_bytes=retain)
        for number in range(5 if drops else 4):
            audit.record(f"event.{number}")
        audit._channel.request_flush()
        more = interrupted_at(count, lambda audit=audit: write_all(audit))  # type: ignore[misc]
        stored = finish(audit)
        assert audit.stats().dropped == bool(drops)
        gone = {"": set(), "drop_newest": {5}, "drop_oldest": {1}}[drops]
        assert stored.keys() == set(range(1, 6 if drops else 5)) - gone
        assert all(event == f"event.{seq - 1}" for seq, event in stored.items())
        if not more:
            break
    assert count > 200


# An interruption where a generator is closed is reported, not raised (3.12).
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_writing_from_a_ring_file_interrupted_at_every_opcode_writes_each_entry_once(tmp_path: Path) -> None:
    """
    As above; the file is made once, so that one interruption after the other hits it.
    """
    audit = quiet_buffer(
        durability="process", ring_dir=tmp_path, ring_bytes=1 << 16, max_entry_bytes=1 << 10, batch_size=2
    )
    for count in range(1, 10_000):
        for _ in range(2):
            audit.record("event")
        audit._channel.request_flush()
        more = interrupted_at(count, lambda: write_all(audit))
        # A release() that was cut off is made up for by the next one.
        audit.record("next")
        audit._channel.request_flush()
        write_all(audit)
        assert audit._channel.snapshot().pending == 0
        assert audit._channel.ring._committed[0] == audit.stats().published
        assert audit._target.seqs == list(range(1, audit.stats().published + 1))
        if not more:
            break
    assert audit._target.gaps == []
    finish(audit)


def write_all(audit: AuditBuffer) -> None:
    """
    Do what the writer does with a flush under way, without its lock: Python's own would leak where it is taken.
    """
    while audit._writer._attempt() == 0.0:
        pass


def test_flush_interrupted_at_every_opcode_can_be_repeated() -> None:
    """
    The barrier is given up, the writer goes on, and the next flush() returns.
    """
    audit = AuditBuffer(MemorySink(), flush_interval=1000)

    def flush(count: int) -> Callable[[], None]:
        audit.record(f"event.{count}")
        return lambda: audit.flush(timeout=PATIENCE)

    for _ in each_opcode(flush):
        assert not audit._channel.is_held_here()
        audit.flush(timeout=PATIENCE)
    audit.close(timeout=PATIENCE)
    assert audit._target.seqs == list(range(1, audit.stats().published + 1))


def test_close_interrupted_at_every_opcode_can_be_repeated() -> None:
    """
    The second close() comes to the same end: all is committed, the sink is closed once.
    """
    buffers: list[AuditBuffer] = []

    def close(count: int) -> Callable[[], None]:
        buffers.append(AuditBuffer(MemorySink(), flush_interval=1000))
        buffers[-1].record("event")
        return lambda: buffers[-1].close(timeout=PATIENCE)

    for _ in each_opcode(close):
        audit = buffers[-1]
        assert not audit._channel.is_held_here()
        audit.close(timeout=PATIENCE)
        assert audit.stats().state == "closed"
        assert audit._target.seqs == [1]
        assert audit._target.closed == 1


def test_the_writer_is_asked_for_after_every_interruption() -> None:
    """
    The first record is cut off wherever; the second one starts the writer, or finds it running.
    """
    for count in range(1, 10_000):
        audit = quiet_buffer()
        asked: list[int] = []
        audit._writer.worker.ensure_running = lambda asked=asked: asked.append(1)  # type: ignore[method-assign]
        more = interrupted_at(count, lambda audit=audit: audit.record("first"))  # type: ignore[misc]
        audit.record("second")
        assert asked
        finish(audit)
        if not more:
            break
