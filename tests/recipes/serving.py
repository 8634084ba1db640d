"""
Servers as processes of their own, started as docs/how-to/servers.md says and with the code that stands there.

The code, and the command that runs it, are read from the page: what the tests assert is true of what a reader copies.
`AUDIT_FLUSH_INTERVAL=60` keeps everything in the rings until somebody closes or adopts them, and no test takes that long.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from audit_buffer import AuditService
from audit_buffer._ring_recovery import inspect
from tests.crash.programs import ROOT, environment
from tests.servers import missing


PAGE = ROOT / "docs/how-to/servers.md"
# No number of entries starts a batch either. Small rings: each worker allocates one.
SETTINGS = {"AUDIT_FLUSH_INTERVAL": "60", "AUDIT_BATCH_SIZE": "100000", "AUDIT_RING_BYTES": "4MiB"}
# Seconds for anything that takes one, on a machine that is busy with something else.
PATIENCE = 40.0
REQUESTS = 100


@attrs.frozen
class Recipe:
    """
    A section of the page: a program, and the command that has a server run it.
    """

    module: str
    program: str
    server: str
    arguments: list[str]

    @property
    def workers(self) -> int:
        """
        How many processes record.
        """
        (number,) = [word for word in self.arguments if word.isdigit()]
        return int(number)

    def with_instead(self, old: str, new: str = "") -> Recipe:
        """
        Return another recipe: with *new* in the place of *old*, which is in the program once.
        """
        assert self.program.count(old) == 1, f"the page has no longer one {old!r}"
        return attrs.evolve(self, program=self.program.replace(old, new))


def recipe(heading: str) -> Recipe:
    """
    Read a recipe from the page. Where its server is not installed, the test is skipped, or fails with AUDIT_TEST_REQUIRE=1.
    """
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (name,) = re.findall(r"`(\w+)\.py`:$", section, re.MULTILINE)
    program = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[0]
    (command,) = re.findall(r"^\$ (.*)$", section, re.MULTILINE)
    server, *arguments = shlex.split(command)
    require(server)
    return Recipe(name, program, server, arguments)


def require(package: str) -> None:
    """
    Skip the test where *package* is not installed; fail with AUDIT_TEST_REQUIRE=1.
    """
    if importlib.util.find_spec(package) is None:
        reason = missing(f"no {package}: the dependency group `recipes` is not installed")
        if isinstance(reason, RuntimeError):
            raise reason
        pytest.skip(str(reason))


class Server:
    """
    A server in a folder of its own, with the database and the rings in there.

    Args:
        folder: Its working directory; a second server in it is a restart.
        recipe: What it runs.
        arguments: What the command gets besides those of the page.
        settings: Environment variables besides those of all tests.
    """

    def __init__(self, folder: Path, recipe: Recipe, *arguments: str, **settings: str) -> None:
        self.folder = folder
        self.recipe = recipe
        (folder / f"{recipe.module}.py").write_text(recipe.program)
        self._log = folder / f"log.{len(list(folder.glob('log.*')))}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", recipe.server, *recipe.arguments, *arguments],
                cwd=folder,
                env={**environment(), "HOME": str(folder), "PYTHONUNBUFFERED": "1", **SETTINGS, **settings},
                stdout=log,
                stderr=log,
                # A group of its own, which can be killed as a whole.
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """
        What it has said so far.
        """
        return self._log.read_text(errors="replace")

    def wait_until(self, what: str, reached: Callable[[], object]) -> None:
        """
        Return when *reached* says so; fail when the server ends before that, or when patience does.
        """
        deadline = time.monotonic() + PATIENCE
        while not reached():
            # Waiting for its exit is waiting for the next look.
            assert not self._exited(within=0.02), f"it ended, and not yet {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}\n{self.log}"

    def _exited(self, *, within: float) -> bool:
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """
        Send SIGTERM to the main process, as supervisors do, and wait until its whole group has gone.
        """
        self.process.terminate()
        assert self._exited(within=PATIENCE), f"SIGTERM did not end it:\n{self.log}"
        self._wait_for_group()

    def kill(self) -> None:
        """
        Send SIGKILL to the whole group, and wait until it has gone.
        """
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._wait_for_group()

    def _wait_for_group(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while group_lives(self.process.pid):
            # They are no children of this process, so there is nothing to wait on.
            assert time.monotonic() < deadline, f"some of its processes did not end:\n{self.log}"


def group_lives(group: int) -> bool:
    """
    Tell whether a process of this group runs; one that has ended and that nobody has waited for does not.
    """
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(found) == group and state not in "ZX":
            return True
    return False


@contextmanager
def serving(folder: Path, recipe: Recipe, *arguments: str, **settings: str) -> Iterator[Server]:
    """
    Have a server run; whatever is left of it at the end is killed.
    """
    server = Server(folder, recipe, *arguments, **settings)
    try:
        yield server
    finally:
        server.kill()


# Requests ---------------------------------------------------------------------------------------------------------


def address(server: Server) -> str:
    """
    Wait until a web server accepts connections on a port that the system has chosen, and return host and port.
    """
    said = re.compile(r"(?:Listening at|running on):? http://127\.0\.0\.1:(\d+)")
    server.wait_until("it has a port", lambda: said.search(server.log))
    # uvicorn says so before it listens.
    port = int(said.findall(server.log)[0])
    server.wait_until("it listens", lambda: accepts(port))
    return f"127.0.0.1:{port}"


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def send_requests(
    server: Server, until: Callable[[], bool] = lambda: True, prefix: str = "request"
) -> list[str]:
    """
    Send a hundred requests, four at a time, and more until *until* says so. Return the paths of all; each was answered.
    """
    host = address(server)

    def send(path: str) -> str:
        connection = http.client.HTTPConnection(host, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"ok\n")
        return path

    with ThreadPoolExecutor(4) as clients:
        return send_until(
            server, until, lambda numbers: clients.map(send, [f"/{prefix}/{n}" for n in numbers])
        )


def send_until(
    server: Server, until: Callable[[], bool], send: Callable[[Iterable[int]], Iterable[str]]
) -> list[str]:
    """
    Have *send* send what has these numbers, a hundred and then some more, until *until* says so.
    """
    answered = list(send(range(REQUESTS)))

    def reached() -> bool:
        if until():
            return True
        answered.extend(send(range(len(answered), len(answered) + 8)))
        return False

    server.wait_until("everybody has answered", reached)
    return answered


# What became of them ----------------------------------------------------------------------------------------------


def rings(folder: Path) -> Path:
    return folder / "audit.db-ring"


def waiting(folder: Path) -> Counter[int]:
    """
    Return how many entries wait in the rings, by the process that recorded them.
    """
    found: Counter[int] = Counter()
    for report in inspect(rings(folder)):
        if report.entries and report.owner_pid:
            found[report.owner_pid] += report.entries
    return found


def fullest(folder: Path) -> tuple[int, int, Path]:
    """
    Return the process with the most entries waiting, their number, and its ring file, which goes when they are delivered.
    """
    report = max(inspect(rings(folder)), key=lambda report: report.entries)
    assert report.owner_pid is not None
    return report.owner_pid, report.entries, report.path


def written(folder: Path) -> list[str]:
    """
    Return which requests, or tasks, are in the table; one that is there twice, twice.
    """
    service = AuditService(f"sqlite:///{folder / 'audit.db'}")
    try:
        return sorted(str(entry.resource) for entry in service.entries())
    finally:
        service.engine.dispose()


def all_have_answered(server: Server) -> Callable[[], bool]:
    """
    Return what tells whether each worker has something in its ring.
    """
    return lambda: len(waiting(server.folder)) >= server.recipe.workers


def assert_only_in_rings(folder: Path, answered: list[str]) -> None:
    """
    All that was answered waits in the rings, and nothing is in the table.
    """
    assert waiting(folder).total() == len(answered)
    assert written(folder) == []


def assert_written(folder: Path, answered: list[str]) -> None:
    """
    All that was answered is in the table, each once, and nothing waits.
    """
    assert written(folder) == sorted(answered)
    assert waiting(folder).total() == 0


def assert_nothing_left(folder: Path, answered: list[str]) -> None:
    """
    As above, and not even an empty ring is left.
    """
    assert_written(folder, answered)
    assert list(rings(folder).glob("*")) == []


def restart(folder: Path, recipe: Recipe, answered: list[str], *arguments: str, **settings: str) -> None:
    """
    Start the server again; by itself it has to deliver what is left, each once.
    """
    with serving(folder, recipe, *arguments, **settings) as server:
        server.wait_until(
            "all is delivered", lambda: len(written(folder)) >= len(answered) and not waiting(folder)
        )
        server.stop()
    assert_written(folder, answered)
