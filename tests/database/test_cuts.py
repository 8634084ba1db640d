"""
HAZARD 23: the connection is cut around a COMMIT, and nobody knows whether it counted.
"""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from audit_buffer import FlushTimeout
from tests.database.proxy import Cut, MySQLWire, PostgresWire, Proxy
from tests.database.worlds import TARGETS, Tally, World


CUTS: tuple[Cut, ...] = ("before", "after", "answer")


def cut_commits(proxied: Engine, direct: Engine, proxy: Proxy, target: str, cut: Cut, trials: int) -> Tally:
    """
    Cut *trials* COMMITs of a batch of one to three entries, and return what is in the table after the last.
    """
    with World(proxied, target, direct) as world:
        for trial in range(trials):
            world.record(1 + trial % 3)
            proxy.cut_next_commit(cut)
            world.flush()
        assert proxy.cuts == trials
        assert world.buffer.stats().retries >= trials
        return world.tally()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_around_commit_neither_loses_nor_doubles_nor_inverts(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str, cut: Cut
) -> None:
    """
    Whether the COMMIT arrived or not, the position tells; the batch goes on behind it.
    """
    assert cut_commits(proxied, server_engine, proxy, target, cut, 8).is_clean


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cut", CUTS)
def test_many_cuts(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str, cut: Cut, *, full: bool
) -> None:
    """
    The same, 500 times of each kind on each server with --full.
    """
    tally = cut_commits(proxied, server_engine, proxy, target, cut, 250 if full else 25)
    print(f"\n{server_engine.dialect.name} {target} cut {cut}: {proxy.cuts} cuts, {tally}")
    assert tally.is_clean


@pytest.mark.parametrize("target", TARGETS)
def test_threads_that_record_while_connections_are_cut_keep_the_order(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str
) -> None:
    """
    The order of the numbers is that of the table, whatever the cuts fall upon.
    """
    with World(proxied, target, server_engine, flush_interval=0.0, batch_size=20) as world:
        done = threading.Event()

        def cut_again_and_again() -> None:
            for cut in (None, *CUTS) * 6:
                if cut is None:
                    proxy.cut_all()
                else:
                    proxy.cut_next_commit(cut)
                done.wait(0.02)

        cutter = threading.Thread(target=cut_again_and_again)
        cutter.start()
        while cutter.is_alive():
            world.record()
            world.flush()
        cutter.join()
        assert world.tally().is_clean


def test_an_answer_that_is_late_is_only_late(proxied: Engine, server_engine: Engine, proxy: Proxy) -> None:
    """
    A slow network costs time; nothing is tried again.
    """
    with World(proxied, "service", server_engine) as world:
        world.record()
        world.flush()
        proxy.hold()
        world.record()
        with pytest.raises(FlushTimeout) as raised:
            world.buffer.flush(timeout=0.1)
        assert raised.value.remaining == 1
        proxy.go_on()
        world.assert_exact()
        assert world.buffer.stats().retries == 0


def test_the_proxy_knows_a_commit_of_postgresql() -> None:
    """
    In the simple and in the extended protocol, in one piece or byte by byte; and not where it is data.
    """

    def message(kind: bytes, content: bytes) -> bytes:
        return kind + (len(content) + 4).to_bytes(4) + content

    ssl_request = message(b"", (80877103).to_bytes(4))
    start = message(b"", b"\0\3\0\0user\0x\0\0")
    commit = message(b"Q", b"COMMIT\0")
    data = message(b"d", b"COMMIT\0")
    parse = message(b"P", b"\0COMMIT\0\0\0")
    sync = message(b"S", b"")
    stream = [ssl_request, start, data, commit, sync, parse, sync]
    expected = [False, False, False, True, False, False, True]
    for size in (1, 1000):
        wire, whole = PostgresWire(), b"".join(stream)
        found = [pair for at in range(0, len(whole), size) for pair in wire.feed(whole[at : at + size])]
        assert found == list(zip(stream, expected, strict=True))


def test_the_proxy_knows_a_commit_of_mariadb() -> None:
    """
    In one piece or byte by byte; and not where it is data.
    """

    def message(content: bytes) -> bytes:
        return len(content).to_bytes(3, "little") + b"\0" + content

    stream = [message(b"\3SELECT 'COMMIT'"), message(b"\3COMMIT"), message(b"\1")]
    for size in (1, 1000):
        wire, whole = MySQLWire(), b"".join(stream)
        found = [pair for at in range(0, len(whole), size) for pair in wire.feed(whole[at : at + size])]
        assert found == list(zip(stream, [False, True, False], strict=True))
