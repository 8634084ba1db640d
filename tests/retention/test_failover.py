"""
A failover that takes committed rows back: the newest rows (and the position that moved with them) are deleted behind the buffer's
back, and its connection is broken. Within the retained tail nothing is lost; beyond it the alarm names the range.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, delete, func, select

from audit_buffer import AuditBuffer, AuditService, IntegrityAlarm, TableSink, instrumentation
from audit_buffer._ring_file import RingFile
from audit_buffer.cli import main
from audit_buffer.schema import audit_log, gap_table, position_table
from audit_buffer.testing import FlakySink


OWN = Table(
    "own",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("number", Integer),
    Column("name", String(20)),
)


class World:
    """
    A database with a buffer's rows, of the service's table or of an own one.
    """

    def __init__(self, engine: Engine, kind: str) -> None:
        self.engine = engine
        self.kind, _, bulk = kind.partition(" by ")
        self.bulk = bulk or "auto"
        if self.kind == "service":
            self.target: Any = AuditService(engine)
            self.target.create_schema()
        else:
            OWN.metadata.create_all(engine)
            self.target = TableSink(engine, OWN)
            self.target.create_schema()
        self.met: list[BaseException] = []

    def buffer(self, **settings: Any) -> AuditBuffer:
        settings = {
            "retry_backoff": 0.001,
            "retry_backoff_max": 0.01,
            "flush_interval": 60.0,
            "bulk": self.bulk,
            **settings,
        }
        return AuditBuffer(self.target, on_error=self.met.append, **settings)

    def record(self, audit: AuditBuffer, number: int) -> int:
        if self.kind == "service":
            return audit.record(f"plan.{number}", details={"number": number})
        return audit.record(number=number, name=f"plan.{number}")  # type: ignore[call-arg]

    def fail_over(self, audit: AuditBuffer, position: int) -> None:
        """
        Leave only what was committed through seq *position*, as a standby that was behind, and end the writer's connection.
        """
        buffer_id = audit.buffer_id
        self.lose(buffer_id, position)
        break_connection(audit)

    def lose(self, buffer_id: UUID, position: int) -> None:
        with self.engine.begin() as connection:
            if self.kind == "service":
                connection.execute(
                    delete(audit_log).where(audit_log.c.buffer_id == buffer_id, audit_log.c.seq > position)
                )
                return
            connection.execute(delete(OWN).where(OWN.c.number > position))
            connection.execute(
                delete(gap_table).where(gap_table.c.buffer_id == buffer_id, gap_table.c.last_seq > position)
            )
            ours = position_table.c.buffer_id == buffer_id
            if position:
                # The row as it was then; what its checksum was nobody has to know.
                connection.execute(
                    position_table.update()
                    .where(ours)
                    .values(last_seq=position, first_seq=None, checksum=None)
                )
            else:
                connection.execute(delete(position_table).where(ours))

    def numbers(self) -> list[int]:
        """
        Return what was recorded, in the order of the rows; gap rows as the negative of their last seq.
        """
        with self.engine.connect() as connection:
            if self.kind == "own":
                return list(connection.scalars(select(OWN.c.number).order_by(OWN.c.id)))
            rows = connection.execute(select(audit_log).order_by(audit_log.c.seq)).mappings().all()
            by_id = connection.execute(select(audit_log.c.seq).order_by(audit_log.c.id)).scalars().all()
            assert list(by_id) == sorted(by_id)
        return [
            -row["seq"] if row["event_type"] == "audit_buffer.gap" else row["details"]["number"]
            for row in rows
        ]

    def gaps(self) -> list[tuple[int, int, str]]:
        with self.engine.connect() as connection:
            if self.kind == "own":
                return [
                    (row.first_seq, row.last_seq, row.policy)
                    for row in connection.execute(select(gap_table).order_by(gap_table.c.last_seq))
                ]
            rows = connection.execute(
                select(audit_log).where(audit_log.c.event_type == "audit_buffer.gap")
            ).mappings()
            return sorted(
                (row["details"]["first_seq"], row["details"]["last_seq"], row["details"]["policy"])
                for row in rows
            )

    def position(self, buffer_id: UUID) -> int:
        with self.engine.connect() as connection:
            if self.kind == "own":
                query = select(position_table.c.last_seq).where(position_table.c.buffer_id == buffer_id)
            else:
                query = select(func.max(audit_log.c.seq)).where(audit_log.c.buffer_id == buffer_id)
            return int(connection.scalar(query) or 0)

    @property
    def alarms(self) -> list[tuple[int, int]]:
        return [(error.first_seq, error.last_seq) for error in self.met if isinstance(error, IntegrityAlarm)]


def break_connection(audit: AuditBuffer) -> None:
    """
    Close the writer's connection under it, as a server that goes away does.
    """
    sink = audit._room.sink
    connection = sink._database._connection  # type: ignore[attr-defined]
    if connection is not None:
        connection.connection.dbapi_connection.close()


@pytest.fixture(params=["service", "own", "service by executemany", "own by executemany"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(any_engine: Engine, kind: str) -> World:
    return World(any_engine, kind)


@pytest.fixture
def sqlite_world(sqlite_engine: Engine, kind: str) -> World:
    return World(sqlite_engine, kind)


@pytest.fixture
def told() -> Iterator[list[instrumentation.Event]]:
    events: list[instrumentation.Event] = []
    instrumentation.set_hooks([events.append])
    yield events
    instrumentation.set_hooks([instrumentation.log_event])


LEVELS = pytest.mark.parametrize("level", ["memory", "process", "sync"])


@LEVELS
def test_within_the_tail_nothing_is_lost(
    world: World, level: str, tmp_path: Path, told: list[instrumentation.Event]
) -> None:
    """
    Rows that a failover took back are written again, in order, before anything else, and nobody is alarmed.
    """
    with world.buffer(
        durability=level, ring_dir=tmp_path / "rings", retain_seconds=60.0, batch_size=7
    ) as audit:
        for number in range(1, 101):
            world.record(audit, number)
            if number % 10 == 0:
                audit.flush(10)
        world.fail_over(audit, 40)
        for number in range(101, 111):
            world.record(audit, number)
        audit.flush(30)
        assert world.position(audit.buffer_id) == 110
        assert audit.stats().committed == 110
    assert world.numbers() == list(range(1, 111))
    assert world.gaps() == []
    assert world.alarms == []
    (lost,) = [event for event in told if isinstance(event, instrumentation.RowsLost)]
    assert (lost.first_seq, lost.last_seq, lost.resent) == (41, 100, 60)


@LEVELS
def test_beyond_the_tail_the_alarm_names_the_range(
    world: World, level: str, tmp_path: Path, told: list[instrumentation.Event]
) -> None:
    """
    What nobody has any more is named once: by on_error, an event, stats() and a gap row. What is retained is written again.
    """
    with world.buffer(
        durability=level, ring_dir=tmp_path / "rings", retain_bytes=2000, batch_size=10
    ) as audit:
        for number in range(1, 101):
            world.record(audit, number)
            if number % 10 == 0:
                audit.flush(10)
        world.fail_over(audit, 10)
        world.record(audit, 101)
        audit.flush(30)
        ((first, last),) = world.alarms
        assert first == 11
        assert 11 < last < 100
        alarm = audit.stats().last_error
        assert isinstance(alarm, IntegrityAlarm)
        assert (alarm.buffer_id, alarm.first_seq, alarm.last_seq) == (audit.buffer_id, first, last)
        assert alarm.continued_as is None
        assert world.position(audit.buffer_id) == 101
    kept = list(range(last + 1, 102))
    expected = [*range(1, 11), *kept] if world.kind == "own" else [*range(1, 11), -last, *kept]
    assert world.numbers() == expected
    assert world.gaps() == [(11, last, "lost")]
    events = [event for event in told if isinstance(event, instrumentation.IntegrityAlarmEvent)]
    assert [(event.first_seq, event.last_seq, event.continued_as) for event in events] == [(11, last, None)]
    assert events[0].name == "audit_buffer.integrity_alarm"


def test_without_a_tail_the_loss_is_told_all_the_same(world: World, tmp_path: Path) -> None:
    """
    Nothing is retained by default, and nothing is lost in silence.
    """
    with world.buffer(ring_dir=tmp_path / "rings") as audit:
        for number in range(1, 21):
            world.record(audit, number)
        audit.flush(10)
        world.record(audit, 21)
        audit.flush(10)
        world.fail_over(audit, 0 if world.kind == "service" else 20)
        world.record(audit, 22)
        audit.flush(30)
        lost = (1, 21) if world.kind == "service" else (21, 21)
        assert world.alarms == [lost]
        world.record(audit, 23)
        audit.flush(30)
    assert world.gaps() == [(*lost, "lost")]
    assert world.numbers()[-2:] == [22, 23]


def test_a_second_failover_while_rows_are_written_again(
    sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If what is being brought back is lost again, further back, it begins again there; the alarm is not repeated for the same range.
    """
    world = sqlite_world
    with world.buffer(ring_dir=tmp_path / "rings", retain_seconds=60.0, batch_size=5) as audit:
        for number in range(1, 51):
            world.record(audit, number)
            if number % 5 == 0:
                audit.flush(10)
        world.fail_over(audit, 30)
        sink, write = audit._room.sink, audit._room.sink.write
        batches: list[tuple[int, int]] = []

        def lose_again(batch: Any) -> None:
            batches.append((batch.after, batch.through))
            if len(batches) == 3:
                world.lose(batch.buffer_id, 15)
                raise ConnectionError("gone again")
            write(batch)

        monkeypatch.setattr(sink, "write", lose_again)
        world.record(audit, 51)
        audit.flush(30)
    assert world.numbers() == list(range(1, 52))
    assert world.alarms == []
    assert (15, 20) in batches


