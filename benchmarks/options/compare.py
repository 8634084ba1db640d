"""
Measure the four options side by side: `python benchmarks/options/compare.py`.

Every trial is a process of its own on a new SQLite file (WAL, FULL) below the current folder. A domain operation is
100 µs of work and one `record()`; what the table calls latency is what `record()` adds to it. Three endings:

finish  the application closes its audit service; every row counts, and so does their order
exit    the application forgets to, and its main function returns
kill    the process is killed right after the last `record()` returned; where a restart delivers more, it is given one

The trials of one ending take turns, `--repeat` times; the figures are medians. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, perf_counter_ns
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from options import async_bus, async_record, thread_queue, write_behind  # noqa: E402

from audit_buffer import AuditService  # noqa: E402
from audit_buffer.commands._bench_run import full_synchronous  # noqa: E402
from audit_buffer.commands._measure import percentile  # noqa: E402


class Synchronous:
    """
    The service as it was.
    """

    def __init__(self, service: AuditService) -> None:
        self.record = service.record

    def close(self) -> None:
        """
        Nothing to do.
        """


OPTIONS = {
    "synchronous": Synchronous,
    "1 async record()": async_record.AsyncRecord,
    "2 write-behind (memory)": write_behind.memory,
    "2 write-behind (process)": write_behind.process,
    "3 thread and queue": thread_queue.ThreadQueue,
    "4 async handlers": async_bus.AsyncHandlers,
}
WORK_NS = 100_000


def work() -> None:
    """
    Keep the CPU busy for 100 µs, as a domain operation does.
    """
    until = perf_counter_ns() + WORK_NS
    while perf_counter_ns() < until:
        pass


def arguments_of(number: int) -> dict[str, Any]:
    return {
        "actor": "agent-7",
        "resource": f"plan/{number}",
        "details": {
            "number": number,
            "from": "draft",
            "to": "ready",
            "by": {"role": "planner", "automatic": True},
        },
    }


def run_blocking(option: Any, operations: int, ending: str) -> list[int]:
    timings = []
    for number in range(operations):
        work()
        before = perf_counter_ns()
        option.record("plan.updated", **arguments_of(number))
        timings.append(perf_counter_ns() - before)
    end(ending)
    if ending == "finish":
        option.close()
    return timings


async def run_in_loop(option: Any, operations: int, ending: str) -> list[int]:
    timings = []
    for number in range(operations):
        work()
        before = perf_counter_ns()
        await option.record("plan.updated", **arguments_of(number))
        timings.append(perf_counter_ns() - before)
        await asyncio.sleep(0)  # an application's loop turns between two operations
    end(ending)
    if ending == "finish":
        await option.close()
    return timings


def end(ending: str) -> None:
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def service_at(database: str) -> AuditService:
    service = AuditService(f"sqlite:///{database}")
    full_synchronous(service.engine)
    return service


def trial(name: str, database: str, operations: int, ending: str) -> None:
    """
    Run one trial in this process and print its figures as JSON.
    """
    option = OPTIONS[name](service_at(database))
    started = perf_counter()
    if inspect.iscoroutinefunction(option.record):
        timings = asyncio.run(run_in_loop(option, operations, ending))
    else:
        timings = run_blocking(option, operations, ending)
    seconds = perf_counter() - started
    timings.sort()
    figures = {f"p{percent}": percentile(timings, percent) / 1000 for percent in (50, 99)}
    print(json.dumps({**figures, "rate": operations / seconds}), flush=True)


def run_trial(name: str, operations: int, ending: str) -> dict[str, float]:
    """
    Run one trial in a new process, and look at what arrived.
    """
    with TemporaryDirectory(prefix="audit-options-", dir=Path.cwd()) as folder:
        database = str(Path(folder) / "audit.db")
        service = service_at(database)
        service.create_schema()
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--trial",
            name,
            database,
            str(operations),
            ending,
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
        if ending == "kill" and name.startswith("2"):
            OPTIONS[name](service).close()  # the restart, which delivers what a ring file still holds
        numbers = [entry.details["number"] for entry in service.entries() if entry.details]
        service.engine.dispose()
    figures = json.loads(done.stdout) if ending == "finish" else {}
    inversions = sum(later < earlier for earlier, later in pairwise(numbers))
    return {**figures, "lost": operations - len(set(numbers)), "inversions": inversions}


def compare(operations: int, repeat: int) -> list[str]:
    """
    Return the lines of the table.
    """
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for ending in ("finish", "exit", "kill"):
        for _ in range(repeat):
            for name in OPTIONS:
                found.setdefault((name, ending), []).append(run_trial(name, operations, ending))

    def middle(name: str, ending: str, figure: str) -> float:
        return median(each[figure] for each in found[name, ending])

    headings = (
        "option",
        "added to the operation, p50 µs",
        "p99 µs",
        "operations/s, all committed",
        "out of order",
        "lost: finish",
        "lost: exit without close",
        "lost: kill -9",
    )
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|--:" * (len(headings) - 1) + "|"]
    for name in OPTIONS:
        cells = [f"{middle(name, 'finish', figure):,.0f}" for figure in ("p50", "p99", "rate", "inversions")]
        cells += [f"{middle(name, ending, 'lost'):,.0f}" for ending in ("finish", "exit", "kill")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--trial"]:
        name, database, operations, ending = sys.argv[2:]
        trial(name, database, int(operations), ending)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=1000, help="domain operations in one trial")
    parser.add_argument("--repeat", type=int, default=3, help="trials of each option and ending")
    chosen = parser.parse_args()
    print(
        f"{chosen.operations} operations of 100 µs, medians of {chosen.repeat} trials, SQLite (WAL, FULL)\n"
    )
    print("\n".join(compare(chosen.operations, chosen.repeat)))


if __name__ == "__main__":
    main()
