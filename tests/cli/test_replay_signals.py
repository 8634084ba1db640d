"""
Replaying from a pipe while signals come.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

import pytest

from audit_buffer.commands._interrupt import Interrupt
from tests.cli.conftest import entries


def wait_for(process: subprocess.Popen[str], event: str) -> None:
    """
    Read the log of the process until *event* is in it.
    """
    assert process.stderr is not None
    assert any(event in line for line in process.stderr), "it ended before"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_pipe_and_what_was_read_is_committed(
    start: Callable[..., subprocess.Popen[str]], tmp_path, signum: int, code: int
):
    """
    `journalctl -f | audit-buffer replay -` can be stopped at any time: the summary is printed, the exit code says why.
    """
    process = start("-v", "replay", "-", "--json")
    process.stdin.write('{"event_type": "a"}\n{"event_type": "b"}\n{"event_ty')
    process.stdin.flush()
    wait_for(process, "batch_committed")

    process.send_signal(signum)
    stdout, _ = process.communicate(timeout=30)

    assert process.returncode == code
    assert json.loads(stdout)["committed"] == 2
    assert [entry.event_type for entry in entries(f"sqlite:///{tmp_path / 'audit.db'}")] == ["a", "b"]


def test_lines_are_committed_while_the_pipe_is_open(start: Callable[..., subprocess.Popen[str]], tmp_path):
    """
    A line that was written is in the database after flush_interval, though more may come.
    """
    process = start("-v", "replay", "-")
    for number in (1, 2):
        process.stdin.write(json.dumps({"event_type": f"e{number}"}) + "\n")
        process.stdin.flush()
        wait_for(process, "batch_committed")
        assert len(entries(f"sqlite:///{tmp_path / 'audit.db'}")) == number

    process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_first_signal_is_noted_and_the_second_obeyed():
    """
    One Ctrl-C lets the work in hand finish, two do not; afterwards the handlers are what they were.
    """
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.requested()
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested()
        assert interrupt.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_left_alone_outside_the_main_thread():
    """
    Python takes handlers in the main thread only; elsewhere the context does nothing.
    """
    from threading import Thread

    before = signal.getsignal(signal.SIGINT)
    found = []

    def enter() -> None:
        with Interrupt():
            found.append(signal.getsignal(signal.SIGINT))

    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
