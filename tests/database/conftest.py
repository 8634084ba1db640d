"""
Servers to break, and engines that lead to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from sqlalchemy import URL, Engine

from audit_buffer import instrumentation
from tests.database.proxy import MySQLWire, PostgresWire, Proxy
from tests.database.servers import BinariesMissing, PrivateMariaDB, PrivatePostgres, PrivateServer
from tests.servers import fresh_database


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """
    Hundreds of failures that were asked for are no news.
    """
    instrumentation.set_hooks([])
    yield
    instrumentation.set_hooks([instrumentation.log_event])


def _private(make: Callable[[], PrivatePostgres | PrivateMariaDB]) -> Iterator[PrivateServer]:
    try:
        server = make()
    except BinariesMissing as reason:
        pytest.skip(str(reason))
    try:
        server.set_up()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def private_postgresql() -> Iterator[PrivateServer]:
    """
    A PostgreSQL of our own, for the whole session.
    """
    yield from _private(PrivatePostgres)


@pytest.fixture(scope="session")
def private_mariadb() -> Iterator[PrivateServer]:
    """
    A MariaDB of our own, for the whole session.
    """
    yield from _private(PrivateMariaDB)


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def private_server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """
    A server of our own, once of each kind, that runs when the test begins and when it has ended.
    """
    server: PrivateServer = request.getfixturevalue(f"private_{request.param}")
    server.make_sure_it_runs()
    yield server
    server.make_sure_it_runs()


@pytest.fixture
def private_engine(private_server: PrivateServer) -> Iterator[Engine]:
    """
    An engine on a new database of a private server.
    """
    with fresh_database(private_server.url) as engine:
        yield engine
        private_server.make_sure_it_runs()


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def server_engine(request: pytest.FixtureRequest) -> Engine:
    """
    An engine on a new database of a server that is not ours to break, once of each kind.
    """
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine


@pytest.fixture
def proxy(server_engine: Engine) -> Iterator[Proxy]:
    """
    A proxy in front of *server_engine*'s server.
    """
    url = server_engine.url
    wire = PostgresWire if url.get_backend_name() == "postgresql" else MySQLWire
    proxy = Proxy((str(url.host), int(url.port or 0)), wire)
    yield proxy
    proxy.close()


@pytest.fixture
def proxied(server_engine: Engine, proxy: Proxy) -> Iterator[Engine]:
    """
    An engine that reaches the database of *server_engine* through the proxy.
    """
    engine = sqlalchemy.create_engine(through(server_engine.url, proxy))
    yield engine
    engine.dispose()


def through(url: URL, proxy: Proxy) -> URL:
    """
    Return *url* by way of *proxy*, in plain text.
    """
    url = url.set(host="127.0.0.1", port=proxy.port)
    return url.update_query_dict({"sslmode": "disable"}) if url.get_backend_name() == "postgresql" else url
