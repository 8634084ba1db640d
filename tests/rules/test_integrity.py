"""
One buffer_id, two writers: what is ours is gone behind, what is a stranger's is an alarm, and nothing is lost either way.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import (
    AuditBuffer,
    AuditService,
    IntegrityAlarm,
    RingError,
    SinkError,
    TableSink,
    instrumentation,
)
from audit_buffer._codec import EntryCodec
from audit_buffer._durability import Place
from audit_buffer._ring_file import RingFile
from audit_buffer.instrumentation import Event, IntegrityAlarmEvent
from audit_buffer.schema import audit_log, position_table
from audit_buffer.sinks import Batch
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._entries import EntrySink
from audit_buffer.sinks._faults import Action, classify
from audit_buffer.sinks._integrity import Link, chained, first_difference


SETTINGS: dict[str, Any] = {
    "flush_interval": 60.0,
    "retry_backoff": 0.001,
    "retry_backoff_max": 0.01,
    "ring_bytes": 1 << 22,
}
encode = EntryCodec(1 << 20).encode
TRAIL = sa.Table(
    "trail", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.String(60))
)


@pytest.fixture
def events() -> Any:
    seen: list[Event] = []
    instrumentation.set_hooks([seen.append])
    yield seen
    instrumentation.set_hooks([instrumentation.log_event])


@pytest.fixture
def service(any_engine: Engine) -> AuditService:
    service = AuditService(any_engine)
    service.create_schema()
    return service


@pytest.fixture
def trail(any_engine: Engine) -> TableSink:
    TRAIL.create(any_engine)
    sink = TableSink(any_engine, TRAIL)
    sink.create_schema()
    return sink


@pytest.fixture
def one_id(monkeypatch: pytest.MonkeyPatch) -> UUID:
    """
    The buffer_id of every buffer of the test, as of a machine that was cloned while it ran.
    """
    buffer_id, open_ring = uuid4(), Place.open_ring
    monkeypatch.setattr(Place, "open_ring", lambda place, ignored=None: open_ring(place, buffer_id))
    return buffer_id


def payload(text: str) -> bytes:
    return encode(1_000_000, text, None, None, "success", None, None, None)


def ring_file(folder: Path, label: str, buffer_id: UUID, *texts: str) -> None:
    """
    Leave an orphan that holds these entries.
    """
    ring = RingFile.create(folder, label=label, size=1 << 16, buffer_id=buffer_id)
    for seq, text in enumerate(texts, 1):
        assert ring.put(seq, payload(text))
    ring.close()


def by_buffer(service: AuditService) -> dict[UUID | None, list[tuple[int | None, str]]]:
    found: dict[UUID | None, list[tuple[int | None, str]]] = {}
    for entry in service.entries():
        found.setdefault(entry.buffer_id, []).append((entry.seq, entry.event_type))
    return found


def deliver(service: AuditService, folder: Path) -> list[BaseException]:
    """
    Start and close an application whose rings lie in *folder*; return what on_error heard.
    """
    told: list[BaseException] = []
    with AuditBuffer(service, ring_dir=folder, on_error=told.append, **SETTINGS) as audit:
        audit.flush(timeout=30)
    return told


def test_a_copied_ring_is_delivered_once(service: AuditService, tmp_path: Path) -> None:
    """
    The copy of a ring file, taken while it was full and delivered after the original: nothing new, and no alarm.
    """
    audit = AuditBuffer(service, ring_dir=tmp_path / "one", **SETTINGS)
    for number in range(300):
        audit.record(f"e{number}")
    (tmp_path / "two").mkdir(mode=0o700)
    for file in (tmp_path / "one").iterdir():
        shutil.copy(file, tmp_path / "two" / file.name)
    audit.record("one more")
    audit.close()
    before = by_buffer(service)
    assert deliver(service, tmp_path / "two") == []
    assert by_buffer(service) == before
    assert len(before[audit.buffer_id]) == 301


def test_a_copy_that_was_delivered_first_is_no_alarm_to_the_original(
    service: AuditService, tmp_path: Path
) -> None:
    """
    The living original meets its own rows, compares them, and goes on behind them under its own buffer_id.
    """
    told: list[BaseException] = []
    audit = AuditBuffer(service, ring_dir=tmp_path / "one", on_error=told.append, **SETTINGS)
    for number in range(300):
        audit.record(f"e{number}")
    (tmp_path / "two").mkdir(mode=0o700)
    for file in (tmp_path / "one").iterdir():
        shutil.copy(file, tmp_path / "two" / file.name)
    deliver(service, tmp_path / "two")
    audit.record("one more")
    audit.close()
    assert not [error for error in told if isinstance(error, IntegrityAlarm)]
    assert [seq for seq, _ in by_buffer(service)[audit.buffer_id]] == list(range(1, 302))


def test_orphans_that_went_different_ways_are_both_kept(
    service: AuditService, tmp_path: Path, events: list[Event]
) -> None:
    """
    Equal up to entry 3, then not: the second one's entries from 4 on stand under a new buffer_id with the seqs they had.
    """
    probe = AuditBuffer(service, ring_dir=tmp_path / "probe", **SETTINGS)
    label = probe._room.place.label
    probe.close()
    old = uuid4()
    ring_file(tmp_path / "one", label, old, "a", "b", "c", "d1", "e1")
    ring_file(tmp_path / "two", label, old, "a", "b", "c", "d2", "e2", "f2")
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    assert deliver(service, tmp_path / "one") == []
    (alarm,) = deliver(service, tmp_path / "two")
    assert isinstance(alarm, IntegrityAlarm)
    assert (alarm.buffer_id, alarm.first_seq, alarm.last_seq) == (old, 4, 5)
    expected = {
        old: [(1, "a"), (2, "b"), (3, "c"), (4, "d1"), (5, "e1")],
        alarm.continued_as: [(4, "d2"), (5, "e2"), (6, "f2")],
    }
    assert by_buffer(service) == expected
    (event,) = [event for event in events if isinstance(event, IntegrityAlarmEvent)]
    assert (event.level, event.continued_as) == ("error", alarm.continued_as.hex)  # type: ignore[union-attr]
    assert not [path for path in (tmp_path / "two").iterdir() if path.suffix == ".ring"]
    # As after a kill between the COMMIT and the release: the same alarm, the same new buffer_id, nothing twice.
    (again,) = deliver(service, tmp_path / "again")
    assert isinstance(again, IntegrityAlarm)
    assert again.continued_as == alarm.continued_as
    assert by_buffer(service) == expected


@pytest.mark.parametrize("level", ["memory", "process"])
def test_two_living_clones_are_both_kept(
    service: AuditService, one_id: UUID, tmp_path: Path, level: Any
) -> None:
    """
    The second one meets the first one's rows: alarm, last_error, a new buffer_id; flush() succeeds, record() counts on.
    """
    told: list[BaseException] = []
    first = AuditBuffer(service, durability=level, ring_dir=tmp_path / "one", **SETTINGS)
    second = AuditBuffer(
        service, durability=level, ring_dir=tmp_path / "two", on_error=told.append, **SETTINGS
    )
    assert first.buffer_id == second.buffer_id == one_id
    for number in (1, 2):
        first.record(f"first {number}")
    first.flush(timeout=30)
    for number in (1, 2, 3):
        assert second.record(f"second {number}") == number
    second.flush(timeout=30)
    (alarm,) = [error for error in told if isinstance(error, IntegrityAlarm)]
    assert (second.buffer_id, second.stats().last_error) == (alarm.continued_as, alarm)
    assert second.record("second 4") == 4
    second.close()
    assert first.record("first 3") == 3
    first.close()
    assert by_buffer(service) == {
        one_id: [(1, "first 1"), (2, "first 2"), (3, "first 3")],
        second.buffer_id: [(1, "second 1"), (2, "second 2"), (3, "second 3"), (4, "second 4")],
    }
    for folder in ("one", "two"):
        assert not list((tmp_path / folder).glob("*.ring"))


@pytest.mark.usefixtures("one_id")
def test_two_living_clones_in_front_of_an_own_table_are_both_kept(trail: TableSink) -> None:
    """
    The own table carries no seq: the checksum of the last transaction tells that it was not ours.
    """
    told: list[BaseException] = []
    first = AuditBuffer(trail, durability="memory", **SETTINGS)
    second = AuditBuffer(
        TableSink(trail.engine, TRAIL), durability="memory", on_error=told.append, **SETTINGS
    )
    for round_ in range(3):
        first.record(what=f"first {round_}")
        first.flush(timeout=30)
        second.record(what=f"second {round_}")
        second.record(what=f"second {round_}.5")
        second.flush(timeout=30)
    first.close()
    second.close()
    (alarm,) = [error for error in told if isinstance(error, IntegrityAlarm)]
    with trail.engine.connect() as connection:
        stored = connection.scalars(sa.select(TRAIL.c.what)).all()
        last = connection.execute(sa.select(position_table.c.buffer_id, position_table.c.last_seq)).all()
    expected = [f"first {n}" for n in range(3)] + [
        f"second {n}{half}" for n in range(3) for half in ("", ".5")
    ]
    assert sorted(stored) == sorted(expected)
    assert {(row[0], row[1]) for row in last} == {(first.buffer_id, 3), (alarm.continued_as, 6)}


@pytest.mark.parametrize("target", ["service", "trail"])
@pytest.mark.usefixtures("any_engine")
def test_a_lost_answer_to_commit_is_no_alarm(target: str, request: pytest.FixtureRequest) -> None:
    """
    Every second COMMIT is stored and its answer lost: compared, found to be ours, gone behind.
    """
    wrapped = request.getfixturevalue(target)
    told: list[BaseException] = []
    audit = AuditBuffer(wrapped, durability="memory", batch_size=3, on_error=told.append, **SETTINGS)
    sink = audit._writer.sink
    write, count = sink.write, iter(range(1000))

    def write_and_lose(batch: Batch) -> None:
        write(batch)
        if next(count) % 2:
            raise ConnectionError("the answer is lost")

    sink.write = write_and_lose  # type: ignore[method-assign]
    for number in range(40):
        audit.record(**({"what": str(number)} if target == "trail" else {"event_type": str(number)}))
    audit.close()
    assert {type(error) for error in told} == {ConnectionError}
    table = TRAIL if target == "trail" else audit_log
    column = TRAIL.c.what if target == "trail" else audit_log.c.event_type
    with wrapped.engine.connect() as connection:
        assert connection.scalars(sa.select(column).order_by(table.c.id)).all() == [
            str(number) for number in range(40)
        ]


def test_a_ring_file_goes_on_under_another_buffer_id(tmp_path: Path) -> None:
    """
    In one step, under its old name: whoever adopts it afterwards finds the new buffer_id and what was not released.
    """
    ring = RingFile.create(tmp_path, label="x", size=1 << 16)
    for seq in range(1, 6):
        ring.put(seq, b"%d" % seq)
    ring.take(4, 1 << 20)
    ring.release(2)
    new = uuid4()
    heir = ring.successor(new)
    assert (heir.buffer_id, heir.committed_seq, heir.path) == (new, 2, ring.path)
    assert heir.put(6, b"6")
    heir.close()
    adopted = RingFile.adopt(heir.path)
    assert (adopted.buffer_id, adopted.committed_seq) == (new, 2)
    assert [seq for seq, _ in adopted.take(10, 1 << 20)] == [3, 4, 5, 6]
    adopted.close()


# What is compared ---------------------------------------------------------------------------------------------------


def stored(engine: Engine, batch: Batch) -> Any:
    with engine.connect() as connection:
        query = sa.select(audit_log).where(audit_log.c.buffer_id == batch.buffer_id)
        return connection.execute(query).mappings().all()


def test_every_field_counts(service: AuditService) -> None:
    """
    Stored rows equal their batch, gap rows and quarantine rows included; any other value in any field is a difference.
    """
    one = encode(
        1_000_001, "e", "actor", "resource", "success", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "id", None
    )
    batch = Batch(
        buffer_id=uuid4(),
        after=0,
        through=6,
        stored=[(1, one), (2, payload("x")), (5, one)],
        policy="drop_newest",
    )
    sink = EntrySink(service.engine)
    sink.write(batch)
    six = Batch(buffer_id=batch.buffer_id, after=6, through=7, stored=[(7, one)])
    sink.quarantine(six, ValueError("no"))
    eight = Batch(buffer_id=batch.buffer_id, after=7, through=8, stored=[(8, b"no json")])
    sink.quarantine(eight, ValueError("no"))
    sink.close()
    whole = attrs.evolve(batch, through=8, stored=[*batch.stored, *six.stored, *eight.stored])
    rows = stored(service.engine, batch)
    assert first_difference(whole, rows) is None
    others = [
        encode(
            1_000_002, "e", "actor", "resource", "success", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "id", None
        ),
        encode(
            1_000_001, "f", "actor", "resource", "success", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "id", None
        ),
        encode(
            1_000_001, "e", None, "resource", "success", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "id", None
        ),
        encode(
            1_000_001, "e", "actor", "resourcf", "success", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "id", None
        ),
        encode(
            1_000_001, "e", "actor", "resource", "failure", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "id", None
        ),
        encode(
            1_000_001, "e", "actor", "resource", "success", {"a": [1, 2.5, None], "b": {"c": "u"}}, "id", None
        ),
        encode(1_000_001, "e", "actor", "resource", "success", None, "id", None),
        encode(
            1_000_001, "e", "actor", "resource", "success", {"a": [1, 2.5, None], "b": {"c": "ü"}}, None, None
        ),
        b"no json",
    ]
    for place, seq in enumerate((1, 2, 5, 7)):
        for other in others:
            changed = [*whole.stored]
            changed[place] = (seq, other)
            assert first_difference(attrs.evolve(whole, stored=changed), rows) == seq, other
    assert first_difference(attrs.evolve(whole, stored=[*whole.stored[:4], (8, b"other")]), rows) == 8
    assert first_difference(attrs.evolve(whole, stored=whole.stored[1:]), rows) == 1, (
        "a row that we do not have"
    )
    assert first_difference(whole, [row for row in rows if row["seq"] != 2]) == 2, "a row that is not there"


def test_the_chain_follows_from_all_seqs_and_bytes_before() -> None:
    """
    Where one entry ends and the next begins counts, and what lies in front; how they were cut into batches does not.
    """
    start = Link(0).value

    def of(*stored: tuple[int, bytes], start: bytes = start) -> bytes:
        return chained(start, Batch(buffer_id=uuid4(), after=0, through=9, stored=list(stored)))

    assert of((1, b"ab"), (2, b"c")) == of((2, b"c"), start=of((1, b"ab")))
    others = [
        of((1, b"ab"), (2, b"c")),
        of((1, b"a"), (2, b"bc")),
        of((1, b"ab"), (3, b"c")),
        of((2, b"c"), (1, b"ab")),
        of((2, b"c")),
        of(),
    ]
    assert len(set(others)) == len(others)


# Own tables ---------------------------------------------------------------------------------------------------------


def rows(sink: TableSink, buffer_id: UUID, after: int, *whats: str) -> Batch:
    stored = [(after + place, sink.encode({"what": what})) for place, what in enumerate(whats, 1)]
    return Batch(buffer_id=buffer_id, after=after, through=after + len(whats), stored=stored)


def whats_in(sink: TableSink) -> list[str]:
    with sink.engine.connect() as connection:
        return list(connection.scalars(sa.select(TRAIL.c.what).order_by(TRAIL.c.id)))


def test_a_stranger_behind_our_own_rows_is_noticed(trail: TableSink) -> None:
    """
    The new buffer_id begins behind what was ours, with a position of its own, and can go on being in doubt.
    """
    told: list[BaseException] = []
    audit = AuditBuffer(trail, durability="memory", on_error=told.append, **SETTINGS)
    audit.record(what="ours 1")
    audit.record(what="ours 2")
    audit.flush(timeout=30)
    stranger = TableSink(trail.engine, TRAIL)
    stranger.write(rows(stranger, audit.buffer_id, 2, "theirs 3"))
    stranger.close()
    audit.record(what="ours 3")
    audit.flush(timeout=30)
    (alarm,) = [error for error in told if isinstance(error, IntegrityAlarm)]
    assert (alarm.first_seq, alarm.last_seq) == (3, 3)
    audit.close()
    assert whats_in(trail) == ["ours 1", "ours 2", "theirs 3", "ours 3"]
    assert trail.position(alarm.continued_as) == 3  # type: ignore[arg-type]
    trail.begin(alarm.continued_as, 2)  # type: ignore[arg-type]
    assert trail.position(alarm.continued_as) == 3, "a second begin() changes nothing"  # type: ignore[arg-type]
    trail.close()


@pytest.mark.parametrize(
    ("orphan", "foreign"),
    [
        (("a", "b", "c", "d"), None),
        (("a", "b", "x", "d"), 2),
        (("a", "x", "c", "d"), 2),
        (("x", "b", "c", "d"), 1),
    ],
)
def test_of_an_orphan_everything_before_the_position_is_compared(
    trail: TableSink, orphan: tuple[str, ...], foreign: int | None
) -> None:
    """
    If the ring still has all of it, whichever way it is cut: as soon as the part comes that the position lies in.
    """
    buffer_id = uuid4()
    trail.write(rows(trail, buffer_id, 0, "a"))
    trail.write(rows(trail, buffer_id, 1, "b", "c"))

    def found_by(*parts: tuple[int, int]) -> int | None:
        sink = TableSink(trail.engine, TRAIL)
        whole = rows(sink, buffer_id, 0, *orphan)
        *before, last = [
            sink.first_foreign(whole.behind(after).until(through), None) for after, through in parts
        ]
        sink.close()
        assert before == [None] * len(before)
        return last

    assert found_by((0, 3)) == foreign
    assert found_by((0, 1), (1, 3)) == (None if foreign is None else 2), "the last transaction at the latest"
    assert found_by((0, 2), (2, 3)) == (None if foreign is None else 2)
    trail.close()


@pytest.mark.parametrize(
    ("orphan", "foreign"),
    [(("?", "b", "c"), None), (("?", "b", "x"), 2), (("?", "x", "c"), 2)],
)
def test_of_an_orphan_that_has_not_all_the_last_transaction_is_compared(
    trail: TableSink, orphan: tuple[str, ...], foreign: int | None
) -> None:
    """
    What the ring does not have any more is trusted, and so is a transaction that it has in part.
    """
    buffer_id = uuid4()
    trail.write(rows(trail, buffer_id, 0, "a"))
    trail.write(rows(trail, buffer_id, 1, "b", "c"))
    sink = TableSink(trail.engine, TRAIL)
    whole = rows(sink, buffer_id, 0, *orphan)
    assert sink.first_foreign(whole.behind(2), None) is None
    assert sink.first_foreign(whole.behind(1), None) == foreign
    assert sink.first_foreign(rows(sink, uuid4(), 0, "a"), None) is None, "nothing is stored"
    for opened in (sink, trail):
        opened.close()


def test_nothing_is_written_behind_entries_of_somebody_else(trail: TableSink) -> None:
    """
    A position that is the same number is not the same position: the UPDATE names what lies before it.
    """
    buffer_id, other = uuid4(), TableSink(trail.engine, TRAIL)
    trail.write(rows(trail, buffer_id, 0, "a"))
    with trail.engine.begin() as connection:
        connection.execute(sa.delete(position_table))
    other.write(rows(other, buffer_id, 0, "x"))
    with pytest.raises(SinkError, match="other entries lie before it"):
        trail.write(rows(trail, buffer_id, 1, "b"))
    for sink in (trail, other):
        sink.close()
    assert whats_in(trail) == ["a", "x"]


def test_a_row_of_a_version_before_the_chain_is_gone_on_from(trail: TableSink) -> None:
    """
    Its checksum says nothing of what lies before: that is trusted, and from there on there is a chain.
    """
    buffer_id = uuid4()
    trail.write(rows(trail, buffer_id, 0, "a"))
    with trail.engine.begin() as connection:
        connection.execute(sa.update(position_table).values(checksum="0123456789abcdef" * 2))
    sink = TableSink(trail.engine, TRAIL)
    assert sink.position(buffer_id) == 1
    assert sink.first_foreign(rows(sink, buffer_id, 0, "a"), None) is None
    sink.write(rows(sink, buffer_id, 1, "b"))
    third = TableSink(trail.engine, TRAIL)
    assert third.first_foreign(rows(third, buffer_id, 1, "b"), None) is None
    for opened in (sink, third, trail):
        opened.close()


def test_a_position_that_is_there_already_is_a_doubt_and_no_poison(trail: TableSink) -> None:
    """
    The first batch of a buffer again: refused as a whole, without an entry being at fault.
    """
    batch = rows(trail, uuid4(), 0, "a")
    trail.write(batch)
    with pytest.raises(SinkError, match="has a position already") as caught:
        trail.write(batch)
    assert classify(caught.value).action is Action.RECONNECT
    trail.close()
    assert whats_in(trail) == ["a"]


def test_a_clone_that_is_killed_after_its_alarm_is_delivered_under_the_new_id(
    service: AuditService, one_id: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The ring file names the new buffer_id: whoever finds it raises no alarm, and writes nothing twice.
    """
    first = AuditBuffer(service, ring_dir=tmp_path / "one", **SETTINGS)
    second = AuditBuffer(service, ring_dir=tmp_path / "two", **SETTINGS)
    first.record("first 1")
    first.close()
    second.record("second 1")
    second.flush(timeout=30)
    second.record("second 2")
    second.record("second 3")
    # What a kill leaves at this moment.
    shutil.copytree(tmp_path / "two", tmp_path / "killed")
    monkeypatch.undo()
    assert deliver(service, tmp_path / "killed") == []
    expected = {
        one_id: [(1, "first 1")],
        second.buffer_id: [(1, "second 1"), (2, "second 2"), (3, "second 3")],
    }
    assert by_buffer(service) == expected
    second.close()
    assert by_buffer(service) == expected