@pytest.mark.parametrize("after_write", [False, True])
def test_any_doubt_while_rows_are_written_again_is_settled(
    sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_write: bool
) -> None:
    """
    An error at every second write, before or after the COMMIT, neither loses nor doubles a row, and alarms once.
    """
    world = sqlite_world
    with world.buffer(ring_dir=tmp_path / "rings", retain_bytes=2000, batch_size=3) as audit:
        for number in range(1, 61):
            world.record(audit, number)
            if number % 6 == 0:
                audit.flush(10)
        world.fail_over(audit, 6)
        sink, write = audit._room.sink, audit._room.sink.write
        calls: list[int] = []

        def fail_often(batch: Any) -> None:
            calls.append(batch.through)
            if len(calls) % 2:
                if after_write:
                    write(batch)
                raise ConnectionError("doubt")
            write(batch)

        monkeypatch.setattr(sink, "write", fail_often)
        world.record(audit, 61)
        audit.flush(30)
        monkeypatch.undo()
        ((first, last),) = world.alarms
        assert world.position(audit.buffer_id) == 61
    entries = [number for number in world.numbers() if number > 0]
    assert entries == [*range(1, 7), *range(last + 1, 62)]
    assert world.gaps() == [(first, last, "lost")]


def test_gap_rows_that_were_lost_come_back_too(sqlite_world: World, tmp_path: Path) -> None:
    """
    Seqs that were dropped on purpose are gaps again, with their policy.
    """
    world = sqlite_world
    audit = world.buffer(
        durability="memory", retain_seconds=60.0, on_full="drop_newest", queue_maxsize=4, batch_size=100
    )
    audit._writer.hold_still(5)
    for number in range(1, 7):
        world.record(audit, number)
    audit._writer.go_on()
    audit.flush(10)
    before = world.numbers(), world.gaps()
    world.fail_over(audit, 0)
    world.record(audit, 7)
    audit.close()
    assert world.gaps() == before[1]
    assert [policy for _, _, policy in world.gaps()] == ["drop_newest"]
    assert world.numbers() == [*before[0], 7]
    assert world.alarms == []


