"""
Engines for tests of rules: databases that many tests share, and engines that never connect.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests.servers import fresh_database


NOWHERE = {
    "sqlite": "sqlite:///nowhere.db",
    "postgresql": "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
    "mariadb": "mysql+pymysql://nobody@127.0.0.1:1/nothing?charset=utf8mb4",
}


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def kept_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """
    An engine on a database that all tests of a module share, once for each kind: creating one takes longer than most tests.
    """
    if request.param == "sqlite":
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path_factory.mktemp('kept') / 'audit.db'}")
        yield engine
        engine.dispose()
        return
    with fresh_database(request.getfixturevalue(f"{request.param}_server")) as engine:
        yield engine


@pytest.fixture(params=NOWHERE)
def dialect_only(request: pytest.FixtureRequest) -> Engine:
    """
    An engine that knows its dialect and has no server.
    """
    return sqlalchemy.create_engine(NOWHERE[request.param])


@pytest.fixture
def nowhere_postgresql() -> Engine:
    """
    As above, of PostgreSQL.
    """
    return sqlalchemy.create_engine(NOWHERE["postgresql"])


@pytest.fixture
def nowhere_mariadb() -> Engine:
    """
    As above, of MariaDB.
    """
    return sqlalchemy.create_engine(NOWHERE["mariadb"])
