"""
The end of a process with a ring file (hazards 2 and 3): whichever way it goes, and whether or not the database answers, what
record() returned is in the table or in the ring for the next start. (The memory level has its matrix in tests/flow.)
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from audit_buffer import AuditBuffer
from tests.crash.programs import create_schema, recover, rings, run, types
from tests.crash.sinks import BlockedSink


class Ending(NamedTuple):
    """
    How a program ends.

    Attributes:
        source: Its last lines; *buffer* is open and holds "one".
        status: Its exit status.
        hooks: Whether Python gets to run the exit hooks.
        more: What it records after "one".
        settings: Of the buffer.
    """

    source: str
    status: int = 0
    hooks: bool = True
    more: tuple[str, ...] = ()
    settings: str = ""


TERM = "os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(20)"
HANDLED = "handle_signals=['SIGTERM']"
ENDINGS = {
    "return": Ending(""),
    "sys.exit": Ending("sys.exit(3)", 3),
    "exception": Ending("raise ValueError('the application fails')", 1),
    "SIGINT": Ending("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(20)", -signal.SIGINT),
    "SIGTERM": Ending(TERM, -signal.SIGTERM, hooks=False),
    "SIGTERM, handled": Ending(TERM, 128 + signal.SIGTERM, settings=HANDLED),
    "SIGTERM twice, handled": Ending(
        f"atexit.register(os.kill, os.getpid(), signal.SIGTERM); {TERM}",
        128 + signal.SIGTERM,
        settings=HANDLED,
    ),
    "SIGTERM in the exit hook, handled": Ending(
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)", settings=HANDLED
    ),
    "os._exit": Ending("os._exit(5)", 5, hooks=False),
    "SIGKILL": Ending("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, hooks=False),
    "segfault": Ending("ctypes.string_at(0)", -signal.SIGSEGV, hooks=False),
    "record in an exit hook": Ending("atexit.register(buffer.record, 'two')", more=("two",)),
    "record in a late thread": Ending(
        "threading.Thread(target=lambda: (threading.main_thread().join(), buffer.record('two'))).start()",
        more=("two",),
    ),
}


def end(folder: Path, ending: Ending, opening: str) -> float:
    """
    Run a program that records and ends so; return how long it took in seconds.
    """
    started = time.monotonic()
    ended = run(folder, f'buffer = {opening}\nbuffer.record("one")\n{ending.source}\n')
    expected = {ending.status, 130} if ending.status == -signal.SIGINT else {ending.status}
    assert ended.returncode in expected, ended.stderr
    return time.monotonic() - started


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_everything_is_written_or_kept(tmp_path: Path, ending: Ending) -> None:
    """
    With the database up, an end that Python notices writes everything and leaves no ring; any other is made good by the
    next start.
    """
    service = create_schema(tmp_path)
    end(tmp_path, ending, f"open_buffer(flush_interval=60, exit_timeout=30, {ending.settings})")
    if ending.hooks:
        assert types(service.entries()) == ["one", *ending.more]
        assert rings(tmp_path) == []
    service.engine.dispose()
    assert types(recover(tmp_path)) == ["one", *ending.more]
    assert rings(tmp_path) == []


@pytest.mark.parametrize(
    "flush_interval", [pytest.param(0, marks=pytest.mark.torture, id="writing"), pytest.param(60, id="idle")]
)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_database_that_hangs_holds_nobody(tmp_path: Path, ending: Ending, flush_interval: float) -> None:
    """
    With a database that does not answer, the process ends after `exit_timeout`, and the ring has what it recorded.
    """
    opening = (
        f"open_buffer(BlockedSink(), flush_interval={flush_interval}, exit_timeout=0.3, {ending.settings})"
    )
    took = end(tmp_path, ending, opening)
    assert took < 20
    sink = BlockedSink()
    sink.gate.set()
    with AuditBuffer(
        sink, ring_dir=tmp_path / "rings", ring_bytes=1 << 20, max_entry_bytes=1 << 14
    ) as buffer:
        buffer.flush(timeout=30)
    assert sink.written == ["one", *ending.more]
    assert rings(tmp_path) == []


def test_what_is_kept_is_said(tmp_path: Path) -> None:
    """
    A process that ends with entries in its ring says how many, and that the next start has them.
    """
    ended = run(tmp_path, "open_buffer(BlockedSink(), exit_timeout=0.1, flush_interval=60).record('one')")
    assert "1 entries are kept in the ring file for the next start" in ended.stderr


@pytest.mark.parametrize("level", ["process", "memory"])
def test_the_handler_of_the_application_is_called(tmp_path: Path, level: str) -> None:
    """
    `handle_signals` extends a handler that was there; what it does, it does, and the exit hook follows.
    """
    service = create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        signal.signal(signal.SIGTERM, lambda *_: (say("the application's"), sys.exit(7)))
        buffer = open_buffer(flush_interval=60, handle_signals=["SIGTERM"])
        buffer.record("one")
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        level,
    )
    assert (ended.returncode, ended.stdout.strip()) == (7, "the application's"), ended.stderr
    assert types(service.entries()) == ["one"]
    service.engine.dispose()


def test_a_signal_still_ends_the_process_after_a_close_in_another_thread(tmp_path: Path) -> None:
    """
    Only the main thread can put a handler back. Where another thread closed the buffer, ours stays, and is not taken
    for the application's by the next buffer, which would then ignore the signal.
    """
    service = create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        first = open_buffer(handle_signals=["SIGTERM"])
        closing = threading.Thread(target=first.close)
        closing.start()
        closing.join()
        second = open_buffer(flush_interval=60, handle_signals=["SIGTERM"])
        second.record("one")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
        """,
    )
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert types(service.entries()) == ["one"]
    service.engine.dispose()


