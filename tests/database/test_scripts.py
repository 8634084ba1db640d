"""
The property of issue 4: whatever script of faults a database goes through, after the last recovery its table holds exactly
the accepted seqs, once, in order.

In front of SQLite the faults are raised at the seam (SQLAlchemy's events), so that hundreds of scripts take seconds; in
front of PostgreSQL and MariaDB they are real, and few.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.database.proxy import Cut, Proxy
from tests.database.test_crashes import end_other_backends
from tests.database.worlds import TARGETS, World


# How many entries are recorded, which fault meets the next transaction, and whether the test flushes before it goes on.
Script = list[tuple[int, str | None, bool]]


def scripts(faults: tuple[str, ...]) -> st.SearchStrategy[Script]:
    step = st.tuples(st.integers(1, 5), st.none() | st.sampled_from(faults), st.booleans())
    return st.lists(step, min_size=1, max_size=8)


def play(script: Script, world: World, fault: Callable[[str], None]) -> None:
    for entries, name, flush in script:
        if name is not None:
            fault(name)
        world.record(entries)
        if flush:
            world.flush()
        else:
            world.begin_flush()
    world.assert_exact()


class FaultySeam:
    """
    Raises what it is told to, at the next statement that begins, writes or commits, before or after the database did it.
    """

    FAULTS = tuple(
        f"{when} {what}" for when in ("before", "after") for what in ("BEGIN", "INSERT", "UPDATE", "COMMIT")
    )

    def __init__(self, engine: Engine) -> None:
        self._planned: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", self._before)
        sa.event.listen(engine, "after_cursor_execute", self._after)

    def plan(self, fault: str) -> None:
        self._planned.append(fault)

    def _before(self, connection: Any, cursor: Any, statement: str, *_: object) -> None:
        self._meet(f"before {statement.split(maxsplit=1)[0]}")

    def _after(self, connection: Any, cursor: Any, statement: str, *_: object) -> None:
        self._meet(f"after {statement.split(maxsplit=1)[0]}")

    def _meet(self, moment: str) -> None:
        if moment in self._planned:
            self._planned.remove(moment)
            raise sa.exc.OperationalError(moment, None, ConnectionError("injected"))


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=25)
@given(script=scripts(FaultySeam.FAULTS))
def test_any_script_of_faults_at_the_seam(target: str, script: Script) -> None:
    """
    Before and after each statement of a transaction; several may be due at once, also while a doubt is being settled.
    """
    with TemporaryDirectory() as folder:
        engine = sa.create_engine(f"sqlite:///{Path(folder) / 'audit.db'}")
        with World(engine, target) as world:
            seam = FaultySeam(engine)
            play(script, world, seam.plan)
        engine.dispose()


NETWORK = ("before", "after", "answer", "cut", "backend", "read-only")


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts(NETWORK))
def test_any_script_of_faults_of_server_and_network(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str, script: Script
) -> None:
    """
    Connections cut around COMMIT and anywhere, backends ended, a database that is read-only for one attempt.
    """
    play_against_server(proxied, server_engine, proxy, target, script)


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_many_scripts_of_faults(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str, *, full: bool
) -> None:
    """
    300 scripts with --full.
    """
    played = 0

    @settings(
        max_examples=300 if full else 20,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        database=None,
    )
    @given(script=scripts(NETWORK))
    def run(script: Script) -> None:
        nonlocal played
        play_against_server(proxied, server_engine, proxy, target, script)
        played += 1

    run()
    print(
        f"\n{server_engine.dialect.name} {target} scripts of faults: {played} played, 0 lost, doubled, inverted"
    )


def play_against_server(
    proxied: Engine, server_engine: Engine, proxy: Proxy, target: str, script: Script
) -> None:
    def fault(name: str) -> None:
        if name == "cut":
            proxy.cut_all()
        elif name == "backend":
            end_other_backends(server_engine)
        elif name == "read-only":
            seam.append("COMMIT")
        else:
            cut: Cut = name  # type: ignore[assignment]
            proxy.cut_next_commit(cut)

    def refuse(connection: Any) -> None:
        if seam:
            seam.pop()
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    seam: list[str] = []
    sa.event.listen(proxied, "begin", refuse)
    try:
        with World(proxied, target, server_engine) as world:
            clear(server_engine, target)
            play(script, world, fault)
    finally:
        sa.event.remove(proxied, "begin", refuse)
        proxy.cut_next_commit(None)


def clear(engine: Engine, target: str) -> None:
    """
    Empty the table whose order is that of one buffer only.
    """
    if target.startswith("table"):
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM facts"))
