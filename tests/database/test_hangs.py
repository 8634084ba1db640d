"""
HAZARD 30: a server that does not answer. Deadlines hold, and the batch goes on as soon as it can.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from audit_buffer import FlushTimeout, SinkError
from tests.database.proxy import Proxy
from tests.database.servers import PrivateServer
from tests.database.worlds import TARGETS, World


# Of what a call may take beyond its deadline on a busy machine.
SLACK = 0.7


def raises_in_time(call: Callable[[float], None], timeout: float) -> None:
    started = time.monotonic()
    with pytest.raises(FlushTimeout):
        call(timeout)
    assert timeout <= time.monotonic() - started < timeout + SLACK


def hang(world: World, server: PrivateServer, seconds: float) -> None:
    """
    Stop the server for *seconds*, spent in calls that keep their deadlines; let it go on, and find everything.
    """
    world.record()
    world.flush()
    server.suspend()
    world.record(3)
    for _ in range(3):
        raises_in_time(world.buffer.flush, seconds / 4)
    world.record()
    raises_in_time(world.buffer.close, seconds / 4)
    server.resume()
    world.buffer.close(timeout=60)
    assert world.numbers() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("target", TARGETS)
def test_deadlines_hold_while_the_server_hangs(
    private_engine: Engine, private_server: PrivateServer, target: str
) -> None:
    """
    flush() and close() raise in time; afterwards the batch that hung is there, once.
    """
    with World(private_engine, target) as world:
        hang(world, private_server, 1.2)


@pytest.mark.torture
def test_a_server_that_hangs_for_long_is_cut_off(
    private_engine: Engine, private_server: PrivateServer, *, full: bool
) -> None:
    """
    For 30 seconds with --full: the watchdog gives up several connections meanwhile.
    """
    with World(private_engine, "service", statement_timeout=1.0) as world:
        hang(world, private_server, 30.0 if full else 6.0)
        assert world.buffer.stats().retries >= 1


def test_a_server_that_hangs_is_cut_off(private_engine: Engine, private_server: PrivateServer) -> None:
    """
    Nothing in the driver would ever return: the watchdog ends that, the error says so, and the batch comes again.
    """
    with World(private_engine, "service", statement_timeout=0.2) as world:
        world.record()
        world.flush()
        private_server.suspend()
        world.record(2)
        started = time.monotonic()
        with pytest.raises(SinkError, match=r"did not answer for 0\.4 s; its connection was cut|timed out"):
            world.buffer.flush()
        assert 0.4 <= time.monotonic() - started < 2 + SLACK
        private_server.resume()
        world.assert_exact()


@pytest.mark.parametrize("target", ["service", "table"])
def test_what_a_black_hole_left_behind_is_given_up_by_the_server(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str
) -> None:
    """
    The batch was sent, its COMMIT was not, and the server was never told that the connection is gone. It holds the rows
    until its own timeout; then the batch gets in.
    """
    with World(proxied, target, server_engine, statement_timeout=0.2) as world:
        fall_into_black_hole(world, proxy)
        world.assert_exact()


def test_what_a_black_hole_left_behind_is_waited_for(
    proxied: Engine, server_engine: Engine, proxy: Proxy
) -> None:
    """
    As long as the server holds what it was sent, the batch is tried again; it gets in when the server notices.

    After psycopg's executemany PostgreSQL does not count the transaction as idle, and waits for longer.
    """
    with World(proxied, "table by executemany", server_engine, statement_timeout=0.2) as world:
        fall_into_black_hole(world, proxy)
        # Cut off; and then, once or more often, not let in.
        world.next_error()
        world.next_error()
        proxy.cut_all()
        world.assert_exact()


def fall_into_black_hole(world: World, proxy: Proxy) -> None:
    """
    Have the COMMIT of three entries, and all that follows, swallowed; return when that has ended.
    """
    world.record()
    world.flush()
    proxy.cut_next_commit("swallow")
    world.record(3)
    with pytest.raises(SinkError):
        world.buffer.flush()
    proxy.heal()


def test_connecting_to_a_black_hole_ends(proxied: Engine, server_engine: Engine, proxy: Proxy) -> None:
    """
    The driver's own timeout, which the application's connections do not have.
    """
    with World(proxied, "service", server_engine, statement_timeout=1.0) as world:
        proxy.swallow()
        world.record()
        started = time.monotonic()
        with pytest.raises(SinkError):
            world.buffer.flush()
        assert time.monotonic() - started < 3 + SLACK
        proxy.heal()
        world.assert_exact()
