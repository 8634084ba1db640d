"""
What every test can ask for: databases, and how much to torture.

A test that asks for a server's engine is marked with the server's name (`-m "not postgresql"` leaves it out) and is
skipped, saying why, where there is no such server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy
from sqlalchemy import URL, Engine

from tests.servers import ServerMissing, fresh_database, mariadb_url, postgresql_url


SERVER_FIXTURES = {"postgresql_engine": "postgresql", "mariadb_engine": "mariadb"}

# No deadline: a slow machine is no failure. The blob replays a failing example wherever it was found:
# @reproduce_failure(...) with the blob, or `pytest --hypothesis-seed=` with the seed.
hypothesis.settings.register_profile("audit_buffer", deadline=None, print_blob=True)
hypothesis.settings.load_profile("audit_buffer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="torture at the numbers that the docs publish")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark tests by the servers they use, before -m chooses among them.
    """
    for item in items:
        for fixture in SERVER_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(SERVER_FIXTURES[fixture])


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """
    Whether to torture at full numbers (`--full`).
    """
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """
    An engine on a new SQLite file.
    """
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql_server() -> URL:
    """
    A PostgreSQL server; the test is skipped where there is none.
    """
    try:
        return postgresql_url()
    except ServerMissing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def mariadb_server() -> URL:
    """
    A MariaDB server; the test is skipped where there is none.
    """
    try:
        return mariadb_url()
    except ServerMissing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def postgresql_engine(postgresql_server: URL) -> Iterator[Engine]:
    """
    An engine on a new PostgreSQL database, dropped afterwards.
    """
    with fresh_database(postgresql_server) as engine:
        yield engine


@pytest.fixture
def mariadb_engine(mariadb_server: URL) -> Iterator[Engine]:
    """
    An engine on a new MariaDB database, dropped afterwards.
    """
    with fresh_database(mariadb_server) as engine:
        yield engine


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def any_engine(request: pytest.FixtureRequest) -> Engine:
    """
    An engine on a new database, once for each kind.
    """
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine
