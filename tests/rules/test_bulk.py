"""
Every strategy stores what the portable one stores.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import attrs
import pytest
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditEntry, AuditService, Batch, BufferConfig, ConfigError
from audit_buffer._codec import EntryCodec
from audit_buffer.sinks._bulk import bulk_for
from audit_buffer.sinks._entries import EntrySink


encode = EntryCodec(1 << 20).encode

NAUGHTY: list[dict[str, Any] | None] = [
    None,
    {},
    {"text": "tab\t newline\n return\r backslash\\ quote' double\" percent % %s :name \\N \\."},
    {"nul": "\0", "emoji": "😀", "combining": "e\u0301", "bidi": "\u202e", "control": "\x1b[31m\x7f"},
    {"null": None, "nested": [{"a": [1, 2.5, True, False, None]}], "int": 2**63, "negative": -(2**63)},
    {"long": "x" * 5000},
]


def batch_of(count: int) -> Batch:
    """
    A batch with everything that a text format could trip over.
    """
    stored = []
    for seq in range(1, count + 1):
        details = NAUGHTY[seq % len(NAUGHTY)]
        texts = ["\\N", "a\tb", "line\nline", "back\\slash", "'", "%s", "😀", "", None][seq % 9]
        recorded = time.time_ns() // 1000 + seq if seq % 5 else seq - 62_135_510_400_000_000
        stored.append((seq, encode(recorded, "x\\y\t%", texts, texts, "ok\n", details, texts, None)))
    return Batch(buffer_id=uuid4(), after=0, through=count, stored=stored)


def stored_by(engine: Engine, bulk: str, batch: Batch) -> list[AuditEntry]:
    """
    What is in the table after *batch* was written by one strategy.
    """
    batch = attrs.evolve(batch, buffer_id=uuid4())
    sink = EntrySink(engine, bulk)
    sink.write(batch)
    assert sink.position(batch.buffer_id) == batch.through
    sink.close()
    found = AuditService(engine).entries(buffer_id=batch.buffer_id)
    return [attrs.evolve(entry, id=None, buffer_id=None) for entry in found]


@pytest.mark.parametrize("count", [1, 9, 511, 512, 513, 700])
def test_the_chosen_strategy_stores_what_executemany_stores(any_engine: Engine, count: int) -> None:
    """
    Same rows, same order, to the last character, in batches below, at and above what one statement takes.
    """
    AuditService(any_engine).create_schema()
    batch = batch_of(count)
    expected = stored_by(any_engine, "executemany", batch)
    assert [entry.seq for entry in expected] == list(range(1, count + 1))
    assert [entry.details for entry in expected] == [
        NAUGHTY[seq % len(NAUGHTY)] for seq in range(1, count + 1)
    ]
    assert stored_by(any_engine, "auto", batch) == expected


@pytest.mark.parametrize("bulk", ["auto", "executemany"])
def test_gap_rows_stand_among_the_entries(any_engine: Engine, bulk: str) -> None:
    """
    In seq order, with every strategy.
    """
    AuditService(any_engine).create_schema()
    full = batch_of(9)
    batch = attrs.evolve(full, stored=[item for item in full.stored if item[0] not in (3, 4, 9)])
    found = stored_by(any_engine, bulk, batch)
    assert [entry.seq for entry in found] == [1, 2, 4, 5, 6, 7, 8, 9]
    gaps = [entry for entry in found if entry.seq in (4, 9)]
    assert [entry.outcome for entry in gaps] == ["dropped", "dropped"]
    assert [entry.details for entry in gaps] == [
        {"dropped": 2, "first_seq": 3, "last_seq": 4, "policy": ""},
        {"dropped": 1, "first_seq": 9, "last_seq": 9, "policy": ""},
    ]


def test_the_configured_strategy_is_used(sqlite_engine: Engine) -> None:
    """
    `bulk` names it; a name that the database does not have is an error that lists the ones it has.
    """
    service = AuditService(sqlite_engine)
    service.create_schema()
    assert bulk_for(sqlite_engine, "auto").name == "values"
    with AuditBuffer(service, bulk="executemany", durability="memory") as audit:
        audit.record("x")
    assert service.count() == 1
    with pytest.raises(ConfigError, match="auto, values, executemany"):
        AuditBuffer(service, bulk="copy", durability="memory")
    with pytest.raises(ConfigError, match="must be one of auto"):
        BufferConfig(bulk="fast")  # type: ignore[arg-type]
