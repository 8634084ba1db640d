"""
A real failover: a PostgreSQL primary is killed, and an asynchronous standby that was behind is promoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditService, IntegrityAlarm, instrumentation
from tests.database.servers import BinariesMissing
from tests.database.test_failover import Cluster


pytestmark = pytest.mark.postgresql


class AsynchronousCluster(Cluster):
    """
    A primary that waits for nobody.
    """

    def follow(self) -> None:
        url = self.primary.url
        self.standby.discard_data()
        self.standby.run(
            "pg_basebackup",
            *("-D", self.standby.data, "-h", url.host, "-p", url.port, "-U", "postgres"),
            *("-R", "--checkpoint=fast", "--no-sync"),
        )
        self.standby.start()

    def wait_for_standby(self, rows: int) -> None:
        # It may not have got the table yet.
        while not self._ask(self.standby, "SELECT count(to_regclass('audit_log'))"):
            pass
        while self._ask(self.standby, "SELECT count(*) FROM audit_log") < rows:
            pass

    def fall_behind(self) -> None:
        """
        Have the standby receive nothing any more.
        """
        self._on(self.standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        while self._ask(self.primary, "SELECT count(*) FROM pg_stat_replication"):
            pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[AsynchronousCluster]:
    with ExitStack() as stack:
        try:
            yield AsynchronousCluster(stack)
        except BinariesMissing as reason:
            pytest.skip(str(reason))


@pytest.fixture
def engine(cluster: AsynchronousCluster) -> Iterator[Engine]:
    made = cluster.engine()
    yield made
    made.dispose()
    cluster.follow()


def fail_over_with_lag(
    cluster: AsynchronousCluster, engine: Engine, folder: Path, **retention: float
) -> tuple[list[int], list[IntegrityAlarm], AuditBuffer]:
    """
    Commit 50 entries that the standby gets and 50 that it does not, promote it, and go on with 10 more.
    """
    service = AuditService(engine)
    service.create_schema()
    met: list[BaseException] = []
    with AuditBuffer(
        service, ring_dir=folder, batch_size=10, retry_backoff=0.01, on_error=met.append, **retention
    ) as audit:
        before = service.count()
        for number in range(1, 51):
            audit.record(f"plan.{number}")
        audit.flush(30)
        cluster.wait_for_standby(before + 50)
        cluster.fall_behind()
        for number in range(51, 101):
            audit.record(f"plan.{number}")
            if number % 10 == 0:
                audit.flush(30)
        cluster.fail_over()
        for number in range(101, 111):
            audit.record(f"plan.{number}")
        audit.flush(60)
        seqs = [entry.seq for entry in service.entries(buffer_id=audit.buffer_id) if entry.seq]
    return seqs, [error for error in met if isinstance(error, IntegrityAlarm)], audit


@pytest.mark.timeout(180)
def test_a_standby_that_was_behind_within_the_tail_loses_nothing(
    cluster: AsynchronousCluster, engine: Engine, tmp_path: Path
) -> None:
    """
    What it had not received is written to it by the buffer: every seq is there, once and in order.
    """
    seqs, alarms, _ = fail_over_with_lag(cluster, engine, tmp_path, retain_seconds=600.0)
    assert seqs == list(range(1, 111))
    assert alarms == []


@pytest.mark.timeout(180)
def test_a_standby_that_was_further_behind_is_an_alarm(
    cluster: AsynchronousCluster, engine: Engine, tmp_path: Path
) -> None:
    """
    The alarm names what nobody has any more, once; a gap row stands under its last seq, and the rest is there.
    """
    seqs, alarms, audit = fail_over_with_lag(cluster, engine, tmp_path, retain_bytes=2000)
    (alarm,) = alarms
    assert (alarm.buffer_id, alarm.first_seq) == (audit.buffer_id, 51)
    assert 51 <= alarm.last_seq < 100
    assert seqs == [*range(1, 51), *range(alarm.last_seq, 111)]


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_many_failovers_with_lag(cluster: AsynchronousCluster, tmp_path: Path, *, full: bool) -> None:
    """
    One buffer outlives 50 failovers with --full, each in the middle of its writing, and lacks nothing in the end.
    """
    rounds = 50 if full else 3
    engine = cluster.engine()
    service = AuditService(engine)
    service.create_schema()
    recorded = 0
    lost: list[instrumentation.RowsLost] = []
    instrumentation.set_hooks(
        [lambda event: lost.append(event) if isinstance(event, instrumentation.RowsLost) else None]
    )
    with AuditBuffer(
        service, ring_dir=tmp_path, retain_seconds=600.0, batch_size=20, retry_backoff=0.01
    ) as audit:
        for _ in range(rounds):
            cluster.fall_behind()
            for number in range(200):
                recorded = audit.record("plan.updated")
                if number == 100:
                    audit.flush(60)  # so much at least is committed, and lost
            cluster.fail_over()
            recorded = audit.record("plan.updated")
            audit.flush(60)
            cluster.follow()
        seqs = [entry.seq for entry in service.entries(buffer_id=audit.buffer_id)]
    engine.dispose()
    instrumentation.set_hooks([instrumentation.log_event])
    taken_back = sum(event.last_seq - event.first_seq + 1 for event in lost)
    assert len(lost) == rounds
    print(
        f"\npostgresql primary killed, asynchronous standby promoted: {rounds} failovers, {taken_back} rows taken back, {recorded} recorded, {len(seqs)} rows"
    )
    assert seqs == list(range(1, recorded + 1))