def die(world: World, folder: Path, *, written: int, waiting: int, **settings: Any) -> UUID:
    """
    Leave a ring as a process does that is killed after so many committed entries, with so many still waiting.
    """
    audit = world.buffer(ring_dir=folder, batch_size=10, **settings)
    for number in range(1, written + 1):
        world.record(audit, number)
        if number % 10 == 0:
            audit.flush(10)
    audit.flush(10)
    held = audit._writer.hold_still(5)
    assert held
    for number in range(written + 1, written + waiting + 1):
        world.record(audit, number)
    ring = audit._channel.ring
    assert isinstance(ring, RingFile)
    buffer_id = audit.buffer_id
    copy = ring.path.read_bytes()
    audit._writer.go_on()
    audit.close()
    ring.path.write_bytes(copy)
    ring.path.chmod(0o600)
    world.lose(buffer_id, written)
    return buffer_id


@pytest.mark.parametrize("waiting", [0, 5])
def test_a_killed_process_leaves_its_tail_to_the_next_start(
    world: World, tmp_path: Path, waiting: int
) -> None:
    """
    Rows lost between the kill and the next start come back from the orphan, also if nothing else was waiting in it.
    """
    folder = tmp_path / "rings"
    buffer_id = die(world, folder, written=30, waiting=waiting, retain_seconds=60.0)
    world.lose(buffer_id, 12)
    with world.buffer(ring_dir=folder) as audit:
        audit.flush(30)
    assert world.position(buffer_id) == 30 + waiting
    assert world.numbers() == list(range(1, 31 + waiting))
    assert world.alarms == []
    assert not list(folder.iterdir())


