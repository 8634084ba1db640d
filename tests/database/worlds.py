"""
A buffer in front of a database, what it accepted, and what has become of that.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from types import TracebackType
from typing import Any, Self

import attrs
import sqlalchemy as sa
from sqlalchemy import Engine

from audit_buffer import AuditBuffer, AuditBufferError, AuditService, FlushTimeout, TableSink
from audit_buffer.schema import audit_log


__all__ = ["FACTS", "TARGETS", "Tally", "World"]

# By the strategy that the database has, and by the portable one.
TARGETS = ("service", "table", "service by executemany", "table by executemany")

# No key but a counter: what comes twice is there twice.
FACTS = sa.Table(
    "facts",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("number", sa.Integer, nullable=False),
    mysql_engine="InnoDB",
)

# Nothing is written but by a flush, and pauses are short: a fault meets the batch that it is meant for.
QUICK: dict[str, Any] = {
    "durability": "memory",
    "flush_interval": 3600.0,
    "retry_backoff": 0.002,
    "retry_backoff_max": 0.02,
}


@attrs.frozen
class Tally:
    """
    What is in the table, compared with what was accepted.
    """

    accepted: int
    lost: int
    doubled: int
    inverted: int
    phantom: int

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.inverted or self.phantom)


class World:
    """
    One buffer; entries are numbered from 1, so that each number is the seq it should get.

    Args:
        engine: What the buffer writes through.
        target: One of TARGETS.
        direct: An engine to look through; None: the same.
    """

    def __init__(self, engine: Engine, target: str, direct: Engine | None = None, **settings: Any) -> None:
        self.target, _, bulk = target.partition(" by ")
        if bulk:
            settings["bulk"] = bulk
        self._direct = direct or engine
        if self.target == "service":
            AuditService(self._direct).create_schema()
            self._to: Any = AuditService(engine)
        else:
            FACTS.create(self._direct, checkfirst=True)
            TableSink(self._direct, FACTS).create_schema()
            self._to = TableSink(engine, FACTS)
        self.errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.buffer = AuditBuffer(self._to, **{**QUICK, "on_error": self.errors.put, **settings})
        self.accepted = 0
        # Not every COMMIT on the wire is one.
        self.details: dict[str, Any] = {"COMMIT": "COMMIT"}

    def record(self, entries: int = 1) -> None:
        for _ in range(entries):
            number = self.accepted + 1
            if self.target == "service":
                seq = self.buffer.record("numbered", resource=str(number), details=self.details)
            else:
                seq = self.buffer.record(number=number)  # type: ignore[call-arg]
            assert seq == number
            self.accepted += 1

    def flush(self) -> None:
        """
        Return once all is committed, however many attempts that takes.
        """
        self.buffer.flush(timeout=60)

    def begin_flush(self) -> None:
        """
        Have the writer write, and do not wait.
        """
        with contextlib.suppress(FlushTimeout):
            self.buffer.flush(timeout=0)

    def next_error(self) -> BaseException:
        """
        Wait until the writer meets an error that nobody has asked for yet.
        """
        return self.errors.get(timeout=60)

    def numbers(self) -> list[int]:
        """
        Return what is in the table, in the order in which it was inserted.
        """
        query = (
            sa.select(audit_log.c.resource)
            .where(audit_log.c.buffer_id == self.buffer.buffer_id)
            .order_by(audit_log.c.id)
            if self.target == "service"
            else sa.select(FACTS.c.number).order_by(FACTS.c.id)
        )
        # Its connections may be as dead as the writer's.
        self._direct.dispose()
        with self._direct.connect() as connection:
            return [int(number) for number in connection.scalars(query)]

    def tally(self) -> Tally:
        found = self.numbers()
        once = set(found)
        return Tally(
            accepted=self.accepted,
            lost=len(set(range(1, self.accepted + 1)) - once),
            doubled=len(found) - len(once),
            inverted=sum(later < earlier for earlier, later in itertools.pairwise(found)),
            phantom=len(once - set(range(1, self.accepted + 1))),
        )

    def assert_exact(self) -> None:
        """
        Flush, and find every accepted entry once and in order.
        """
        self.flush()
        assert self.numbers() == list(range(1, self.accepted + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.buffer.close(timeout=60)
        else:
            # What went wrong says more than that this does, too.
            with contextlib.suppress(AuditBufferError):
                self.buffer.close(timeout=0.5)
