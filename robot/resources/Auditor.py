"""
Keywords that look into the log from outside: with sqlite3, and nothing of the library.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter, defaultdict
from contextlib import closing
from itertools import pairwise
from typing import Any

from robot.api import logger


QUERY = "SELECT buffer_id, seq, actor, details FROM audit_log ORDER BY id"


class Auditor:
    """
    The stories in one database file: by buffer, its rows as (seq, thread, ordinal) in the order of the table.
    """

    ROBOT_LIBRARY_SCOPE = "SUITE"

    def __init__(self) -> None:
        self._lock: sqlite3.Connection | None = None

    def database_should_be_sound(self, file: str) -> None:
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def number_of_rows(self, file: str) -> int:
        with closing(sqlite3.connect(file)) as connection:
            return int(connection.execute("SELECT count(*) FROM audit_log").fetchone()[0])

    def query(self, file: str, statement: str) -> list[Any]:
        """
        Return the first column of what *statement* finds.
        """
        with closing(sqlite3.connect(file)) as connection:
            return [row[0] for row in connection.execute(statement)]

    def stories(self, file: str) -> dict[str, list[tuple[int, int, int]]]:
        """
        Return by buffer id (None: written without a buffer) what it wrote.
        """
        found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        with closing(sqlite3.connect(file)) as connection:
            for buffer_id, seq, actor, details in connection.execute(QUERY):
                thread = int(actor.removeprefix("thread-"))
                found[buffer_id].append((seq, thread, json.loads(details)["ordinal"]))
        return dict(found)

    def log_should_hold(self, file: str, buffers: int, threads: int, entries: int) -> None:
        """
        Check that each of *buffers* buffers tells of *threads* threads with *entries* entries each: nothing missing,
        nothing twice, numbered from 1 without a hole in the order of the table, each thread in its own order.
        """
        stories = self.stories(file)
        assert len(stories) == int(buffers), f"{len(stories)} buffers"
        for buffer_id, story in stories.items():
            assert [seq for seq, _, _ in story] == list(range(1, int(threads) * int(entries) + 1)), buffer_id
            for thread in range(int(threads)):
                ordinals = [ordinal for _, each, ordinal in story if each == thread]
                assert ordinals == list(range(int(entries))), f"thread {thread} of {buffer_id}"

    def log_should_keep(
        self, file: str, acknowledged: dict[str, list[tuple[int, int, int]]], threads: int
    ) -> dict[str, int]:
        """
        Compare the log with what `record()` returned, and return the counts.

        A row that was not acknowledged is no phantom when its call was under way: at most one of each thread, its next one.
        """
        counts: Counter[str] = Counter()
        stories = self.stories(file)
        for buffer_id in stories.keys() | acknowledged.keys():
            counts.update(compare(stories.get(buffer_id, []), acknowledged.get(buffer_id, []), int(threads)))
        counts["rows"] = sum(map(len, stories.values()))
        counts["acknowledged"] = sum(map(len, acknowledged.values()))
        found = dict(counts)
        logger.info(f"{found}", also_console=False)
        wrong = {name: counts[name] for name in ("lost", "duplicated", "inverted", "phantom", "holes")}
        assert not any(wrong.values()), f"{wrong}"
        return found

    def wait_for_rows(self, file: str) -> None:
        """
        Return when there is a row.
        """
        looks = 0
        while self.number_of_rows(file) == 0:
            looks += 1
            assert looks < 10_000, "nothing is written"
            threading.Event().wait(0.002)

    def lock_database(self, file: str) -> None:
        """
        Keep everybody else from writing, as a long transaction does.
        """
        self._lock = sqlite3.connect(file, isolation_level=None)
        self._lock.execute("BEGIN IMMEDIATE")

    def unlock_database(self) -> None:
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None


def compare(
    story: list[tuple[int, int, int]], acknowledged: list[tuple[int, int, int]], threads: int
) -> Counter[str]:
    """
    Count what is wrong with one buffer's story.
    """
    counts: Counter[str] = Counter()
    written = Counter((thread, ordinal, seq) for seq, thread, ordinal in story)
    promised = set(acknowledged)
    counts["lost"] = len(promised - written.keys())
    counts["duplicated"] = sum(written.values()) - len(written)
    seqs = [seq for seq, _, _ in story]
    counts["holes"] = len(set(range(1, len(seqs) + 1)) - set(seqs))
    counts["inverted"] = sum(later <= earlier for earlier, later in pairwise(seqs))
    for thread in range(threads):
        ordinals = [ordinal for _, each, ordinal in story if each == thread]
        counts["inverted"] += sum(later <= earlier for earlier, later in pairwise(ordinals))
        returned = max((ordinal for each, ordinal, _ in acknowledged if each == thread), default=-1)
        counts["phantom"] += sum(ordinal > returned + 1 for ordinal in ordinals)
    return counts
