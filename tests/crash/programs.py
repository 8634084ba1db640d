"""
Programs that tests run as processes of their own: small ones, written down where their test is.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from audit_buffer import AuditBuffer, AuditEntry, AuditService


ROOT = Path(__file__).parents[2]
# What every program finds: the library, its arguments, a small ring, and `say()`, which the test hears at once.
PRELUDE = """
import atexit, ctypes, json, multiprocessing, os, signal, sys, threading
from pathlib import Path
import audit_buffer
from audit_buffer import *
from audit_buffer import instrumentation
from tests.crash.sinks import BlockedSink

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def hear():
    return sys.stdin.readline().strip()

folder = Path(sys.argv[1])
level = sys.argv[2] if len(sys.argv) > 2 else "process"

def service():
    return AuditService(f"sqlite:///{folder / 'audit.db'}")

def open_buffer(target=None, **settings):
    place = {} if settings.get("durability", level) == "memory" else {"ring_dir": folder / "rings"}
    common = dict(durability=level, ring_bytes=1 << 18, max_entry_bytes=1 << 14, flush_interval=0.01, **place)
    return AuditBuffer(target or service(), **{**common, **settings})
"""
# For how long a program may take that is not meant to wait for anything.
PATIENCE = 40


def write_program(folder: Path, source: str) -> Path:
    """
    Put *source* into a file, which multiprocessing's spawn needs, and return its path.
    """
    path = folder / "program.py"
    # In one step: a sister of the same program may be about to read it.
    written = folder / f"program.{uuid4().hex}"
    written.write_text(PRELUDE + textwrap.dedent(source))
    return written.replace(path)


def command(folder: Path, source: str, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-W",
        "error::ResourceWarning",
        str(write_program(folder, source)),
        str(folder),
        *arguments,
    ]


def run(
    folder: Path, source: str, *arguments: str, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """
    Run a program to its end; it must come within *timeout* seconds.
    """
    return subprocess.run(
        command(folder, source, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def running(folder: Path, source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """
    Have a program run beside the test, which hears what it says and can answer; it is killed at the end.
    """
    with subprocess.Popen(
        command(folder, source, *arguments),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def create_schema(folder: Path) -> AuditService:
    service = AuditService(f"sqlite:///{folder / 'audit.db'}")
    service.create_schema()
    service.engine.dispose()
    return service


def recover(folder: Path, **settings: Any) -> list[AuditEntry]:
    """
    Start anew, deliver what ended processes left, and return all that is in the table then.
    """
    service = AuditService(f"sqlite:///{folder / 'audit.db'}")
    with AuditBuffer(
        service, ring_dir=folder / "rings", ring_bytes=1 << 20, max_entry_bytes=1 << 14, **settings
    ) as buffer:
        buffer.flush(timeout=30)
    found = service.entries()
    service.engine.dispose()
    return found


def rings(folder: Path) -> list[str]:
    """
    Return the names of the files in the ring directory.
    """
    directory = folder / "rings"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def types(entries: list[AuditEntry]) -> list[str]:
    return [entry.event_type for entry in entries]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Let nobody write into the database.
    """
    database = sqlite3.connect(folder / "audit.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        database.close()


def documented_unit() -> str:
    """
    Return the unit file for systemd that the documentation shows.
    """
    page = (ROOT / "docs/how-to/servers.md").read_text()
    (unit,) = re.findall(r"```ini\n( *\[Unit\].*?)```", page, re.DOTALL)
    return textwrap.dedent(unit)
