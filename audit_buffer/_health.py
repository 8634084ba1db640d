"""
`Health`: one look at a buffer, its ring and its database, and what there is to do about it.

Guarantees:
    * `Checkup.examine()` never waits for the database longer than it is told to. The database is asked on a thread and a
      connection of its own; while one question is not answered, no second one is asked.
    * It changes nothing. The connection is set up as the writer's own, so that what it reads is what holds for the writer.

Assumptions:
    * Any thread may call it. `assess()` is pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import attrs
from sqlalchemy import Engine, StaticPool, Table

from audit_buffer._assessment import Finding, assess_settings
from audit_buffer._lifecycle import EngineRoom
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import unsuited_filesystem
from audit_buffer._worker import Worker
from audit_buffer.config import Durability
from audit_buffer.schema import companion_metadata, metadata
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._faults import explained
from audit_buffer.sinks._settings import DatabaseSettings, read_settings


__all__ = ["Checkup", "Health", "Inquiry", "RingUsage", "assess", "our_tables"]

# Seconds that an entry waits before somebody should look; an idle database takes a batch in milliseconds.
_SLOW = 60.0
_NEARLY_FULL = 0.8


@attrs.frozen(kw_only=True)
class RingUsage:
    """
    How much of the ring is taken by entries that are not committed.

    Attributes:
        bytes: What they take up.
        capacity: What there is.
        fraction: The fuller of the two bounds, entries and bytes: 1.0 is full.
        oldest_age: Seconds that the oldest of them has waited; 0.0 when there is none.
        path: The ring file, or None in memory.
        unsuited: Why the file system below it is a poor place, or None.
    """

    bytes: int
    capacity: int
    fraction: float
    oldest_age: float
    path: Path | None = None
    unsuited: str | None = None


@attrs.frozen(kw_only=True)
class Health:
    """
    How a buffer is, at one moment.

    Attributes:
        state: "open", "closing", "closed" or "failed".
        writer_alive: Whether the writer's thread runs. It starts with the first entry.
        lag_entries: Entries that are not committed.
        lag_seconds: Seconds that the oldest of them has waited.
        database_reachable: Whether the database answered in time; None when the target has no engine that could be asked.
        database_error: Why it did not, or None.
        database: Its settings on a connection like the writer's, or None when it was not asked or did not answer.
        durability: The level in force.
        ring: What is taken of the ring.
        dropped: Entries that a policy dropped.
        quarantined: Entries that the database refused for good.
        last_error: What the writer met last, or None.
        advice: What somebody must do before the database can take anything (it may be empty); None where that is not the case.
        findings: What is not as it should be, the worst first.
    """

    state: str
    writer_alive: bool
    lag_entries: int
    lag_seconds: float
    database_reachable: bool | None
    database_error: str | None
    database: DatabaseSettings | None
    durability: Durability
    ring: RingUsage
    dropped: int
    quarantined: int
    last_error: BaseException | None
    advice: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """
        Tell whether there is no finding of severity "error".
        """
        return all(finding.severity != "error" for finding in self.findings)


def assess(health: Health) -> tuple[Finding, ...]:
    """
    Return what is not as it should be, the worst first.
    """
    findings = [*_assess_buffer(health), *_assess_ring(health)]
    if health.database is not None:
        findings += assess_settings(health.database)
    return tuple(sorted(findings, key=lambda finding: ("error", "warning", "info").index(finding.severity)))


def _assess_buffer(health: Health) -> Iterator[Finding]:
    if health.state == "failed":
        yield Finding(
            "error",
            f"the buffer has failed and takes no entries: {health.last_error!r}",
            "remove the cause, then make a new buffer; what lies in a ring file is delivered by the next start",
        )
    if health.database_reachable is False:
        yield Finding(
            "error",
            f"the database cannot be reached: {health.database_error}",
            "bring it back; entries wait in the ring, in order, and are written then",
        )
    waits = health.lag_entries and health.state in ("open", "closing")
    if waits and not health.writer_alive:
        yield Finding(
            "warning",
            f"{health.lag_entries} entries wait and the writer's thread does not run",
            "it starts with the next record(), flush() or close(); where the system refuses threads, raise its limit",
        )
    if waits and health.advice is not None:
        yield Finding(
            "error",
            f"the database takes nothing, and {health.lag_entries} entries wait until somebody acts: {health.last_error!r}",
            health.advice or "see what the writer met",
        )
    if waits and health.lag_seconds > _SLOW:
        met = "" if health.last_error is None else f"; the writer last met {health.last_error!r}"
        yield Finding(
            "error",
            f"the oldest of {health.lag_entries} entries has waited for {health.lag_seconds:.0f} s{met}",
            "see why the database takes nothing, or too little: locks, a slow disk, what the writer met",
        )
    if health.dropped:
        yield Finding(
            "warning",
            f"{health.dropped} entries were dropped by the policy on_full",
            "see the gap rows for which; make the ring larger, the database faster, or choose another policy",
        )
    if health.quarantined:
        yield Finding(
            "warning",
            f"{health.quarantined} entries were refused for good by the database and set aside",
            "audit-buffer quarantine list",
        )


def _assess_ring(health: Health) -> Iterator[Finding]:
    ring = health.ring
    if ring.fraction >= _NEARLY_FULL:
        yield Finding(
            "warning",
            f"{ring.fraction:.0%} of the ring are taken; when it is full, the policy on_full decides",
            "bring the database up to speed, or raise ring_bytes or queue_maxsize",
        )
    if ring.unsuited is not None:
        yield Finding(
            "warning",
            f"the ring is badly placed: {ring.unsuited}",
            "set ring_dir to a folder on a local disk",
        )
    if health.durability == "memory":
        yield Finding(
            "info",
            'durability is "memory": entries that are not committed are lost when the process is killed',
            "set ring_dir to a folder on a local disk, unless that is meant",
        )


def our_tables() -> tuple[str, ...]:
    """
    Return the names of all tables that this library may write besides an application's own.
    """
    return tuple(table.name for table in (*metadata.sorted_tables, *companion_metadata.sorted_tables))


Answer = tuple[DatabaseSettings | None, str | None]


class Inquiry:
    """
    One question to a database, asked on a thread of its own.

    Args:
        own_tables: The application's own tables that entries go to.

    Attributes:
        answer: The settings, or why there are none; None until it has come.
    """

    def __init__(self, engine: Engine, own_tables: tuple[str, ...] = ()) -> None:
        self._engine = engine
        self._own_tables = own_tables
        self._worker = Worker("audit-health", self._ask, self._failed)
        self.answer: Answer | None = None

    @property
    def is_open(self) -> bool:
        """
        Tell whether the answer is still to come.
        """
        return self._worker.is_running

    def begin(self) -> None:
        """
        Ask.
        """
        try:
            self._worker.ensure_running()
        except RuntimeError as error:  # the process ends, or the system refuses threads
            self._failed(error)

    def wait(self, timeout: float) -> Answer:
        """
        Return the answer, or after *timeout* seconds that there is none.
        """
        self._worker.join(timeout)
        return self.answer or (None, f"no answer within {timeout:g} s")

    def _ask(self) -> bool:
        try:
            self.answer = self._settings(), None
        except BaseException as error:
            self._failed(error)
        return False

    def _settings(self) -> DatabaseSettings:
        engine = self._engine
        if isinstance(engine.pool, StaticPool):
            # Its one connection may be in the middle of somebody's transaction.
            known = {"journal_mode": "memory"} if engine.dialect.name == "sqlite" else {}
            return DatabaseSettings(kind=engine.dialect.name, values=known)
        with Database(engine).look() as connection:
            return read_settings(connection, our_tables(), self._own_tables)

    def _failed(self, error: BaseException) -> None:
        self.answer = None, explained(error)


class Checkup:
    """
    Examines one buffer, as often as it is asked.

    Args:
        target: What the buffer was made for; its database is looked at if it has an engine.
    """

    def __init__(self, room: EngineRoom, target: Any) -> None:
        self._room = room
        self._engine: Engine | None = getattr(target, "engine", None)
        table = getattr(target, "table", None)
        self._own_tables = (table.name,) if isinstance(table, Table) else ()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._inquiry: Inquiry | None = None

    def examine(self, timeout: float) -> Health:
        """
        Look at everything, waiting at most *timeout* seconds for the database.
        """
        reachable, (settings, refusal) = self._inquire(timeout)
        room, now = self._room, self._room.channel.snapshot()
        health = Health(
            state=now.state.value,
            writer_alive=room.writer.worker.is_running,
            lag_entries=now.pending,
            lag_seconds=now.oldest_age,
            database_reachable=reachable,
            database_error=refusal,
            database=settings,
            durability=room.place.level,
            ring=self._usage(now.pending, now.pending_bytes, now.oldest_age),
            dropped=now.dropped,
            quarantined=room.writer.quarantined,
            last_error=now.last_error,
            advice=room.channel.advice,
        )
        return attrs.evolve(health, findings=assess(health))

    def _inquire(self, timeout: float) -> tuple[bool | None, Answer]:
        if self._engine is None:
            return None, (None, None)
        if self._pid != os.getpid():
            # In a forked child: the thread that was to answer stayed with the parent.
            self._begin_anew()
        with self._lock:
            if self._inquiry is None or not self._inquiry.is_open:
                self._inquiry = Inquiry(self._engine, self._own_tables)
                self._inquiry.begin()
            inquiry = self._inquiry
        answer = inquiry.wait(timeout)
        return answer[1] is None, answer

    def _usage(self, entries: int, size: int, oldest_age: float) -> RingUsage:
        ring, config = self._room.channel.ring, self._room.config
        capacity = config.queue_max_bytes or 0
        used, path = size, None
        if isinstance(ring, RingFile):
            (used, capacity), path = ring.usage, ring.path
        bounds = ((entries, config.queue_maxsize), (size, config.queue_max_bytes), (used, capacity))
        return RingUsage(
            bytes=used,
            capacity=capacity,
            fraction=max(taken / bound if bound else 0.0 for taken, bound in bounds),
            oldest_age=oldest_age,
            path=path,
            unsuited=None if path is None else unsuited_filesystem(path.parent),
        )
