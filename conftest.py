"""
Run every Python example of README.md and docs/**/*.md (sybil; `pytest docs README.md`).

Each document is one story: its examples share a namespace, run in order, and start in an empty folder of their own as
working directory, so that `sqlite:///audit.db` is a new file every time. An example that is not to run says so by
a comment in the page (`% skip: next` in docs, `<!-- skip: next -->` in the README) and gives its reason.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool
from sybil import Sybil
from sybil.parsers import markdown, myst


# Opened by the examples of the document at hand. An engine that is forgotten leaves its connections to the garbage
# collector, which warns; the examples shall not be cluttered with `engine.dispose()`.
connections: list[Any] = []


def remember(connection: Any, record: object) -> None:
    connections.append(connection)


def enter_folder(namespace: dict[str, Any]) -> None:
    namespace["_back"] = Path.cwd()
    namespace["_folder"] = TemporaryDirectory(prefix="audit-docs-")
    # Examples that start a process find the library from there, too.
    namespace["_path"] = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.chdir(namespace["_folder"].name)
    event.listen(Pool, "connect", remember)


def leave_folder(namespace: dict[str, Any]) -> None:
    event.remove(Pool, "connect", remember)
    while connections:
        connections.pop().close()
    os.chdir(namespace["_back"])
    namespace["_folder"].cleanup()
    if namespace["_path"] is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = namespace["_path"]


docs = Sybil(
    parsers=[myst.PythonCodeBlockParser(), myst.SkipParser()],
    patterns=["docs/**/*.md", "docs/*.md"],
    setup=enter_folder,
    teardown=leave_folder,
)
readme = Sybil(
    parsers=[markdown.PythonCodeBlockParser(), markdown.SkipParser()],
    patterns=["README.md"],
    setup=enter_folder,
    teardown=leave_folder,
)

pytest_collect_file = (docs + readme).pytest()
