"""
What the buffer costs when nothing is recorded, and what importing it costs a program that has not begun.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._bench_run import LEVELS, Run, call
from audit_buffer.commands._measure import Figure, figure


__all__ = ["measure_idle", "measure_imports"]

_TASKS = Path("/proc/self/task")
_SECONDS = 60
_QUICK_SECONDS = 2
_LOOKS = 20
# Fresh interpreters for each package, for one repetition of the other scenarios.
_IMPORTS = 3
# The names of this package are imported when they are used, so that its import alone does not tell what it costs.
_STATEMENTS = {
    "audit_buffer": "import audit_buffer",
    "AuditBuffer": "from audit_buffer import AuditBuffer, AuditService",
    "sqlalchemy": "import sqlalchemy",
}


def measure_idle(run: Run) -> list[Figure]:
    """
    Count how often the writer's thread of an idle buffer wakes up, and the microseconds of CPU that it takes.

    Linux tells both for each thread, below /proc/self/task; elsewhere there is no figure.
    """
    if not _TASKS.is_dir():
        run.notes.append("idle: needs /proc/self/task, which only Linux has")
        return []
    seconds = _QUICK_SECONDS if run.quick else _SECONDS
    step = run.steps("an idle buffer", seconds)
    with ExitStack() as stack:
        tasks: dict[str, Path] = {}
        for level in LEVELS:
            buffer = stack.enter_context(
                AuditBuffer(run.service, durability=level, ring_dir=run.folder / "ring", adopt_orphans=False)
            )
            call(buffer.record, run.kinds["small"][0])
            buffer.flush()
            tasks[level] = _writer_of(buffer)
        before = _settled(tasks)
        for _ in range(seconds):
            time.sleep(1)
            step()
        after = {level: _counts(task) for level, task in tasks.items()}
    return [
        figure(
            "idle",
            "writer",
            "",
            level,
            [{name: after[level][name] - before[level][name] for name in ("wakeups", "cpu")}],
            seconds,
        )
        for level in LEVELS
    ]


def _writer_of(buffer: AuditBuffer) -> Path:
    name = f"audit-writer-{buffer.buffer_id.hex[:8]}"
    thread = next(each for each in threading.enumerate() if each.name == name)
    return _TASKS / str(thread.native_id)


def _settled(tasks: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """
    Return the counts of all once they rest: flush() returns before the writer has gone back to sleep.
    """
    before: dict[str, dict[str, float]] = {}
    for _ in range(_LOOKS):
        time.sleep(0.25)
        counts = {level: _counts(task) for level, task in tasks.items()}
        if counts == before:
            break
        before = counts
    return before


def _counts(task: Path) -> dict[str, float]:
    """
    Return how often the thread was switched away from so far, which it must be each time it has woken up, and its CPU time.
    """
    lines = (line.split() for line in (task / "status").read_text().splitlines())
    switches = sum(int(line[1]) for line in lines if line and "ctxt_switches" in line[0])
    return {"wakeups": float(switches), "cpu": int((task / "schedstat").read_text().split()[0]) / 1000}


def measure_imports(run: Run) -> list[Figure]:
    """
    Measure the import of this package and of SQLAlchemy in fresh interpreters, in turn; milliseconds of CPU, which is what an
    import from the page cache takes and what a neighbour does not change.
    """
    times = run.repeat * (1 if run.quick else _IMPORTS)
    step = run.steps("imports", times)
    for statement in _STATEMENTS.values():
        _import_seconds(statement)  # writes the bytecode, reads the files
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in _STATEMENTS}
    for _ in range(times):
        for name, statement in _STATEMENTS.items():
            rounds[name].append({"ms": _import_seconds(statement) * 1000})
        step()
    return [figure("import", name, "", "", rounds[name], times) for name in _STATEMENTS]


def _import_seconds(statement: str) -> float:
    code = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)
