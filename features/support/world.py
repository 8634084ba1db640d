"""
What one scenario has: a database in a folder of its own, the buffers in front of it, and what became of the calls.

`close()` undoes everything, whatever the scenario left open.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Engine

from audit_buffer import AuditBuffer, AuditBufferError, AuditEntry, AuditService, instrumentation
from audit_buffer._timing import Clock, SystemClock
from features.support.clock import PATIENCE, HandClock
from features.support.database import Faults
from tests.servers import fresh_database, mariadb_url, postgresql_url


__all__ = ["RING_BYTES", "World"]

RING_BYTES = 4 * 1024 * 1024
# The writer starts when a scenario gives it a reason, and tries again at once; ring files are small.
SETTINGS = {
    "flush_interval": 3600.0,
    "retry_backoff": 0.001,
    "retry_backoff_max": 0.002,
    "ring_bytes": RING_BYTES,
}


class World:
    """
    One scenario's state.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="audit-features-"))
        self._stack.callback(shutil.rmtree, self.folder)
        self.clock: Clock = SystemClock()
        self.settings: dict[str, Any] = {}
        self.recorded = 0
        self.numbers: list[int] = []  # what record() returned
        self.error: BaseException | None = None
        self.told: list[BaseException] = []  # what on_error was called with
        self.events: list[instrumentation.Event] = []
        self.background: list[Future[Any]] = []
        self.buffers: list[AuditBuffer] = []  # the last one is in use
        instrumentation.set_hooks([self.events.append])
        self._stack.callback(instrumentation.set_hooks, [instrumentation.log_event])

    def close(self) -> None:
        """
        Let the database answer, close every buffer, and clear away.
        """
        with self._stack:
            if hasattr(self, "faults"):
                self.faults.recover()
            self._close_buffers()
            if isinstance(self.clock, HandClock):
                self.clock.let_go()
            self.join_writers()

    @staticmethod
    def join_writers() -> None:
        """
        Return when every writer has ended.
        """
        for thread in threading.enumerate():
            if thread.name.startswith("audit-writer"):
                thread.join(PATIENCE)
                assert not thread.is_alive(), f"{thread.name} was left running"

    def _close_buffers(self) -> None:
        for future in self.background:
            future.exception(PATIENCE)
        for buffer in self.buffers:
            if not isinstance(buffer, AuditBuffer):
                # The plain service, with the buffer switched off, has nothing to close.
                continue
            try:
                buffer.close()
            except AuditBufferError:
                # A buffer that has failed for good says so whenever it is asked.
                assert buffer.stats().state == "failed"

    # The database -----------------------------------------------------------------------------------------------

    def use_database(self, kind: str = "SQLite") -> None:
        """
        Make an empty database: the application's engine has `faults`, the auditor's has none.
        """
        if kind == "SQLite":
            url: URL | str = f"sqlite:///{self.folder / 'audit.db'}"
        else:
            server = {"PostgreSQL": postgresql_url, "MariaDB": mariadb_url}[kind]()
            url = self._stack.enter_context(fresh_database(server)).url
        self.url = str(url) if isinstance(url, str) else url.render_as_string(hide_password=False)
        self.engine = self._engine()
        self.auditor = self._engine()
        self.faults = Faults(self.engine)
        self.service = AuditService(self.engine)
        self.log = AuditService(self.auditor)

    def _engine(self) -> Engine:
        engine = sqlalchemy.create_engine(self.url)
        self._stack.callback(engine.dispose)
        return engine

    def rows(self) -> list[AuditEntry]:
        """
        Return what is in the log now, oldest first.
        """
        return self.log.entries()

    # The application --------------------------------------------------------------------------------------------

    @property
    def buffer(self) -> AuditBuffer:
        return self.buffers[-1]

    def open_buffer(self, target: Any = None, **settings: Any) -> AuditBuffer:
        """
        Put a buffer in front of *target*, the audit service by default.
        """
        settings = {**SETTINGS, "on_error": self.told.append, **self.settings, **settings}
        self.buffers.append(AuditBuffer(target or self.service, clock=self.clock, **settings))
        return self.buffer

    def record(self, count: int = 1, actor: str = "agent-7") -> None:
        """
        Record *count* entries; each carries its ordinal.
        """
        for _ in range(count):
            self.recorded += 1
            details = {"ordinal": self.recorded}
            self.numbers.append(self.buffer.record("plan.updated", actor=actor, details=details))

    def attempt(self, call: Callable[[], object]) -> None:
        """
        Make *call* and keep what it raises.
        """
        try:
            call()
        except Exception as error:
            self.error = error

    def in_background(self, call: Callable[[], object], name: str = "application") -> Future[Any]:
        """
        Make *call* on a thread of its own.
        """
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=name).start()
        self.background.append(future)
        return future

    @property
    def hand_clock(self) -> HandClock:
        assert isinstance(self.clock, HandClock), "the scenario needs: Given time stands still"
        return self.clock