# When something else goes wrong meanwhile ----------------------------------------------------------------------------


def test_a_ring_that_cannot_be_replaced_at_once_is_replaced_later(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No room for the new ring file: the alarm comes again, and in the end each entry is stored once.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()
    told: list[BaseException] = []
    audit = AuditBuffer(service, ring_dir=tmp_path / "ring", on_error=told.append, **SETTINGS)
    stranger = EntrySink(sqlite_engine)
    stranger.write(Batch(buffer_id=audit.buffer_id, after=0, through=1, stored=[(1, payload("theirs"))]))
    stranger.close()
    successor, failures = RingFile.successor, [RingError("no room", path=tmp_path)] * 3

    def failing(ring: RingFile, buffer_id: UUID | None = None) -> RingFile:
        if failures:
            raise failures.pop()
        return successor(ring, buffer_id)

    monkeypatch.setattr(RingFile, "successor", failing)
    audit.record("ours 1")
    audit.record("ours 2")
    audit.close()
    alarms = {error.continued_as for error in told if isinstance(error, IntegrityAlarm)}
    assert alarms == {audit.buffer_id}
    assert sorted(by_buffer(service)[audit.buffer_id]) == [(1, "ours 1"), (2, "ours 2")]
    assert service.count() == 3


def test_an_outage_during_quarantine_is_no_second_refusal(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is raised as it is: the entry keeps its verdict, and its place is written when the database is back.
    """
    AuditService(sqlite_engine).create_schema()
    sink = EntrySink(sqlite_engine)
    batch = Batch(buffer_id=uuid4(), after=0, through=1, stored=[(1, payload("a"))])
    with monkeypatch.context() as patched:
        patched.setattr(Database, "transaction", lambda self: _away())
        with pytest.raises(ConnectionError):
            sink.quarantine(batch, ValueError("no"))
    sink.quarantine(batch, ValueError("no"))
    assert sink.position(batch.buffer_id) == 1
    sink.close()


def _away() -> Any:
    raise ConnectionError("away")
