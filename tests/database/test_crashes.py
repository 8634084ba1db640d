"""
HAZARD 29: backends and servers that end, at any moment, and come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from tests.database.conftest import through
from tests.database.proxy import MySQLWire, PostgresWire, Proxy
from tests.database.servers import PrivatePostgres, PrivateServer
from tests.database.worlds import TARGETS, World
from tests.servers import fresh_database


END: dict[str, Callable[[PrivateServer], None]] = {
    "SIGKILL": lambda server: server.kill(),
    "at once": lambda server: server.stop_at_once(),
    "in order": lambda server: server.stop(),
}


@pytest.fixture
def gate(private_server: PrivateServer) -> Iterator[Proxy]:
    """
    A proxy in front of the private server, to stop a batch half-way.
    """
    wire = PostgresWire if private_server.url.get_backend_name() == "postgresql" else MySQLWire
    proxy = Proxy((str(private_server.url.host), private_server.port), wire)
    yield proxy
    proxy.close()


@pytest.fixture
def gated(private_engine: Engine, gate: Proxy) -> Iterator[Engine]:
    engine = sa.create_engine(through(private_engine.url, gate))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("end", END)
def test_a_server_that_ends_between_batches(
    private_engine: Engine, private_server: PrivateServer, end: str
) -> None:
    """
    The connection is stale; the next batch fails once or more, and gets in when the server is back.
    """
    with World(private_engine, "service") as world:
        world.record(3)
        world.flush()
        END[end](private_server)
        world.record(3)
        world.begin_flush()
        world.next_error()
        private_server.start()
        world.assert_exact()


@pytest.mark.parametrize("target", TARGETS)
def test_a_server_that_is_killed_inside_a_batch(
    gated: Engine, private_engine: Engine, private_server: PrivateServer, gate: Proxy, target: str
) -> None:
    """
    With the batch sent and its COMMIT on the way, or answered and the answer lost.
    """
    with World(gated, target, private_engine) as world:
        for cut in ("swallow", "answer"):
            world.record(3)
            gate.cut_next_commit(cut, on_cut=private_server.kill)
            world.begin_flush()
            gate.wait_for_cut()
            gate.heal()
            gate.cut_all()
            private_server.start()
            world.assert_exact()


@pytest.mark.parametrize("target", TARGETS)
def test_a_backend_that_is_ended_by_an_administrator(
    private_engine: Engine, private_server: PrivateServer, target: str
) -> None:
    """
    Ten times, between batches: each time the batch comes again on a new connection.
    """
    with World(private_engine, target) as world:
        for _ in range(10):
            world.record(2)
            world.flush()
            assert end_other_backends(private_engine) >= 1
        world.assert_exact()


def end_other_backends(engine: Engine) -> int:
    """
    End every other connection to the database of *engine*, and return how many there were.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            ended = connection.scalars(
                sa.text(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ).all()
            return len(ended)
        others = connection.scalars(
            sa.text(
                "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            )
        ).all()
        ended = 0
        for other in others:
            try:
                connection.execute(sa.text(f"KILL CONNECTION {other}"))
            except sa.exc.OperationalError as error:
                # It ended by itself, as the one that was killed before it may have been about to.
                assert "Unknown thread id" in str(error)  # noqa: PT017
            else:
                ended += 1
        return ended


@pytest.mark.postgresql
@pytest.mark.parametrize("target", TARGETS)
def test_a_backend_that_is_killed_takes_all_connections_with_it(
    private_postgresql: PrivatePostgres, target: str
) -> None:
    """
    PostgreSQL restarts itself after a SIGKILL of one backend; meanwhile it lets nobody in.
    """
    private_postgresql.make_sure_it_runs()
    with fresh_database(private_postgresql.url) as engine, World(engine, target) as world:
        for _ in range(3):
            world.record(2)
            world.flush()
            with engine.connect() as connection:
                pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            private_postgresql.kill_backend(pid)
        world.assert_exact()


def test_a_connection_that_went_stale_costs_one_attempt(private_engine: Engine) -> None:
    """
    Idle for long, ended by the server or by a firewall: the batch that meets it comes again, and nothing else happens.
    """
    with World(private_engine, "service") as world:
        world.record()
        world.flush()
        end_other_backends(private_engine)
        world.record()
        world.flush()
        assert world.buffer.stats().retries == 1
        world.assert_exact()


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_many_killed_servers(
    gated: Engine,
    private_engine: Engine,
    private_server: PrivateServer,
    gate: Proxy,
    target: str,
    *,
    full: bool,
) -> None:
    """
    Killed while a thread of the test records and the writer writes, and started again.
    """
    trials = 50 if full else 5
    with World(gated, target, private_engine, flush_interval=0.0, batch_size=50) as world:
        for trial in range(trials):
            world.record(50 + 37 * (trial % 7))
            private_server.kill()
            world.record(20)
            private_server.start()
            world.flush()
        tally = world.tally()
    print(f"\n{private_engine.dialect.name} {target} server killed: {trials} kills, {tally}")
    assert tally.is_clean


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_many_ended_backends(private_engine: Engine, target: str, *, full: bool) -> None:
    """
    Ended while the writer writes batch after batch.
    """
    trials = 200 if full else 20
    ended = 0
    with World(private_engine, target, flush_interval=0.0, batch_size=20) as world:
        while ended < trials:
            world.record(100)
            ended += end_other_backends(private_engine)
            world.flush()
        tally = world.tally()
    print(f"\n{private_engine.dialect.name} {target} backend ended: {ended} times, {tally}")
    assert tally.is_clean
