"""
What the databases refuse for good goes into quarantine under its seq, and nothing else suffers.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditEntry, AuditService, EntryQuarantined, SinkError, TableSink
from audit_buffer._codec import EntryCodec
from audit_buffer._narrowing import MOST_IN_A_ROW
from audit_buffer._ring_file import RingFile
from audit_buffer._values import decode_values
from audit_buffer.schema import position_table, quarantine_table
from audit_buffer.sinks import Batch
from audit_buffer.sinks._entries import EntrySink
from audit_buffer.sinks._integrity import quarantined_payload
from audit_buffer.sinks._quarantine import quarantined
from tests.rules.poison import POISON, forbid


COUNT = 12
PLACES = [{1}, {6}, {COUNT}, {1, 2, COUNT}, {3, 7, 8}, set(range(1, COUNT + 1))]
SETTINGS: dict[str, Any] = {
    "durability": "memory",
    "flush_interval": 60.0,
    "retry_backoff": 0.001,
    "retry_backoff_max": 0.01,
}
TRAIL = sa.Table(
    "trail",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("what", sa.String(60)),
    sa.Column("number", sa.Integer),
)


@pytest.fixture(scope="module")
def service(kept_engine: Engine) -> AuditService:
    """
    The service in front of a table that refuses the actor `POISON`.
    """
    service = AuditService(kept_engine)
    service.create_schema()
    forbid(kept_engine, "audit_log", "actor")
    return service


@pytest.fixture(scope="module")
def trail(kept_engine: Engine) -> TableSink:
    """
    An own table that refuses what `POISON` says.
    """
    TRAIL.create(kept_engine)
    TableSink(kept_engine, TRAIL).create_schema()
    forbid(kept_engine, "trail", "what", "no_poison_on_trail")
    return TableSink(kept_engine, TRAIL)


def record_and_read(service: AuditService, poison: set[int], count: int, **options: Any) -> list[AuditEntry]:
    told: list[BaseException] = []
    audit = AuditBuffer(service, on_error=told.append, **{**SETTINGS, **options})
    for number in range(1, count + 1):
        audit.record("fact", actor=POISON if number in poison else f"a{number}", details={"number": number})
    audit.flush(timeout=60)
    stats = audit.stats()
    audit.close()
    assert stats.quarantined == len(poison)
    assert stats.retries == 0
    assert [error.seq for error in told if isinstance(error, EntryQuarantined)] == sorted(poison)
    return service.entries(buffer_id=audit.buffer_id)


def check(found: list[AuditEntry], poison: set[int], count: int) -> None:
    assert [entry.seq for entry in found] == list(range(1, count + 1)), "dense, in order, each once"
    for entry in found:
        if entry.seq not in poison:
            assert (entry.event_type, entry.actor, entry.details) == (
                "fact",
                f"a{entry.seq}",
                {"number": entry.seq},
            )
            continue
        assert (entry.event_type, entry.outcome, entry.actor) == (
            "audit_buffer.quarantined",
            "quarantined",
            None,
        )
        assert entry.details is not None
        assert "poison" in entry.details["error"]
        payload = quarantined_payload(entry.details)
        assert payload is not None
        row = EntryCodec.decode(payload)
        assert (row.event_type, row.actor, row.details_object()) == ("fact", POISON, {"number": entry.seq})


@pytest.mark.parametrize("bulk", ["auto", "executemany"])
@pytest.mark.parametrize("poison", PLACES, ids=str)
def test_refused_entries_stand_in_quarantine_under_their_seq(
    service: AuditService, poison: set[int], bulk: str
) -> None:
    """
    First, in the middle, last, several, all; with every strategy: seq stays dense, the rest is written in order.
    """
    check(record_and_read(service, poison, COUNT, bulk=bulk), poison, COUNT)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), count=st.integers(1, 300), batch_size=st.sampled_from([1, 7, 64, 512]))
def test_wherever_the_poison_is(
    service: AuditService, data: st.DataObject, count: int, batch_size: int
) -> None:
    """
    In batches below and above what one statement takes.
    """
    poison = data.draw(st.sets(st.integers(1, count), max_size=5))
    check(record_and_read(service, poison, count, batch_size=batch_size), poison, count)


@pytest.mark.parametrize("bulk", ["auto", "executemany"])
@pytest.mark.parametrize("poison", PLACES, ids=str)
def test_refused_rows_of_an_own_table_stand_in_the_companion_table(
    trail: TableSink, poison: set[int], bulk: str
) -> None:
    """
    With their seq, their bytes and the reason; the position goes on, and the own table has everything else.
    """
    with AuditBuffer(trail, bulk=bulk, **SETTINGS) as audit:
        for number in range(1, COUNT + 1):
            audit.record(what=POISON if number in poison else str(audit.buffer_id), number=number)
        audit.flush(timeout=60)
        assert audit.stats().quarantined == len(poison)
    own = sa.select(TRAIL.c.number).where(TRAIL.c.what == str(audit.buffer_id)).order_by(TRAIL.c.id)
    kept = sa.select(quarantine_table).where(quarantine_table.c.buffer_id == audit.buffer_id)
    last = sa.select(position_table.c.last_seq).where(position_table.c.buffer_id == audit.buffer_id)
    with trail.engine.connect() as connection:
        assert connection.scalars(own).all() == [n for n in range(1, COUNT + 1) if n not in poison]
        rows = {row["seq"]: row for row in connection.execute(kept).mappings()}
        assert connection.scalar(last) == COUNT
    assert set(rows) == poison
    for seq, row in rows.items():
        assert decode_values(row["payload"])[1] == {"what": POISON, "number": seq}
        assert "poison" in row["error"]


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
@pytest.mark.parametrize("bulk", ["auto", "executemany"])
def test_a_column_that_was_made_smaller_refuses_what_does_not_fit(name: str, bulk: str, request: Any) -> None:
    """
    22001 and 1406: too long for the column as it is now, and only that entry.
    """
    engine: Engine = request.getfixturevalue(f"{name}_engine")
    service = AuditService(engine)
    service.create_schema()
    change = (
        "ALTER COLUMN resource TYPE VARCHAR(10)" if name == "postgresql" else "MODIFY resource VARCHAR(10)"
    )
    with AuditBuffer(service, bulk=bulk, **SETTINGS) as audit:
        audit.record("before", resource="x" * 10)
        audit.flush(timeout=30)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE audit_log {change}")
        for length in (3, 11, 10):
            audit.record("after", resource="x" * length)
        audit.flush(timeout=30)
        found = service.entries(buffer_id=audit.buffer_id)
    assert [entry.resource for entry in found] == ["x" * 10, "x" * 3, None, "x" * 10]
    assert [entry.outcome for entry in found] == ["success", "success", "quarantined", "success"]


def test_a_column_that_every_entry_lacks_is_no_poison(any_engine: Engine) -> None:
    """
    A NOT NULL column that somebody added: a hundred entries are set aside, the others wait, and flush() and health() tell. Once it
    is gone, all is written in order, and what was set aside comes back.
    """
    TRAIL.create(any_engine)
    sink = TableSink(any_engine, TRAIL)
    sink.create_schema()
    with any_engine.begin() as connection:
        if any_engine.dialect.name == "sqlite":  # it adds no such column without a default
            connection.exec_driver_sql("DROP TABLE trail")
            connection.exec_driver_sql(
                "CREATE TABLE trail (id INTEGER PRIMARY KEY, what TEXT, number INTEGER, tenant INTEGER NOT NULL)"
            )
        else:
            connection.exec_driver_sql("ALTER TABLE trail ADD COLUMN tenant INTEGER NOT NULL")
    with AuditBuffer(sink, **SETTINGS) as audit:
        for number in range(1, 251):
            audit.record(what="fact", number=number)
        with pytest.raises(SinkError, match=f"refused {MOST_IN_A_ROW} entries one after the other") as caught:
            audit.flush(timeout=60)
        assert "NOT NULL" in caught.value.advice
        assert audit.stats().quarantined == MOST_IN_A_ROW
        health = audit.health(timeout=30)
        assert not health.ok
        assert caught.value.advice in [finding.remedy for finding in health.findings]
        # No attempt may have begun before that is told to have failed after it: flush() would raise that.
        assert audit._room.writer.hold_still(60)
        with any_engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE trail DROP COLUMN tenant")
        audit._room.writer.go_on()
        audit.flush(timeout=60)
        assert audit.health(timeout=30).advice is None
    with any_engine.connect() as connection:
        numbers = sa.select(TRAIL.c.number).order_by(TRAIL.c.id)
        assert connection.scalars(numbers).all() == list(range(MOST_IN_A_ROW + 1, 251))
    again = TableSink(any_engine, TRAIL)
    for seq in range(1, MOST_IN_A_ROW + 1):
        again.retry_quarantined(audit.buffer_id, seq)
    again.close()
    with any_engine.connect() as connection:
        assert sorted(connection.scalars(numbers)) == list(range(1, 251))
        assert connection.scalars(sa.select(quarantine_table.c.seq)).all() == []


def test_what_a_driver_cannot_encode_is_quarantined_as_base64(any_engine: Engine) -> None:
    """
    Bytes in a ring that are no entry at all: nothing of them can be put into a row, so they are kept as they are.
    """
    AuditService(any_engine).create_schema()
    sink = EntrySink(any_engine)
    broken = Batch(buffer_id=uuid4(), after=0, through=1, stored=[(1, b'["no entry" \xff')])
    with pytest.raises(msgspec.MsgspecError) as caught:
        sink.write(broken)
    sink.quarantine(broken, caught.value)
    sink.close()
    (entry,) = AuditService(any_engine).entries(buffer_id=broken.buffer_id)
    assert entry.details is not None
    assert base64.b64decode(entry.details["payload"]) == b'["no entry" \xff'
    assert "Error" in entry.details["error"]


def test_a_table_that_refuses_the_text_itself_takes_it_as_base64(any_engine: Engine) -> None:
    """
    A rule on details refuses the row that quotes the entry, too; not its base64.
    """
    service = AuditService(any_engine)
    service.create_schema()
    sqlite = any_engine.dialect.name == "sqlite"
    text = "CAST(details AS TEXT)" if any_engine.dialect.name == "postgresql" else "details"
    rule = (
        "CREATE TRIGGER no_secret BEFORE INSERT ON audit_log WHEN NEW.details LIKE '%s3cret%' "
        "BEGIN SELECT RAISE(ABORT, 'secret'); END"
        if sqlite
        else f"ALTER TABLE audit_log ADD CONSTRAINT no_secret CHECK ({text} NOT LIKE '%%s3cret%%')"
    )
    with any_engine.begin() as connection:
        connection.exec_driver_sql(rule)
    with AuditBuffer(service, **SETTINGS) as audit:
        audit.record("a", details={"password": "s3cret"})
        audit.record("b")
        audit.flush(timeout=30)
    first, second = service.entries(buffer_id=audit.buffer_id)
    assert first.details is not None
    payload = quarantined_payload(first.details)
    assert payload is not None
    assert isinstance(first.details["payload"], str)
    assert EntryCodec.decode(payload).details_object() == {"password": "s3cret"}
    assert second.event_type == "b"


def test_a_foreign_key_waits_for_the_transaction_that_writes_the_parent(postgresql_engine: Engine) -> None:
    """
    23503 while the domain transaction is open is no poison: the entry is written once that is committed.
    """
    metadata = sa.MetaData()
    plan = sa.Table("plan", metadata, sa.Column("id", sa.Integer, primary_key=True))
    notes = sa.Table(
        "notes",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("plan_id", sa.ForeignKey(plan.c.id)),
    )
    metadata.create_all(postgresql_engine)
    sink = TableSink(postgresql_engine, notes)
    sink.create_schema()
    failed: list[BaseException] = []
    audit = AuditBuffer(
        sink, on_error=failed.append, **{**SETTINGS, "retry_backoff": 5.0, "retry_backoff_max": 5.0}
    )
    with postgresql_engine.connect() as domain:
        domain.execute(sa.insert(plan), {"id": 7})
        audit.record(plan_id=7)
        with pytest.raises(Exception, match="foreign key"):
            audit.flush()
        domain.commit()
    audit.record(plan_id=7)
    audit.close()
    assert audit.stats().quarantined == 0
    with postgresql_engine.connect() as connection:
        assert connection.scalars(sa.select(notes.c.plan_id)).all() == [7, 7]


NAUGHTY: list[Any] = [
    "tab\t newline\n return\r backslash\\ quote' double\" percent % %s :name \\N \\.",
    "nul \0 in JSON",
    "😀 e\u0301 \u202e \x1b[31m\x7f",
    {"deep": [{"a": [1, 2.5, True, False, None, 1e300, -0.0, 2**63, -(2**63)]}]},
    "x" * 70_000,
]


def test_naughty_values_in_the_middle_of_a_batch_come_back_equal(any_engine: Engine) -> None:
    """
    Those that are written and those that are set aside: the bytes in quarantine are the entry's own, to the last one.
    """
    service = AuditService(any_engine)
    service.create_schema()
    forbid(any_engine, "audit_log", "actor")
    with AuditBuffer(service, **SETTINGS) as audit:
        for value in NAUGHTY:
            for actor in ("me", POISON, "me"):
                audit.record("fact", actor=actor, details={"value": value})
        audit.flush(timeout=60)
    kept = {found.seq: EntryCodec.decode(found.payload) for found in quarantined(any_engine)}
    for entry in service.entries(buffer_id=audit.buffer_id):
        assert entry.seq is not None
        expected = {"value": NAUGHTY[(entry.seq - 1) // 3]}
        details = kept[entry.seq].details_object() if entry.seq % 3 == 2 else entry.details
        assert (details, repr(details)) == (expected, repr(expected))
    assert sorted(kept) == [2, 5, 8, 11, 14]


@pytest.mark.parametrize("poison", [{1}, {150}, {300}, {2, 299}], ids=str)
def test_what_an_ended_process_left_is_narrowed_too(
    any_engine: Engine, tmp_path: Path, poison: set[int]
) -> None:
    """
    The next process sets aside what is refused out of its ring, counts it, and removes the file.
    """
    service = AuditService(any_engine)
    service.create_schema()
    audit = AuditBuffer(service, ring_dir=tmp_path, **{**SETTINGS, "durability": "process"})
    label, old = audit._room.place.label, uuid4()
    audit.close()
    ring = RingFile.create(tmp_path, label=label, size=1 << 20, buffer_id=old)
    encode = EntryCodec(1 << 20).encode
    for seq in range(1, 301):
        actor = POISON if seq in poison else f"a{seq}"
        ring.put(seq, encode(seq, "fact", actor, None, "success", {"number": seq}, None, None))
    ring.close()
    forbid(any_engine, "audit_log", "actor")
    with AuditBuffer(service, ring_dir=tmp_path, **{**SETTINGS, "durability": "process"}) as audit:
        audit.record("own")
        audit.flush(timeout=60)
        assert audit.stats().quarantined == len(poison)
    check(service.entries(buffer_id=old), poison, 300)
    assert service.count(buffer_id=audit.buffer_id) == 1
    assert not list(tmp_path.glob("*.ring"))
