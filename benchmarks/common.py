"""
What the benchmarks share: an event of any size, and a service or a buffer on a database of its own.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog
from asv_runner.benchmarks.mark import SkipNotImplemented
from sqlalchemy import create_engine

from audit_buffer import AuditBuffer, AuditService
from audit_buffer.commands._bench_run import full_synchronous
from audit_buffer.sinks import Batch, Sink


structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # asv takes stderr for trouble

EVENT_TYPE = "plan.updated"
# Room for whatever a sample records: what is measured is record(), not a policy.
ROOM = {"queue_maxsize": 2_000_000, "queue_max_bytes": 1 << 30, "block_timeout": 60.0}


def event(size: int = 0) -> dict[str, Any]:
    """
    Return the arguments of `record()` but for the event type: five keys, one nested, and *size* bytes of text.
    """
    details: dict[str, Any] = {"plan": 42, "from": "draft", "to": "ready", "step": 3}
    details["by"] = {"role": "planner", "automatic": True}
    if size:
        details["lines"] = ["x" * 60] * max(1, size // 64)
    return {"actor": "agent-7", "resource": "plan/42", "details": details}


class OnSqlite:
    """
    Base of the benchmarks on a SQLite file in WAL with synchronous=FULL; "synchronous" or "buffered" is their first parameter.
    """

    timeout = 120

    def setup(self, way: str, *_: object) -> None:
        self.stack = ExitStack()
        # Below the current folder, which asv puts on a disk; /tmp may be memory, where every COMMIT looks cheap.
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-asv-", dir=Path.cwd()))
        self.service = AuditService(f"sqlite:///{folder}/audit.db?timeout=60")
        self.stack.callback(self.service.engine.dispose)
        full_synchronous(self.service.engine)
        self.service.create_schema()
        self.audit: Any = self.service
        if way == "buffered":
            self.audit = self.stack.enter_context(AuditBuffer(self.service, durability="memory", **ROOM))
        self.record = self.audit.record
        self.record(EVENT_TYPE)  # the connection and the writer's thread are there now
        self.finish()

    def finish(self) -> None:
        """
        Return when all that was recorded is committed.
        """
        if self.audit is not self.service:
            self.audit.flush()

    def teardown(self, *_: object) -> None:
        self.stack.close()


class Gated:
    """
    A sink that writes nothing until it is let, so that a backlog can be built.
    """

    def __init__(self, sink: Sink, opened: Any) -> None:
        self._sink = sink
        self._opened = opened
        self.open, self.position, self.close = sink.open, sink.position, sink.close
        self.takes_large_batches = getattr(sink, "takes_large_batches", False)

    def write(self, batch: Batch) -> None:
        self._opened.wait()
        self._sink.write(batch)


def service_on(database: str, stack: ExitStack) -> AuditService:
    """
    Return a service on a new database of the kind *database*; skip the benchmark where there is no server.
    """
    if database == "sqlite":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-asv-", dir=Path.cwd()))
        engine = create_engine(f"sqlite:///{folder}/audit.db")
        stack.callback(engine.dispose)
    else:
        engine = stack.enter_context(_fresh(database))
    service = AuditService(engine)
    service.create_schema()
    return service


def _fresh(database: str) -> Any:
    from tests.servers import ServerMissing, fresh_database, mariadb_url, postgresql_url

    find = {"postgresql": postgresql_url, "mariadb": mariadb_url}[database]
    try:
        return fresh_database(find())
    except ServerMissing as missing:
        raise SkipNotImplemented(str(missing)) from None