@pytest.mark.parametrize("waiting", [0, 5])
def test_the_tail_of_an_orphan_is_not_written_twice(world: World, tmp_path: Path, waiting: int) -> None:
    """
    Where nothing was lost, only what was waiting is delivered.
    """
    folder = tmp_path / "rings"
    die(world, folder, written=30, waiting=waiting, retain_seconds=60.0)
    with world.buffer(ring_dir=folder) as audit:
        audit.flush(30)
    assert world.numbers() == list(range(1, 31 + waiting))
    assert world.met == []
    assert not list(folder.iterdir())


def test_an_orphan_whose_tail_is_too_short_alarms(world: World, tmp_path: Path) -> None:
    """
    The next start names what nobody has any more, and delivers the rest.
    """
    folder = tmp_path / "rings"
    buffer_id = die(world, folder, written=30, waiting=5)
    world.lose(buffer_id, 12)
    with world.buffer(ring_dir=folder) as audit:
        audit.flush(30)
    assert world.alarms == [(13, 30)]
    assert world.gaps() == [(13, 30, "lost")]
    assert [number for number in world.numbers() if number > 0] == [*range(1, 13), *range(31, 36)]


def test_an_orphan_of_which_the_database_has_nothing(world: World, tmp_path: Path) -> None:
    """
    In the service's table it may be a continued buffer_id that has written nothing yet, which is no loss if nothing is retained. An
    own table has a position for such a one, so its absence is a loss.
    """
    folder = tmp_path / "rings"
    buffer_id = die(world, folder, written=10, waiting=5)
    world.lose(buffer_id, 0)
    with world.buffer(ring_dir=folder) as audit:
        audit.flush(30)
    assert world.alarms == ([(1, 10)] if world.kind == "own" else [])
    assert [number for number in world.numbers() if number > 0] == list(range(11, 16))


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_recover_asks_before_it_writes_the_tail_again(
    sqlite_engine: Engine, tmp_path: Path, seconds: float
) -> None:
    """
    A database that lacks what was committed may be another one; with --force the tail is written, and what is missing is said.
    """
    world, folder = World(sqlite_engine, "service"), tmp_path / "rings"
    buffer_id = die(world, folder, written=30, waiting=5, retain_seconds=seconds)
    world.lose(buffer_id, 12)
    url = sqlite_engine.url.render_as_string(hide_password=False)
    result = CliRunner().invoke(main, ["recover", str(folder), "--db", url])
    assert result.exit_code == 1
    assert len(world.numbers()) == 12
    result = CliRunner().invoke(main, ["recover", str(folder), "--db", url, "--force"])
    assert "the database has lost seq 13 to 30" in result.stderr
    entries = [number for number in world.numbers() if number > 0]
    if seconds:
        assert result.exit_code == 0
        assert entries == list(range(1, 36))
    else:
        assert result.exit_code == 1
        assert "does not hold those up to 30" in result.stderr.replace("\n", " ")
        assert entries == [*range(1, 13), *range(31, 36)]
    assert not list(folder.iterdir())


