"""
A failover takes committed rows back, and before this buffer notices, a clone of it (a copied machine, one that was thought to be
dead) has written other entries under the same seqs. That is an alarm wherever the position lies by then, and what is retained is
written again, under a new buffer_id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
from sqlalchemy import Engine, delete, select

from audit_buffer import AuditBuffer, IntegrityAlarm, TableSink, instrumentation
from audit_buffer._codec import EntryCodec
from audit_buffer.schema import audit_log, position_table
from audit_buffer.sinks import Batch
from audit_buffer.sinks._entries import EntrySink
from audit_buffer.sinks._integrity import Link
from tests.retention.test_failover import OWN, World, break_connection, die


CLONES = 1000  # added to the numbers of the clone's entries
encode = EntryCodec(1 << 20).encode


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    instrumentation.set_hooks([])
    yield
    instrumentation.set_hooks([instrumentation.log_event])


class TakenOver(World):
    """
    A world in which somebody else goes on from an earlier position.
    """

    def __init__(self, engine: Engine, kind: str) -> None:
        super().__init__(engine, kind)
        self._rows: dict[int, Any] = {}

    def commit(self, audit: AuditBuffer, first: int, last: int) -> None:
        """
        Record and flush, and keep the position's row as a standby, or a backup, has it.
        """
        for number in range(first, last + 1):
            self.record(audit, number)
        audit.flush(30)
        if self.kind == "own":
            with self.engine.connect() as connection:
                query = select(position_table).where(position_table.c.buffer_id == audit.buffer_id)
                self._rows[last] = dict(connection.execute(query).mappings().one())

    def take_over(self, audit: AuditBuffer, position: int, *cuts: int) -> None:
        """
        Go back to *position*, have a clone write from there, a transaction through each of *cuts*, and break the connection.
        """
        self.lose(audit.buffer_id, position)
        clone: Any = EntrySink(self.engine)
        if self.kind == "own":
            clone = TableSink(self.engine, OWN)
            with self.engine.begin() as connection:
                connection.execute(delete(position_table))
                if position:
                    connection.execute(position_table.insert().values(self._rows[position]))
        for through in cuts:
            clone.write(self.clones(audit.buffer_id, position, through))
            position = through
        clone.close()
        break_connection(audit)

    def clones(self, buffer_id: UUID, after: int, through: int, offset: int = CLONES) -> Batch:
        own = TableSink(self.engine, OWN)
        stored = []
        for seq in range(after + 1, through + 1):
            number = seq + offset
            if self.kind == "own":
                stored.append((seq, own.encode({"number": number, "name": f"plan.{number}"})))
            else:
                stored.append(
                    (
                        seq,
                        encode(seq, f"plan.{number}", None, None, "success", {"number": number}, None, None),
                    )
                )
        return Batch(buffer_id=buffer_id, after=after, through=through, stored=stored)

    def of_buffer(self, buffer_id: UUID) -> list[int]:
        """
        Return what stands under *buffer_id* in the service's table, gap rows left out.
        """
        ours = (audit_log.c.buffer_id == buffer_id) & (audit_log.c.event_type != "audit_buffer.gap")
        with self.engine.connect() as connection:
            query = select(audit_log.c.details).where(ours).order_by(audit_log.c.seq)
            return [details["number"] for details in connection.scalars(query)]

    @property
    def met_alarms(self) -> list[IntegrityAlarm]:
        return [error for error in self.met if isinstance(error, IntegrityAlarm)]


@pytest.fixture
def world(any_engine: Engine, kind: str) -> TakenOver:
    return TakenOver(any_engine, kind)


@pytest.fixture(params=["service", "own"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("level", ["memory", "process"])
@pytest.mark.parametrize("reached", [50, 60, 100, 110, 120], ids="clone_at_{}".format)
def test_wherever_the_clone_has_got_to_it_is_noticed(
    world: TakenOver, tmp_path: Path, level: str, reached: int
) -> None:
    """
    Behind what is acknowledged, level with it, or ahead: the alarm begins where the clone does, and each entry is there once.
    """
    with world.buffer(
        durability=level, ring_dir=tmp_path / "rings", retain_seconds=600.0, batch_size=7
    ) as audit:
        old = audit.buffer_id
        for last in range(10, 101, 10):
            world.commit(audit, last - 9, last)
        world.take_over(audit, 40, reached)
        for number in range(101, 111):
            world.record(audit, number)
        audit.flush(30)
        (alarm,) = world.met_alarms
        assert (alarm.buffer_id, alarm.first_seq, alarm.last_seq) == (old, 41, reached)
        assert audit.buffer_id == alarm.continued_as != old
        assert world.record(audit, 111) == 111
    clones = list(range(41 + CLONES, reached + 1 + CLONES))
    assert world.gaps() == []
    if world.kind == "service":
        assert world.of_buffer(old) == [*range(1, 41), *clones]
        assert world.of_buffer(audit.buffer_id) == list(range(41, 112))
    else:
        assert world.numbers() == [*range(1, 41), *clones, *range(41, 112)]
    assert not list((tmp_path / "rings").glob("*.ring"))


@pytest.mark.parametrize("reached", [60, 100, 120], ids="clone_at_{}".format)
def test_of_an_own_table_more_than_one_transaction_back_nobody_knows_where_it_began(
    any_engine: Engine, reached: int
) -> None:
    """
    Then everything that is retained is written again: nothing is lost, and what was ours before the clone came is there twice.
    """
    world = TakenOver(any_engine, "own")
    with world.buffer(durability="memory", retain_seconds=600.0) as audit:
        for last in range(10, 101, 10):
            world.commit(audit, last - 9, last)
        world.take_over(audit, 40, 45, reached)
        world.record(audit, 101)
        audit.flush(30)
        (alarm,) = world.met_alarms
        assert (alarm.first_seq, alarm.last_seq) == (1, reached)
    numbers = [number for number in world.numbers() if number < CLONES]
    assert numbers == [*range(1, 41), *range(1, 102)]


@pytest.mark.parametrize("reached", [100, 120], ids="clone_at_{}".format)
def test_what_is_not_retained_is_named(world: TakenOver, reached: int) -> None:
    """
    Nothing is retained by default: the takeover is an alarm, and so is each entry that nobody has any more.
    """
    with world.buffer(durability="memory") as audit:
        for last in range(10, 101, 10):
            world.commit(audit, last - 9, last)
        world.take_over(audit, 40, reached)
        world.record(audit, 101)
        audit.flush(30)
        taken, lost = world.met_alarms
        # Of the service's table the last entry is compared, and nothing else is at hand.
        first = 41 if world.kind == "own" else 100
        assert (taken.first_seq, taken.last_seq, taken.continued_as) == (first, reached, audit.buffer_id)
        assert (lost.buffer_id, lost.first_seq, lost.last_seq) == (audit.buffer_id, first, 100)
        assert lost.continued_as is None
    assert world.gaps() == [(first, 100, "lost")]
    ours = world.of_buffer(audit.buffer_id) if world.kind == "service" else world.numbers()[-1:]
    assert ours == [101]


def test_our_own_rows_are_no_takeover(world: TakenOver, tmp_path: Path) -> None:
    """
    Neither when a connection breaks, nor when a failover takes rows back, a second time and further, too.
    """
    with world.buffer(ring_dir=tmp_path / "rings", retain_seconds=600.0, batch_size=7) as audit:
        for last in range(10, 101, 10):
            world.commit(audit, last - 9, last)
            if last < 100:
                break_connection(audit)
        world.take_over(audit, 40)
        world.commit(audit, 101, 110)
        world.take_over(audit, 20)
        world.commit(audit, 111, 120)
    assert world.met_alarms == []
    assert world.numbers() == list(range(1, 121))


@pytest.mark.parametrize("waiting", [0, 5])
@pytest.mark.parametrize("reached", [25, 30], ids="clone_at_{}".format)
def test_what_a_killed_process_retained_is_compared_by_the_next(
    world: TakenOver, tmp_path: Path, waiting: int, reached: int
) -> None:
    """
    Rows were lost and taken over between the kill and the next start: the orphan goes on under a new buffer_id.
    """
    folder = tmp_path / "rings"
    old = die(world, folder, written=30, waiting=waiting, retain_seconds=600.0)
    world.lose(old, 20)
    clone: Any = EntrySink(world.engine) if world.kind == "service" else TableSink(world.engine, OWN)
    if world.kind == "own":
        row = Link(0).moved(world.clones(old, 0, 10, offset=0)).moved(world.clones(old, 10, 20, offset=0))
        with world.engine.begin() as connection:
            connection.execute(position_table.update().values(attrs.asdict(row)))
    clone.write(world.clones(old, 20, reached))
    clone.close()
    with world.buffer(ring_dir=folder) as audit:
        audit.flush(30)
    (alarm,) = world.met_alarms
    assert (alarm.buffer_id, alarm.last_seq) == (old, reached)
    assert alarm.first_seq == 21
    clones, ours = list(range(21 + CLONES, reached + 1 + CLONES)), list(range(21, 31 + waiting))
    if world.kind == "service":
        assert alarm.continued_as is not None
        assert world.of_buffer(old) == [*range(1, 21), *clones]
        assert world.of_buffer(alarm.continued_as) == ours
    else:
        assert world.numbers() == [*range(1, 21), *clones, *ours]
    assert not list(folder.iterdir())
