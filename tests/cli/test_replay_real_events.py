"""
Real input: 1,900 CloudTrail records replayed into every database arrive complete, in order and equal.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_buffer import AuditService
from tests.cli.conftest import REPOSITORY, Run


EVENTS = REPOSITORY.parent / "shared" / "data" / "cloudtrail-1900.ndjson"

pytestmark = pytest.mark.skipif(not EVENTS.exists(), reason=f"the real events are not here: {EVENTS.name}")


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    return [json.loads(line) for line in EVENTS.read_bytes().splitlines()]


def test_real_events_arrive_complete_in_order_and_equal(run: Run, any_engine: Engine, documents: list[dict]):
    """
    Every line is one row, numbered as the lines are, and each field is what the line says.
    """
    url = any_engine.url.render_as_string(hide_password=False)

    ended = run("replay", EVENTS, "--db", url, "--json")

    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["lines"], found["committed"], found["rows_in_database"]) == (len(documents),) * 3
    stored = AuditService(any_engine).entries()
    assert [entry.details for entry in stored] == documents
    assert [entry.seq for entry in stored] == list(range(1, len(documents) + 1))
    assert [entry.event_type for entry in stored] == [event["eventName"] for event in documents]
    assert [entry.occurred_at for entry in stored] == [
        datetime.fromisoformat(event["eventTime"]) for event in documents
    ]
    assert [entry.outcome for entry in stored] == [event.get("errorCode", "success") for event in documents]
    assert [entry.actor for entry in stored] == [
        event["userIdentity"].get("arn") or event["userIdentity"].get("invokedBy") for event in documents
    ]
    assert [entry.correlation_id for entry in stored] == [event.get("requestID") for event in documents]


def test_a_small_queue_and_small_batches_change_nothing(run: Run, tmp_path: Path, documents: list[dict]):
    """
    With room for eight entries the input waits for the database, line by line, and nothing is lost.
    """
    options = ["--queue-maxsize", 8, "--batch-size", 3, "--flush-interval", 0]

    ended = run("replay", EVENTS, "--db", "sqlite:///small.db", *options)

    assert ended.exit_code == 0, ended.stderr
    service = AuditService(f"sqlite:///{tmp_path / 'small.db'}")
    assert [entry.details for entry in service.entries()] == documents
    service.engine.dispose()
