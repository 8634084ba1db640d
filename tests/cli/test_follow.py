"""
Following a table in which rows appear out of the order of their ids.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from audit_buffer import AuditEntry
from audit_buffer.commands import _follow
from audit_buffer.commands._follow import Follower


def entry(number: int) -> AuditEntry:
    moment = datetime.fromtimestamp(0, UTC)
    return AuditEntry(id=number, recorded_at=moment, occurred_at=moment, event_type=f"e{number}")


class Table:
    """
    Rows that are there, as `AuditService.latest()` would find them.
    """

    def __init__(self, *ids: int) -> None:
        self.ids = set(ids)
        self.now = 0.0
        self.fetched = 0

    def fetch(self, limit: int, after: int | None) -> list[AuditEntry]:
        rows = sorted(self.ids)
        rows = rows[-limit:] if after is None else [row for row in rows if row > after][:limit]
        self.fetched += len(rows)
        return [entry(row) for row in rows]

    def follower(self) -> Follower:
        return Follower(self.fetch, max(self.ids, default=0), clock=lambda: self.now)


def ids(pages) -> list[int]:
    return [found.id for page in pages for found in page]


def test_each_new_row_is_found_once():
    """
    What was printed is not printed again, and nothing is left out.
    """
    table = Table(1, 2, 3)
    follower = table.follower()
    assert ids([follower.last(2)]) == [2, 3]

    table.ids |= {4, 5}
    assert ids(follower.fresh()) == [4, 5]
    assert ids(follower.fresh()) == []


def test_a_row_that_is_committed_late_is_found_although_its_id_is_smaller():
    """
    Ids are given out before the COMMIT: the row of a slow transaction appears behind those of faster ones.
    """
    table = Table(1)
    follower = table.follower()
    follower.last(10)

    table.ids.add(3)
    assert ids(follower.fresh()) == [3]
    table.now += 4.9
    table.ids.add(2)
    assert ids(follower.fresh()) == [2]


def test_an_idle_table_is_not_read_again_and_again():
    """
    Once everything has settled, a look fetches nothing.
    """
    table = Table(*range(1, 100))
    follower = table.follower()
    follower.last(10)
    for _ in range(2):
        table.now += _follow.SETTLED
        assert ids(follower.fresh()) == []
    fetched = table.fetched

    assert ids(follower.fresh()) == []
    assert table.fetched == fetched


def test_a_backlog_comes_in_pages(monkeypatch: pytest.MonkeyPatch):
    """
    However much was written since the last look, it is held a page at a time.
    """
    monkeypatch.setattr(_follow, "_PAGE", 10)
    table = Table()
    follower = table.follower()
    assert follower.last(5) == []

    table.ids |= set(range(1, 26))
    pages = list(follower.fresh())
    assert [len(page) for page in pages] == [10, 10, 5]
    assert ids(pages) == list(range(1, 26))


def test_rows_that_were_there_before_are_not_news():
    """
    `-n 0` starts with what comes.
    """
    table = Table(*range(1, 4000))
    follower = table.follower()
    assert follower.last(0) == []

    assert ids(follower.fresh()) == []
    table.ids.add(4000)
    assert ids(follower.fresh()) == [4000]
