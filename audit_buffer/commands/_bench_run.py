"""
What every scenario of `audit-buffer bench` is given: events, databases, a folder, how much to do, and whom to tell.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
from sqlalchemy import Engine, event

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._bench_events import Arguments
from audit_buffer.commands._group import Trouble
from audit_buffer.config import Durability
from audit_buffer.service import AuditService


__all__ = [
    "LEVELS",
    "Record",
    "Run",
    "answer",
    "arguments_of_child",
    "average_size",
    "call",
    "full_synchronous",
    "roomy",
    "start_child",
    "tell",
]

Record = Callable[..., object]

LEVELS: tuple[Durability, ...] = ("memory", "process")


@attrs.frozen(kw_only=True)
class Run:
    """
    One run of the benchmark.

    Attributes:
        kinds: The events by their kind, "small" and "real".
        service: On SQLite in WAL with synchronous=FULL, the table empty and the run's own.
        others: The same on the databases that ``--db`` names.
        folder: Where ring files go; on the disk that an application would use.
        records: Entries of one repetition; a scenario may take a multiple or a share of it.
        repeat: Repetitions; the candidates of a scenario take turns.
        quick: Whether seconds matter more than digits.
        steps: Announces a piece of work by its name and its number of steps; returns what to call after each.
        notes: What could not be measured and why, for the reader.
    """

    kinds: Mapping[str, Sequence[Arguments]]
    service: AuditService
    others: Sequence[AuditService]
    folder: Path
    records: int
    repeat: int
    quick: bool
    steps: Callable[[str, int], Callable[[], object]]
    notes: list[str] = attrs.Factory(list)


def full_synchronous(engine: Engine) -> None:
    """
    Have every connection of a SQLite engine work in WAL with synchronous=FULL: what the buffer's own writer uses.
    """
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")


def average_size(events: Sequence[Arguments]) -> int:
    """
    Return the bytes that one of *events* takes in a ring, rounded up.
    """
    return sum(len(msgspec.json.encode(arguments)) for arguments in events) // len(events) + 64


def roomy(target: Any, level: Durability, folder: Path, records: int, size: int) -> AuditBuffer:
    """
    Return a buffer with room for all of *records*, so that no policy is measured; all else is as users get it.

    Args:
        size: Bytes of one of them, on average.
    """
    # Twice the room that is used: the buffer would warn at four fifths, and the first ones may be larger than the average.
    room = 2 * records + 100
    bytes_ = max(64 * 1024, room * (size + 64))
    return AuditBuffer(
        target,
        durability=level,
        queue_maxsize=room,
        queue_max_bytes=bytes_,
        ring_bytes=max(bytes_, 4 * 1024 * 1024),
        ring_dir=folder / "ring",
        adopt_orphans=False,
    )


def call(record: Record, arguments: Arguments) -> None:
    """
    Record one event, every argument written out as applications write them.
    """
    event_type, actor, resource, outcome, details, correlation_id = arguments
    record(
        event_type,
        actor=actor,
        resource=resource,
        outcome=outcome,
        details=details,
        correlation_id=correlation_id,
    )


def start_child(module: str, **arguments: object) -> subprocess.Popen[str]:
    """
    Start a process that runs *module* of this package, with pipes at both ends; it reads *arguments* by `arguments_of_child()`.
    """
    # The child finds the package, and everything else, where this process found it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(  # noqa: S603  (our own interpreter)
        [sys.executable, "-m", f"audit_buffer.commands.{module}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    tell(child, arguments)
    return child


def arguments_of_child() -> Any:
    """
    Return what `start_child()` was given; in the child. (Not by argv: an argument of 128 kB is too long for Linux.)
    """
    return json.loads(sys.stdin.readline())


def tell(child: subprocess.Popen[str], message: object) -> None:
    """
    Send a line of JSON; a child that has ended already is noticed by `answer()`.
    """
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(message) + "\n")
        child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> Any:
    """
    Return the JSON that is the next line of *child*.

    Raises:
        Trouble: It ended without one; why stands on standard error.
    """
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise Trouble(f"a child process of the benchmark ended early, with exit code {child.wait()}")
    return json.loads(line)