def test_a_sink_whose_position_is_its_own_memory_is_not_suspected() -> None:
    """
    A sink that only knows what it did itself may forget; that is no failover.
    """

    class Forgetful:
        def __init__(self) -> None:
            self.seqs: list[int] = []
            self.fail = False

        def open(self) -> None: ...

        def position(self, buffer_id: UUID) -> int:
            return 0

        def write(self, batch: Any) -> None:
            if self.fail:
                self.fail = False
                raise ConnectionError("once")
            self.seqs += [seq for seq, _ in batch.stored]

        def close(self) -> None: ...

    sink = Forgetful()
    met: list[BaseException] = []
    with AuditBuffer(
        sink, durability="memory", retain_seconds=60.0, retry_backoff=0.001, on_error=met.append
    ) as audit:
        audit.record("a")
        audit.flush(5)
        sink.fail = True
        audit.record("b")
        audit.flush(5)
    assert sink.seqs == [1, 2]
    assert [type(error) for error in met] == [ConnectionError]


def test_retained_entries_do_not_count_as_waiting(sqlite_world: World, tmp_path: Path) -> None:
    """
    Lag and ring usage are those of entries that are not committed, whatever is retained besides.
    """
    with sqlite_world.buffer(ring_dir=tmp_path / "rings", retain_seconds=60.0) as audit:
        for number in range(1, 51):
            sqlite_world.record(audit, number)
        audit.flush(10)
        health = audit.health(30)
        assert (health.lag_entries, health.ring.bytes) == (0, 0)
        assert audit._channel.ring.retained_seq == 0  # type: ignore[attr-defined]
        assert audit._channel.ring.committed_seq == 50  # type: ignore[attr-defined]


def test_close_removes_the_ring_with_its_tail(sqlite_world: World, tmp_path: Path) -> None:
    """
    The tail lives as long as the buffer: a clean close leaves nothing behind.
    """
    folder = tmp_path / "rings"
    with sqlite_world.buffer(ring_dir=folder, retain_seconds=3600.0) as audit:
        sqlite_world.record(audit, 1)
    assert not list(folder.iterdir())


def test_the_double_loses_rows_as_a_failover_does() -> None:
    """
    What the sink for tests was told to lose comes back, and what is not retained is an alarm.
    """
    met: list[BaseException] = []
    sink = FlakySink()
    with AuditBuffer(
        sink, durability="memory", retain_bytes=100, retry_backoff=0.001, on_error=met.append
    ) as audit:
        for number in range(1, 11):
            audit.record(f"plan.{number}")
            audit.flush(5)
        sink.lose(audit.buffer_id, 2)
        sink.script.append(ConnectionError("gone"))
        audit.record("plan.11")
        audit.flush(5)
    (alarm,) = [error for error in met if isinstance(error, IntegrityAlarm)]
    assert alarm.first_seq == 3
    assert sink.seqs == [1, 2, *range(alarm.last_seq + 1, 12)]
    assert [(gap.first_seq, gap.last_seq) for gap in sink.gaps] == [(3, alarm.last_seq)]
