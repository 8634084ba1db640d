"""
A process that is killed (SIGKILL) around the n-th statement of narrowing a batch, for each n; then the next one, at the same
moment of delivering what was left; then a third one is left alone, and the books are compared.

    python -m tests.crash.narrowing_kills --url sqlite:////tmp/x/audit.db --ring-dir /tmp/x/rings --target table --stride 1

The moments lie before and after each statement, and before COMMIT: within the search for what is refused, between the row in
quarantine and the position, between a COMMIT and what this process makes of it. The last line of the output is the tally as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditService, TableSink, instrumentation
from audit_buffer.schema import audit_log, quarantine_table
from audit_buffer.sinks._quarantine import quarantined
from tests.rules.poison import POISON, forbid


COUNT = 9
POISONED = (2, 6, 7)
PATIENCE = 30
FACTS = sa.Table(
    "facts",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("what", sa.String(20)),
    mysql_engine="InnoDB",
)


def set_up(engine: Engine, target: str) -> None:
    if target == "service":
        AuditService(engine).create_schema()
        forbid(engine, "audit_log", "actor")
    else:
        FACTS.create(engine)
        TableSink(engine, FACTS).create_schema()
        forbid(engine, "facts", "what")


def kill_at(engine: Engine, moment: int) -> None:
    """
    Have this process killed at the so many-th moment of *engine*, counted from 1; 0 is never.
    """
    left = [moment]

    def tick(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(engine, name, tick)


def live(given: argparse.Namespace, trial: int, moment: int, *, records: bool) -> None:
    """
    Be one process: record the entries or only deliver what another left, be killed at *moment*, or end well.
    """
    instrumentation.set_hooks([])
    engine = sa.create_engine(given.url)
    target: Any = AuditService(engine) if given.target == "service" else TableSink(engine, FACTS)
    buffer = AuditBuffer(
        target,
        durability="process",
        ring_dir=given.ring_dir,
        ring_bytes=1 << 18,
        max_entry_bytes=1 << 14,
        flush_interval=3600.0,
        retry_backoff=0.001,
        retry_backoff_max=0.01,
    )
    kill_at(engine, moment)
    for number in range(1, COUNT + 1 if records else 1):
        what = POISON if number in POISONED else "good"
        if given.target == "service":
            buffer.record("fact", actor=what, resource=str(trial), details={"number": number})
        else:
            buffer.record(trial=trial, number=number, what=what)
    buffer.flush(timeout=PATIENCE)
    buffer.close(timeout=PATIENCE)


def killed(given: argparse.Namespace, trial: int, moment: int, *, records: bool) -> bool:
    """
    Let a process live; tell whether it was killed.

    Raises:
        RuntimeError: It ended in another way.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            live(given, trial, moment, records=records)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"trial {trial}, moment {moment}: a process ended with {code}")
    return code != 0


def faults(given: argparse.Namespace, trial: int) -> list[str]:
    """
    Compare what is in the tables with what was recorded in *trial*.
    """
    engine = sa.create_engine(given.url)
    good = [number for number in range(1, COUNT + 1) if number not in POISONED]
    with engine.connect() as connection:
        if given.target == "service":
            written = sa.select(audit_log).where(audit_log.c.resource == str(trial)).order_by(audit_log.c.id)
            rows = connection.execute(written).mappings().all()
            numbers = [row["details"]["number"] for row in rows]
            owner: UUID | None = rows[0]["buffer_id"] if rows else None
            seqs = list(connection.scalars(_seqs(audit_log, owner)))
        else:
            written = sa.select(FACTS.c.number).where(FACTS.c.trial == trial).order_by(FACTS.c.id)
            numbers = list(connection.scalars(written))
            # One trial after the other: what is in quarantine and was not there before is this one's.
            owner = connection.scalar(sa.select(quarantine_table.c.buffer_id).limit(1))
            seqs = sorted([*numbers, *connection.scalars(_seqs(quarantine_table, owner))])
    aside = [found.seq for found in quarantined(engine, buffer_id=owner)]
    found = []
    if numbers != good:
        found.append(f"trial {trial}: written {numbers}")
    if aside != list(POISONED) or seqs != list(range(1, COUNT + 1)):
        found.append(f"trial {trial}: in quarantine {aside}, seqs {seqs}")
    with engine.begin() as connection:
        if given.target == "table":
            connection.execute(sa.delete(quarantine_table))
    engine.dispose()
    if list(Path(given.ring_dir).glob("*.ring")):
        found.append(f"trial {trial}: a ring is left")
    return found


def _seqs(table: sa.Table, owner: UUID | None) -> sa.Select[tuple[int]]:
    return sa.select(table.c.seq).where(table.c.buffer_id == owner).order_by(table.c.seq)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--ring-dir", required=True)
    parser.add_argument("--target", choices=["service", "table"], required=True)
    parser.add_argument("--stride", type=int, required=True, help="Every so many-th moment.")
    given = parser.parse_args()
    engine = sa.create_engine(given.url)
    set_up(engine, given.target)
    engine.dispose()
    tally: dict[str, Any] = {"trials": 0, "kills": 0, "faults": []}
    moment = 1
    while True:
        tally["trials"] += 1
        first = killed(given, moment, moment, records=True)
        tally["kills"] += first + (first and killed(given, moment, moment, records=False))
        killed(given, moment, 0, records=False)
        tally["faults"] += faults(given, moment)
        if not first:
            break
        moment += given.stride
    print(json.dumps(tally))
    sys.exit(bool(tally["faults"]))


if __name__ == "__main__":
    main()
