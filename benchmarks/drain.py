"""
How quickly the writer moves a backlog into each database.
"""

from __future__ import annotations

from contextlib import ExitStack
from threading import Event
from time import perf_counter

from audit_buffer import AuditBuffer
from audit_buffer.sinks._entries import EntrySink

from .common import EVENT_TYPE, ROOM, Gated, event, service_on


BACKLOG = 20_000


class Drain:
    """
    Entries a second from a backlog of 20,000 into the table `audit_log`.
    """

    params = (["sqlite", "postgresql", "mariadb"], [0, 1_000])
    param_names = ("database", "bytes")
    timeout = 300
    unit = "entries/s"

    def setup(self, database: str, size: int) -> None:
        self.stack = ExitStack()
        self.opened = Event()
        service = service_on(database, self.stack)
        self.audit = AuditBuffer(Gated(EntrySink(service.engine), self.opened), durability="memory", **ROOM)
        self.stack.callback(self.audit.close)
        self.stack.callback(self.opened.set)
        arguments = event(size)
        for _ in range(BACKLOG):
            self.audit.record(EVENT_TYPE, **arguments)

    def track_rate(self, database: str, size: int) -> float:
        started = perf_counter()
        self.opened.set()
        self.audit.flush()
        return BACKLOG / (perf_counter() - started)

    def teardown(self, database: str, size: int) -> None:
        self.stack.close()
