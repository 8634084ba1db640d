"""
How a process may end with a buffer in memory (hazard 2): each way in a process of its own, judged by what the table holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import sqlalchemy

from audit_buffer import AuditService


ROOT = Path(__file__).parents[2]

OPEN = """
    import atexit, os, sys, threading
    from audit_buffer import AuditBuffer, AuditService, BufferClosed
    service = AuditService("sqlite:///audit.db")
    service.create_schema()
    audit = AuditBuffer(service, durability="memory", flush_interval=1000, exit_timeout=20)
"""


def run(folder: Path, script: str, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """
    Run *script* behind the opening of a buffer in a process of its own.
    """
    source = textwrap.dedent(before) + textwrap.dedent(OPEN) + textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, *options, "-c", source],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def events(folder: Path) -> list[str]:
    """
    Return the event types in the table, in order.
    """
    engine = sqlalchemy.create_engine(f"sqlite:///{folder / 'audit.db'}")
    entries = AuditService(engine).entries()
    engine.dispose()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    return [entry.event_type for entry in entries]


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit", 0),
        ("raise ValueError('the application fails')", 1),
        ("raise KeyboardInterrupt", -2),
    ],
    ids=["return", "sys.exit", "SystemExit", "exception", "KeyboardInterrupt"],
)
def test_a_process_that_ends_has_written_everything(tmp_path: Path, ending: str, status: int) -> None:
    """
    Whatever ends the program inside Python: every entry is in the table, and the exit status is the program's own.
    """
    done = run(tmp_path, f"for n in range(1000): audit.record(f'event.{{n}}')\n{ending}")
    assert done.returncode in (status, 130 if status == -2 else status), done.stderr
    assert events(tmp_path) == [f"event.{number}" for number in range(1000)]
    assert "audit_buffer" not in done.stderr.replace("File", "")


def test_what_a_thread_records_until_the_end_is_written_or_refused(tmp_path: Path) -> None:
    """
    A daemon thread records while the process ends: every seq it was given is in the table.
    """
    script = """
    ready = threading.Event()
    promised = open("promised", "wb", buffering=0)
    def work():
        try:
            while True:
                promised.write(b"%d\\n" % audit.record("event"))
                ready.set()
        except BufferClosed:
            pass
    threading.Thread(target=work, daemon=True).start()
    ready.wait()
    """
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    promised = [int(line) for line in (tmp_path / "promised").read_bytes().split()]
    assert promised == list(range(1, len(promised) + 1))
    assert len(events(tmp_path)) in (len(promised), len(promised) + 1), (
        "one may be cut off before it could be noted"
    )


def test_a_thread_that_is_joined_at_the_end_is_written_whole(tmp_path: Path) -> None:
    """
    The exit hook comes after the application's own threads.
    """
    script = """
    started = threading.Event()
    def work():
        started.set()
        for n in range(2000):
            audit.record(f"event.{n}")
    threading.Thread(target=work).start()
    started.wait()
    """
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert len(events(tmp_path)) == 2000


def test_an_exit_hook_registered_after_ours_runs_before_it(tmp_path: Path) -> None:
    """
    Registered after the import, as nearly all are: what it records is written, also when it is the first entry.
    """
    done = run(tmp_path, "atexit.register(lambda: audit.record('last.words'))")
    assert done.returncode == 0, done.stderr
    assert events(tmp_path) == ["last.words"]


def test_an_exit_hook_registered_before_the_first_use_runs_before_ours_too(tmp_path: Path) -> None:
    """
    The names of the package are imported when they are used; the place of its hook is that of its import.
    """
    before = "import atexit, audit_buffer; atexit.register(lambda: audit.record('last.words'))"
    done = run(tmp_path, "", before=before)
    assert done.returncode == 0, done.stderr
    assert events(tmp_path) == ["last.words"]


def test_flush_and_close_work_in_an_exit_hook(tmp_path: Path) -> None:
    """
    Where the interpreter starts no thread any more they write by themselves, at once.
    """
    script = """
    def last():
        audit.record("first")
        audit.flush()
        print(service.count())
        audit.record("second")
        audit.close()
        print(service.count())
    atexit.register(last)
    """
    before = time.monotonic()
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "2"]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - before < 30, "close_timeout was waited for"


def test_an_exit_hook_registered_before_ours_is_told(tmp_path: Path) -> None:
    """
    Registered before the import, it runs when all is written: record() raises instead of losing the entry.
    """
    before = """
    import atexit
    def late():
        try:
            audit.record("too.late")
        except Exception as error:
            print(type(error).__name__)
    atexit.register(late)
    """
    done = run(tmp_path, "audit.record('in.time')", before=before)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["BufferClosed"]
    assert events(tmp_path) == ["in.time"]


def test_a_forgotten_buffer_warns_and_is_written(tmp_path: Path) -> None:
    """
    ResourceWarning where the last reference goes, and the entry is in the table all the same.
    """
    done = run(tmp_path, "audit.record('event')\ndel audit", "-W", "default")
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" in done.stderr
    assert "was never closed" in done.stderr
    assert events(tmp_path) == ["event"]


def test_a_buffer_forgotten_under_warnings_as_errors_is_written_at_the_end(tmp_path: Path) -> None:
    """
    A warning that raises inside the finalizer keeps the exit hook from nothing.
    """
    done = run(tmp_path, "audit.record('event')\ndel audit", "-W", "error::ResourceWarning")
    assert done.returncode == 0, done.stderr
    assert events(tmp_path) == ["event"]


def test_a_closed_buffer_leaves_nothing_for_the_end(tmp_path: Path) -> None:
    """
    No warning, no word, no time.
    """
    done = run(tmp_path, "with audit: audit.record('event')\nservice.engine.dispose()", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert events(tmp_path) == ["event"]


HUNG = """
    import sys, threading
    from audit_buffer import AuditBuffer
    from audit_buffer.testing import MemorySink
    class Hung(MemorySink):
        def write(self, batch):
            threading.Event().wait()
    audit = AuditBuffer(Hung(), exit_timeout=0.3, flush_interval={flush_interval})
    for _ in range(7):
        audit.record("event")
"""


@pytest.mark.parametrize("flush_interval", [0.0, 1000])
def test_a_database_that_hangs_holds_the_exit_no_longer_than_exit_timeout(
    tmp_path: Path, flush_interval: float
) -> None:
    """
    The process ends, and standard error says how many entries are lost, whether the writer hung before the end or at it.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HUNG.format(flush_interval=flush_interval))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "7 entries are lost" in done.stderr


def test_a_database_that_refuses_is_tried_until_exit_timeout(tmp_path: Path) -> None:
    """
    Standard error says how many entries are lost and what the writer met.
    """
    script = """
    from audit_buffer.testing import FlakySink
    away = AuditBuffer(FlakySink([ConnectionError("away")] * 100_000), exit_timeout=0.3, retry_backoff=0.05)
    away.record("event")
    """
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert "1 entries are lost" in done.stderr
    assert "ConnectionError('away')" in done.stderr


def test_a_buffer_that_has_failed_says_what_is_lost(tmp_path: Path) -> None:
    """
    delivery_timeout gave up long before the end: the end says so once more.
    """
    script = """
    from audit_buffer.testing import FlakySink
    away = AuditBuffer(
        FlakySink([ConnectionError("away")] * 100_000), flush_interval=0.0, delivery_timeout=0.01, retry_backoff=0.01
    )
    away.record("event")
    while away.stats().state != "failed":
        pass
    """
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert "1 entries are lost" in done.stderr
