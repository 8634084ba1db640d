"""
What bounds the writer's connection, and that it bounds nobody else's.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from audit_buffer import SinkError
from audit_buffer.sinks import _timeouts
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._timeouts import Timeouts, connect_arguments, socket_of
from audit_buffer.sinks._watchdog import Watchdog
from tests.database.servers import PrivatePostgres
from tests.database.worlds import World
from tests.servers import fresh_database


SHOWN = {
    "postgresql": {
        "SHOW statement_timeout": "30s",
        "SHOW lock_timeout": "10s",
        "SHOW idle_in_transaction_session_timeout": "32s",
        "SHOW tcp_keepalives_idle": "30",
        "SHOW tcp_user_timeout": "32000",
    },
    "mysql": {
        "SELECT @@max_statement_time": 30.0,
        "SELECT @@innodb_lock_wait_timeout": 10,
        "SELECT @@idle_transaction_timeout": 32,
    },
}


@pytest.fixture
def database(server_engine: Engine) -> Iterator[Database]:
    database = Database(server_engine)
    yield database
    database.close()


def shown(connection: sa.Connection) -> dict[str, Any]:
    return {
        query: connection.exec_driver_sql(query).scalar() for query in SHOWN[connection.engine.dialect.name]
    }


def creator_of(engine: Engine) -> Engine:
    """
    Return an engine that connects by a function of the application's.
    """

    def connect() -> Any:
        proxied = engine.raw_connection()
        raw = proxied.dbapi_connection
        proxied.detach()
        _kept.append(proxied)
        return raw

    return sa.create_engine(f"{engine.url.get_backend_name()}+{engine.dialect.driver}://", creator=connect)


_kept: list[Any] = []


@pytest.mark.parametrize("own_creator", [False, True])
def test_the_writers_connection_is_bounded_and_no_other(server_engine: Engine, *, own_creator: bool) -> None:
    """
    Also where the application connects by a function of its own.
    """
    engine = creator_of(server_engine) if own_creator else server_engine
    with engine.connect() as connection:
        before = shown(connection)
    database = Database(engine)
    with database.transaction() as connection:
        assert shown(connection) == SHOWN[engine.dialect.name]
        descriptor = socket_of(connection.connection.dbapi_connection)
        assert descriptor is not None
        line = socket.socket(fileno=os.dup(descriptor))
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 32_000
        line.close()
    with engine.connect() as connection:
        assert shown(connection) == before
    database.close()
    engine.dispose()
    while _kept:
        _kept.pop().close()


def told(engine: Engine, connect: Callable[[Engine], object]) -> dict[str, Any]:
    """
    Return what the driver is told where *connect* makes a connection of *engine*.
    """
    seen: list[dict[str, Any]] = []
    dialect: Any = engine.dialect
    of_the_driver = dialect.connect

    def spy(*args: Any, **keywords: Any) -> Any:
        seen.append(keywords)
        return of_the_driver(*args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "connect", spy)
        connect(engine)
    return seen.pop()


def write(engine: Engine) -> None:
    database = Database(engine)
    with database.transaction():
        pass
    database.close()


def test_the_driver_is_told_how_long_to_connect(server_engine: Engine) -> None:
    """
    What the application says about that itself goes first; its own connections know nothing of it.
    """
    own = {"connect_timeout": 7}
    for arguments, expected in (({}, 10), (own, 7)):
        engine = sa.create_engine(server_engine.url, connect_args=arguments)
        assert told(engine, write)["connect_timeout"] == expected
        seen = told(engine, lambda engine: engine.connect().close())
        assert seen.get("connect_timeout") == arguments.get("connect_timeout")
        engine.dispose()


def test_an_engine_in_the_place_of_one_that_is_gone_is_told_too(server_engine: Engine) -> None:
    """
    SQLAlchemy knows what listens to an engine by the engine's ``id()``, and for as long as its dialect lives.
    """
    dialects, places = [], set[int]()
    while id(engine := sa.create_engine(server_engine.url)) not in places:
        write(engine)
        places.add(id(engine))
        dialects.append(engine.dialect)
        del engine
        gc.collect()
    assert told(engine, write)["connect_timeout"] == 10
    engine.dispose()


def test_an_application_that_has_all_its_connections_in_use_keeps_no_writer_waiting(
    server_engine: Engine,
) -> None:
    """
    The writer's connection does not come from the pool; it may wait for the writer while it holds the last one of that.
    """
    engine = sa.create_engine(
        server_engine.url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.1
    )
    with World(engine, "service", server_engine) as world:
        with engine.connect():
            world.record()
            world.flush()
        assert world.buffer.stats().retries == 0
    engine.dispose()


def test_a_statement_that_takes_too_long_ends(database: Database) -> None:
    """
    The server says so itself, and the connection stays in step until then.
    """
    database.limit(
        Timeouts(1)
    )  # on a busy machine the client must see the answer before it cuts the connection itself
    sleep = {"postgresql": "SELECT pg_sleep(60)", "mysql": "SELECT SLEEP(60)"}
    started = time.monotonic()
    with (
        pytest.raises(sa.exc.DBAPIError, match=r"timeout|max_statement_time"),
        database.transaction() as connection,
    ):
        connection.exec_driver_sql(sleep[connection.dialect.name])
    assert time.monotonic() - started < 30


@pytest.mark.postgresql
def test_a_connection_is_watched_from_its_first_moment(private_postgresql: PrivatePostgres) -> None:
    """
    A server that hangs when the application's own events ask it something is cut off, too.
    """
    private_postgresql.make_sure_it_runs()
    with fresh_database(private_postgresql.url) as engine:
        database = Database(engine, Timeouts(0.1))
        with database.transaction():
            pass
        database.discard()

        def ask(raw: Any, record: object) -> None:
            private_postgresql.suspend()
            raw.execute("SELECT 1")

        sa.event.listen(engine, "connect", ask)
        with pytest.raises(SinkError, match=r"did not answer for 0\.2 s"), database.transaction():
            pass
        private_postgresql.resume()
        sa.event.remove(engine, "connect", ask)
        with database.transaction() as connection:
            assert connection.scalar(sa.select(1)) == 1
        database.close()


@pytest.mark.parametrize(
    ("statement", "connect", "lock"), [(30.0, 10, 10.0), (300.0, 10, 100.0), (0.3, 2, 0.1), (3.5, 4, 3.5 / 3)]
)
def test_all_bounds_follow_from_one(statement: float, connect: int, lock: float) -> None:
    """
    Connecting takes whole seconds, at least two: libpq knows no less.
    """
    timeouts = Timeouts(statement)
    assert (timeouts.connect, timeouts.lock) == (connect, pytest.approx(lock))
    assert timeouts.hang == statement + min(2, statement)


def test_a_driver_that_is_not_known_is_told_nothing() -> None:
    """
    An argument that it does not know would keep it from connecting.
    """
    assert connect_arguments(sa.create_engine("sqlite://").dialect, Timeouts()) == {}


def test_mysql_is_told_only_what_it_knows() -> None:
    """
    It has no limit for statements but SELECT.
    """
    assert _timeouts._mariadb(Timeouts(0.5), is_mariadb=False) == "SET SESSION innodb_lock_wait_timeout = 1"


def test_a_driver_that_hides_its_socket_is_not_watched() -> None:
    """
    There is nothing to shut.
    """
    assert socket_of(object()) is None


# The watchdog -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """
    A connection: the driver's end and the server's.
    """
    driver, server = socket.socketpair()
    with driver, server:
        yield driver, server


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog(0.1)
    yield watchdog
    watchdog.let_go()
    watchdog._worker.join(None)


def test_a_wait_without_an_answer_ends(watchdog: Watchdog, ends: Any) -> None:
    """
    The driver reads the end of the stream; before the limit it does not.
    """
    _timeouts.protect(watchdog.hold(ends[0].fileno()), Timeouts())
    started = time.monotonic()
    with watchdog:
        assert ends[0].recv(1) == b""
    assert time.monotonic() - started >= 0.1
    assert watchdog.has_bitten


def test_answers_put_it_off(ends: Any) -> None:
    """
    The limit is for one statement, not for the transaction.
    """
    now = [0.0]
    watchdog = Watchdog(10.0, lambda: now[0])
    watchdog.hold(ends[0].fileno())
    with watchdog:
        for _ in range(5):
            now[0] += 9.0
            watchdog.answered()
        assert watchdog._due == 55.0
    assert watchdog._due is None
    watchdog.answered()
    assert watchdog._due is None
    watchdog.let_go()


def test_the_thread_ends_when_there_is_nothing_to_watch(watchdog: Watchdog, ends: Any) -> None:
    """
    After a while, and is there again for the next transaction; nothing is shut.
    """
    watchdog.hold(ends[0].fileno())
    for _ in range(2):
        with watchdog:
            thread = watchdog._worker._thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()
    assert not watchdog.has_bitten
    ends[1].send(b"x")
    assert ends[0].recv(1) == b"x"


def test_one_thread_serves_many_transactions(watchdog: Watchdog, ends: Any) -> None:
    """
    Watching costs two short critical sections, and no thread is woken.
    """
    watchdog.hold(ends[0].fileno())
    threads = set()
    for _ in range(1000):
        with watchdog:
            threads.add(watchdog._worker._thread)
    assert len(threads) <= 2


def test_nothing_is_watched_that_is_not_held(watchdog: Watchdog) -> None:
    """
    A file (SQLite) has no socket.
    """
    with watchdog:
        assert watchdog._worker._thread is None


def test_a_descriptor_that_was_closed_and_given_out_again_is_not_shut(watchdog: Watchdog, ends: Any) -> None:
    """
    The watchdog has a duplicate.
    """
    driver, server = socket.socketpair()
    with server:
        watchdog.hold(driver.fileno())
        number = driver.fileno()
        driver.close()
        os.dup2(ends[0].fileno(), number)
        with watchdog:
            assert server.recv(1) == b""
        ends[1].send(b"x")
        assert os.read(number, 1) == b"x"
        os.close(number)


def test_a_socket_that_is_gone_already_is_no_error(watchdog: Watchdog) -> None:
    """
    shutdown() of what is not connected raises; the driver has noticed by itself.
    """
    with socket.socket() as never_connected:
        watchdog.hold(never_connected.fileno())
        watchdog.watch()
        thread = watchdog._worker._thread
        assert thread is not None
        # When it has bitten, there is nothing left to watch.
        thread.join(10)
        assert watchdog.has_bitten


def test_a_default_timeout_of_python_does_not_reach_the_drivers_socket(watchdog: Watchdog, ends: Any) -> None:
    """
    It would make the driver's blocking socket a non-blocking one, which fails instead of waiting.
    """
    socket.setdefaulttimeout(5.0)
    try:
        watchdog.hold(ends[0].fileno())
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(ends[0].fileno())


def test_where_no_thread_starts_nothing_is_watched(
    watchdog: Watchdog, ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As at the end of the process: the work goes on without.
    """

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    watchdog.hold(ends[0].fileno())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with watchdog:
            assert watchdog._worker._thread is None
    with watchdog:
        assert watchdog._worker._thread is not None


def test_a_forked_child_forgets_the_socket_without_the_lock(watchdog: Watchdog, ends: Any) -> None:
    """
    A thread that is not there any more may hold it.
    """
    line = watchdog.hold(ends[0].fileno())
    with watchdog._changed:
        watchdog.abandon()
    assert line.fileno() == -1
    Watchdog(1.0).abandon()


def test_an_interrupted_start_is_made_up_for(
    watchdog: Watchdog, ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Ctrl-C while the thread is started leaves the next transaction watched.
    """

    def interrupt(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    watchdog.hold(ends[0].fileno())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            watchdog.watch()
    with watchdog:
        assert ends[0].recv(1) == b""


def test_a_watchdog_that_crashes_watches_the_next_transaction(watchdog: Watchdog, ends: Any) -> None:
    """
    Its thread goes on, and expects nothing meanwhile.
    """
    watchdog.hold(ends[0].fileno())
    watchdog.watch()
    watchdog._crashed(MemoryError())
    with watchdog:
        assert ends[0].recv(1) == b""
