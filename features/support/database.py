"""
A real database that answers, hangs, goes away or loses an answer, as a scenario asks.

The faults stand between SQLAlchemy and the driver, on one engine: that of the application. The auditor looks through an engine of
his own, so that looking never meets a fault.
"""

from __future__ import annotations

from threading import Condition, current_thread
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from features.support.clock import PATIENCE


__all__ = ["Faults", "Gone"]

_WRITES = ("BEGIN", "INSERT", "UPDATE", "WITH")


class Gone(OperationalError):
    """
    What a driver raises when the server cannot be reached.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, None, ConnectionError(what))


class Faults:
    """
    What is wrong with the database behind *engine*. Any thread.

    Attributes:
        statements: Name of the thread and statement, of each statement that was begun.
        commits: How many transactions the database has committed by a COMMIT statement of the writer.
        lost_answers: How many COMMITs to come are carried out without an answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._changed = Condition()
        self._hangs = False
        self._stuck = 0
        self._failures_to_come = 0
        self.away = False
        self.lost_answers = 0
        self.commits = 0
        self.statements: list[tuple[str, str]] = []
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)

    def hang(self) -> None:
        """
        Let every write from now on wait for `recover()`.
        """
        self._hangs = True

    def fail(self, times: int) -> None:
        """
        Refuse the next *times* transactions.
        """
        self._failures_to_come = times

    def recover(self) -> None:
        """
        Let the database answer, also those who wait.
        """
        with self._changed:
            self.away = self._hangs = False
            self._changed.notify_all()

    def wait_until_stuck(self) -> None:
        """
        Return when a write waits for the database.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: self._stuck, PATIENCE), "nothing was written"

    def wait_for_commits(self, count: int) -> None:
        """
        Return when *count* transactions are committed.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: self.commits >= count, PATIENCE), f"{self.commits} commits"

    def _before(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.statements.append((current_thread().name, statement))
        if self._hangs and statement.startswith(_WRITES):
            self._wait_for_an_answer()
        if self.away:
            raise Gone("the database is away")
        if self._failures_to_come and statement.startswith("BEGIN"):
            self._failures_to_come -= 1
            raise Gone("the database is away for a moment")

    def _wait_for_an_answer(self) -> None:
        with self._changed:
            self._stuck += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._hangs, PATIENCE), (
                "the scenario forgot the database"
            )
            self._stuck -= 1

    def _after(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("COMMIT"):
            return
        with self._changed:
            self.commits += 1
            self._changed.notify_all()
        if self.lost_answers:
            self.lost_answers -= 1
            raise Gone("the connection was lost before the answer came")
