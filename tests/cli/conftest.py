"""
The command line as its users meet it: in this process by click's runner, or as a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from audit_buffer import AuditEntry, AuditService
from audit_buffer.cli import main


REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "audit_buffer.cli"]

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _unconfigured_structlog() -> Iterator[None]:
    """
    --verbose configures structlog for the whole process.
    """
    yield
    structlog.reset_defaults()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Run `audit-buffer` in this process, in an empty folder; anything but an exit is raised.
    """
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(
            main, [str(part) for part in arguments], input=stdin, catch_exceptions=False
        )

    return invoke


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """
    Start `audit-buffer` as a process in an empty folder, with pipes at all three streams.
    """
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(),
            text=True,
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **options,
            },
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()


def environment(**more: str) -> dict[str, str]:
    """
    Return the environment of a child that finds the package where this process found it.
    """
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def entries(url: str) -> list[AuditEntry]:
    """
    Return what is in the database.
    """
    service = AuditService(url)
    try:
        return service.entries()
    finally:
        service.engine.dispose()
