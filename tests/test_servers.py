"""
What the tests' own servers promise to the tests.
"""

from __future__ import annotations

import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests import servers


NAMES = ("AUDIT_TEST_POSTGRESQL", "AUDIT_TEST_MYSQL", "AUDIT_TEST_REDIS")


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*NAMES, "AUDIT_TEST_REQUIRE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(servers, "_listening", lambda url: None)
    monkeypatch.setattr(servers, "WHEEL", "no_such_wheel")


FINDERS = pytest.mark.parametrize("find", [servers.postgresql_url, servers.mariadb_url, servers.redis_url])


def test_every_engine_starts_on_an_empty_database(any_engine: Engine) -> None:
    """
    A fresh database has no table and takes one.
    """
    assert sqlalchemy.inspect(any_engine).get_table_names() == []
    with any_engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE probe (id INTEGER)"))
    assert sqlalchemy.inspect(any_engine).get_table_names() == ["probe"]


@pytest.mark.parametrize("server", ["postgresql_server", "mariadb_server"])
def test_a_fresh_database_is_dropped_even_while_somebody_is_connected(
    server: str, request: pytest.FixtureRequest
) -> None:
    """
    A test that leaks a connection leaves no database behind.
    """
    url = request.getfixturevalue(server)
    with servers.fresh_database(url) as engine:
        name = engine.url.database
        leaked = sqlalchemy.create_engine(engine.url)
        connection = leaked.connect()
    with pytest.raises(sqlalchemy.exc.OperationalError, match=str(name)):
        sqlalchemy.create_engine(url.set(database=name)).connect()
    connection.invalidate()
    leaked.dispose()


@FINDERS
@pytest.mark.usefixtures("no_server")
def test_a_missing_server_is_told_with_what_was_tried(find) -> None:
    """
    The reason of a skip names the variable that would have pointed to a server.
    """
    with pytest.raises(servers.ServerMissing, match="AUDIT_TEST_"):
        find()


@FINDERS
@pytest.mark.usefixtures("no_server")
def test_a_required_server_that_is_missing_is_an_error(find, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    AUDIT_TEST_REQUIRE=1 turns the skip into a failure.
    """
    monkeypatch.setenv("AUDIT_TEST_REQUIRE", "1")
    with pytest.raises(RuntimeError, match="AUDIT_TEST_REQUIRE=1"):
        find()


@FINDERS
def test_a_server_named_by_the_environment_comes_first(find, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No other server is looked for when the environment names one.
    """
    for variable in NAMES:
        monkeypatch.setenv(variable, "sqlite:///elsewhere")
    assert find().render_as_string() == "sqlite:///elsewhere"