def test_one_buffer_that_cannot_be_drained_does_not_keep_the_others(tmp_path: Path) -> None:
    """
    The exit hook takes the buffers in turn; what goes wrong with one is reported, and the next one is written.
    """
    service = create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        from audit_buffer import _ring_disk

        hanging = open_buffer(BlockedSink(), durability="periodic", sync_interval=60, exit_timeout=0.1)
        hanging.record("hanging")
        def broken(*_): raise OSError(5, "planted")
        _ring_disk.sync_data = broken
        open_buffer(flush_interval=60).record("one")
        """,
    )
    assert "planted" in ended.stderr
    assert types(service.entries()) == ["one"], ended.stderr
    service.engine.dispose()


def test_ctrl_c_in_the_exit_hook_ends_the_wait_and_is_told_what_remains(tmp_path: Path) -> None:
    """
    Whoever insists does not wait for `exit_timeout`, and still reads what is kept, of every buffer.
    """
    ended = run(
        tmp_path,
        """
        class Interrupting(BlockedSink):
            def write(self, batch):
                os.kill(os.getpid(), signal.SIGINT)
                super().write(batch)

        open_buffer(Interrupting(), exit_timeout=60, flush_interval=60).record("one")
        other = open_buffer(BlockedSink(), exit_timeout=60, flush_interval=60)
        other.record("two")
        other.record("three")
        """,
    )
    assert "1 entries are kept in the ring file" in ended.stderr
    assert "2 entries are kept in the ring file" in ended.stderr


@pytest.mark.parametrize("level", ["process", "memory"])
def test_an_end_while_the_writer_starts_is_drained(tmp_path: Path, level: str) -> None:
    """
    A signal may interrupt the very start of the writer's thread. There is nothing to wait for then, and all to write.
    """
    service = create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        buffer = open_buffer(handle_signals=["SIGTERM"])
        start = threading.Thread.start

        def interrupted(thread):
            if thread.name.startswith("audit-writer"):
                os.kill(os.getpid(), signal.SIGTERM)
            start(thread)

        threading.Thread.start = interrupted
        buffer.record("one")
        """,
        level,
    )
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert types(service.entries()) == ["one"], ended.stderr
    service.engine.dispose()


@pytest.mark.parametrize("level", ["process", "memory"])
def test_a_handled_signal_does_not_cut_the_exit_hook_short(tmp_path: Path, level: str) -> None:
    """
    The first SIGTERM may come when the process ends anyway: it does not interrupt what the exit hook writes.
    """
    ended = run(
        tmp_path,
        """
        class Signalled(BlockedSink):
            def write(self, batch):
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(0.3)  # the main thread has run its handler by then
                self.gate.set()
                super().write(batch)
                say(*self.written)

        buffer = open_buffer(Signalled(), flush_interval=60, handle_signals=["SIGTERM"])
        buffer.record("one")
        """,
        level,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "one"), ended.stderr
    assert ended.stderr == ""
    assert rings(tmp_path) == []
