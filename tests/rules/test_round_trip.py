"""
Entries through the real databases: equal after the round trip, or refused at the call.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditEntry, AuditService, EntryRejected
from tests.rules.values import NAUGHTY, anything, as_json, json_values, naughty_text, same


# Each example is a list of entries and one transaction, so that few examples are many entries.
THROUGH_A_DATABASE = settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 3),  # noqa: DTZ001
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.one_of(st.timezones(), st.just(timezone(timedelta(hours=-14)))),
)
ENTRIES = st.fixed_dictionaries(
    {"event_type": naughty_text()},
    optional={
        "actor": st.none() | naughty_text(),
        "resource": st.none() | naughty_text(),
        "outcome": naughty_text(),
        "correlation_id": st.none() | naughty_text(),
        "details": st.none() | st.dictionaries(naughty_text(), json_values() | anything(), max_size=3),
        "occurred_at": st.none() | MOMENTS,
    },
)


@pytest.fixture(scope="module")
def service(kept_engine: Engine) -> AuditService:
    """
    A service on a database that the module's tests share.
    """
    service = AuditService(kept_engine)
    service.create_schema()
    return service


def written(
    service: AuditService, entries: list[dict[str, Any]], bulk: str = "auto"
) -> tuple[list[dict[str, Any]], list[AuditEntry]]:
    """
    Record *entries* through a buffer, and return those that were taken beside the rows that come back.
    """
    taken = []
    with AuditBuffer(service, durability="memory", bulk=bulk) as audit:
        for entry in entries:
            try:
                audit.record(**entry)
            except EntryRejected:
                continue
            taken.append(entry)
        assert audit.stats().published == len(taken)
        audit.flush(timeout=20)
        seqs = sa.select(service.table.c.buffer_id).order_by(service.table.c.id.desc()).limit(1)
        with service.engine.connect() as connection:
            buffer_id = connection.scalar(seqs)
        rows = service.entries(buffer_id=buffer_id) if taken else []
    return taken, rows


def assert_equal(taken: list[dict[str, Any]], rows: list[AuditEntry]) -> None:
    assert [row.seq for row in rows] == list(range(1, len(taken) + 1))
    for given_, row in zip(taken, rows, strict=True):
        for name in ("event_type", "actor", "resource", "correlation_id"):
            assert getattr(row, name) == given_.get(name), name
        assert row.outcome == given_.get("outcome", "success")
        assert row.details == as_json(given_.get("details"))
        occurred = given_.get("occurred_at")
        assert row.occurred_at == (row.recorded_at if occurred is None else occurred.astimezone(UTC))
        assert row.occurred_at.utcoffset() == timedelta(0)


EVERY_BULK = pytest.mark.parametrize("bulk", ["auto", "executemany"])


@EVERY_BULK
@THROUGH_A_DATABASE
@given(entries=st.lists(ENTRIES, max_size=20))
def test_entries_come_back_equal_or_are_refused(
    service: AuditService, bulk: str, entries: list[dict[str, Any]]
) -> None:
    """
    Whatever `record()` takes, the database gives back; what it would not, the call refuses.
    """
    assert_equal(*written(service, entries, bulk))


@EVERY_BULK
def test_the_naughty_strings_come_back_from_every_field(service: AuditService, bulk: str) -> None:
    """
    In order, with those that only details can hold left to them.
    """
    entries = [
        {"event_type": text, "actor": text, "resource": text, "outcome": text, "correlation_id": text}
        for text in NAUGHTY
    ]
    entries += [{"event_type": "naughty", "details": {text: [text]}} for text in NAUGHTY]
    taken, rows = written(service, entries, bulk)
    refused = ("", "\0", "a\0b", "\ud800", "\udfff\ud800")
    assert [entry["event_type"] for entry in taken if "actor" in entry] == [
        text for text in NAUGHTY if text not in refused
    ]
    assert len([entry for entry in taken if "details" in entry]) == len(NAUGHTY) - 2
    assert_equal(taken, rows)


NUMBERS = [
    0,
    -1,
    2**53 + 1,
    2**63,
    2**64,
    -(2**64),
    10**400,
    0.1,
    -0.0,
    1e308,
    5e-324,
    1e16,
    123456789.123456789,
]


def test_numbers_come_back_with_their_type_and_sign(service: AuditService) -> None:
    """
    No float becomes an int on the way, no int a float, and -0.0 stays what it is.
    """
    taken, rows = written(service, [{"event_type": "numbers", "details": {"n": NUMBERS}}])
    assert taken
    assert same(rows[0].details, {"n": NUMBERS})


def test_deep_details_come_back(service: AuditService) -> None:
    """
    As deep as the interpreter goes; no database takes the text apart.
    """
    details: dict[str, Any] = {}
    for _ in range(300):
        details = {"a": [details]}
    _, rows = written(service, [{"event_type": "deep", "details": details}])
    assert rows[0].details == details


def test_a_large_entry_comes_back(service: AuditService) -> None:
    """
    Up to `max_entry_bytes`, beyond the 64 KiB of a small text column.
    """
    taken, rows = written(service, [{"event_type": "large", "details": {"x": "é" * 500_000}}])
    assert_equal(taken, rows)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(999, 1, 1, tzinfo=UTC),
        datetime(1899, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1),
        datetime(2026, 11, 24, 3, 4, 5, 1, tzinfo=UTC),
        datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
    ids=str,
)
def test_moments_at_the_limits_come_back_to_the_microsecond(service: AuditService, moment: datetime) -> None:
    """
    Before the epoch, before the Gregorian calendar, and nearly at the end of time.
    """
    taken, rows = written(service, [{"event_type": "moment", "occurred_at": moment}])
    assert_equal(taken, rows)
    assert service.count(event_type="moment", since=moment, until=moment + timedelta(microseconds=1)) == 1


def test_a_session_far_from_utc_reads_the_last_moment(postgresql_engine: Engine) -> None:
    """
    psycopg answers in the session's time zone, where the last moments of 9999 would have no date.
    """
    service = AuditService(postgresql_engine)
    service.create_schema()
    sa.event.listen(
        postgresql_engine,
        "connect",
        lambda raw, record: raw.execute("SET TIME ZONE INTERVAL '+14:00' HOUR TO MINUTE"),
    )
    postgresql_engine.dispose()
    for moment in (datetime(9999, 12, 30, 23, 59, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)):
        service.record("late", occurred_at=moment)
        assert service.entries()[-1].occurred_at == moment


def test_details_keep_their_text_byte_by_byte(service: AuditService) -> None:
    """
    No database sorts the keys, drops a duplicate or rewrites a number, as jsonb would.
    """
    details = {"b": 1.0, "a": [1e2, {"z": "\u00e9\u2028"}], "": None}
    _, rows = written(service, [{"event_type": "bytes", "details": details}])
    column = sa.cast(service.table.c.details, sa.Text)
    if service.engine.dialect.name in ("mysql", "mariadb"):
        column = sa.type_coerce(service.table.c.details, sa.Text)
    with service.engine.connect() as connection:
        text = connection.scalar(sa.select(column).where(service.table.c.buffer_id == rows[0].buffer_id))
    assert text == json.dumps(details, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("name", ["event_type", "actor", "resource"])
def test_keys_compare_byte_by_byte(service: AuditService, name: str) -> None:
    """
    Neither case nor accents nor spaces at the end are the same, on any database.
    """
    keys = [
        "abc",
        "ABC",
        "Abc",
        "ábc",
        "a\u0301bc",
        "abc ",
        " abc",
        "abc\t",
        "ⓐbc",
        "\uff41bc",
        "ﬁ",
        "fi",
        "ß",
        "ss",
        "a%c",
        "a_c",
    ]
    # What hypothesis recorded in the same table may have any text that stands in this file.
    ours = uuid4().hex
    for key in keys:
        service.record(**{"event_type": "keys", "correlation_id": ours, name: key})
    for key in keys:
        found = [entry for entry in service.entries(**{name: key}) if entry.correlation_id == ours]
        assert [getattr(entry, name) for entry in found] == [key]
        assert service.count(**{name: key}) >= 1
