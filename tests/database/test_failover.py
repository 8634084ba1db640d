"""
A PostgreSQL primary is killed and its synchronous standby promoted: nothing that was committed is lost, and the buffer finds
the new primary by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from tests.database.servers import BinariesMissing, PrivatePostgres
from tests.database.worlds import FACTS, TARGETS, Tally, World


pytestmark = pytest.mark.postgresql


class Cluster:
    """
    A primary and a synchronous standby; `fail_over()` kills the one, promotes the other, and adds a new standby.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.servers = [PrivatePostgres(), PrivatePostgres()]
        for server in self.servers:
            stack.callback(server.remove)
        self.primary, self.standby = self.servers
        self.primary.set_up()
        self.follow()

    def engine(self) -> Engine:
        """
        Return an engine that connects to whichever of the two is the primary.
        """
        hosts = [f"127.0.0.1:{server.port}" for server in self.servers]
        query = {"host": hosts, "target_session_attrs": "read-write", "sslmode": "disable"}
        return sa.create_engine(
            sa.URL.create("postgresql+psycopg", "postgres", database="postgres", query=query)
        )

    def follow(self) -> None:
        """
        Make the standby anew from the primary, and have every COMMIT wait for it.
        """
        primary, standby = self.primary, self.standby
        url = primary.url
        standby.discard_data()
        standby.run(
            "pg_basebackup",
            *("-D", standby.data, "-h", url.host, "-p", url.port, "-U", "postgres"),
            *("-R", "--checkpoint=fast", "--no-sync"),
        )
        standby.start()
        self._on(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        while not self._ask(primary, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"):
            pass

    def fail_over(self) -> None:
        self.primary.kill()
        self._on(
            self.standby,
            "SELECT pg_promote()",
            # Nobody follows it yet.
            "ALTER SYSTEM RESET synchronous_standby_names",
            "SELECT pg_reload_conf()",
        )
        self.primary, self.standby = self.standby, self.primary

    @staticmethod
    def _on(server: PrivatePostgres, *statements: str) -> None:
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    @staticmethod
    def _ask(server: PrivatePostgres, query: str) -> int:
        engine = sa.create_engine(server.url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return int(connection.scalar(sa.text(query)) or 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        try:
            yield Cluster(stack)
        except BinariesMissing as reason:
            pytest.skip(str(reason))


def fail_over_again_and_again(cluster: Cluster, target: str, rounds: int) -> Tally:
    """
    Have the buffer meet *rounds* failovers while its writer writes, and return what is in the table of the last primary.
    """
    engine = cluster.engine()
    FACTS.drop(engine, checkfirst=True)  # the cluster is older than this test
    with World(engine, target, flush_interval=0.0, batch_size=20) as world:
        for round_number in range(rounds):
            world.record(100 + 13 * (round_number % 7))
            cluster.fail_over()
            world.record(10)
            world.flush()
            cluster.follow()
        tally = world.tally()
    engine.dispose()
    return tally


def test_a_synchronous_standby_that_is_promoted_has_everything(cluster: Cluster) -> None:
    """
    Whatever of the batches the primary had committed when it was killed.
    """
    assert fail_over_again_and_again(cluster, "service", 1).is_clean


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS)
def test_many_failovers(cluster: Cluster, target: str, *, full: bool) -> None:
    """
    25 to each kind of target with --full.
    """
    rounds = 25 if full else 2
    tally = fail_over_again_and_again(cluster, target, rounds)
    print(f"\npostgresql {target} primary killed, synchronous standby promoted: {rounds} failovers, {tally}")
    assert tally.is_clean
