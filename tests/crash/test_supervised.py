"""
What a supervisor does to a service that is to stop, systemd and Kubernetes alike: SIGTERM, some patience, SIGKILL.

The unit file of docs/how-to/servers.md is only read here; `test_systemd` runs it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.crash.programs import create_schema, documented_unit, locked, recover, rings, running, types


RECORDED = [f"e{number}" for number in range(300)]
SERVICE = """
settings = dict(zip(sys.argv[3::2], map(float, sys.argv[4::2])))
with open_buffer(handle_signals=("SIGTERM",), flush_interval=60, **settings) as buffer:
    for number in range(300):
        buffer.record(f"e{number}")
    say("ready")
    while True:
        signal.pause()
"""


def stop(process: subprocess.Popen[str], grace: float) -> int:
    """
    Stop a service as with `TimeoutStopSec` or `terminationGracePeriodSeconds` = *grace*, and return its status.
    """
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    try:
        return process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def test_a_service_that_is_stopped_has_written_everything(tmp_path: Path) -> None:
    """
    With a database that works it ends long before the patience does, with status 143.
    """
    service = create_schema(tmp_path)
    with running(tmp_path, SERVICE, "process") as process:
        assert stop(process, grace=60) == 128 + signal.SIGTERM
    assert types(service.entries()) == RECORDED
    assert rings(tmp_path) == []
    service.engine.dispose()


def test_a_database_that_hangs_costs_no_sigkill_if_the_buffer_is_the_less_patient(tmp_path: Path) -> None:
    """
    `close_timeout` and `exit_timeout` below the supervisor's patience: it ends by itself, with the status of an error (`FlushTimeout`
    comes out of the `with` block), and the next start delivers.
    """
    create_schema(tmp_path)
    with (
        locked(tmp_path),
        running(tmp_path, SERVICE, "process", "close_timeout", "0.3", "exit_timeout", "0.3") as process,
    ):
        assert stop(process, grace=60) == 1
        assert process.stderr is not None
        assert "300 entries are kept" in process.stderr.read()
    assert types(recover(tmp_path)) == RECORDED


def test_a_service_that_is_killed_for_its_patience_loses_nothing(tmp_path: Path) -> None:
    """
    The supervisor's patience ends first: SIGKILL, and the next start delivers.
    """
    create_schema(tmp_path)
    with (
        locked(tmp_path),
        running(tmp_path, SERVICE, "process", "close_timeout", "60", "exit_timeout", "60") as process,
    ):
        assert stop(process, grace=0.5) == -signal.SIGKILL
    assert types(recover(tmp_path)) == RECORDED


def test_the_unit_file_is_one_for_systemd(tmp_path: Path) -> None:
    """
    systemd-analyze finds nothing to say about the documented unit file.
    """
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    path = tmp_path / "audited.service"
    # It looks whether the program is there.
    path.write_text(documented_unit().replace("/srv/app/.venv/bin/python", "/bin/true"))
    ended = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
