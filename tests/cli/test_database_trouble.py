"""
What is wrong with a database is said in a sentence that tells what to do, with exit code 2.
"""

from __future__ import annotations

import builtins
import sqlite3
import sys

import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests.cli.conftest import Run


LINE = '{"event_type": "a"}\n'


def trouble(run: Run, url: str, *command: str) -> str:
    ended = run(*(command or ("replay", "-")), "--db", url, stdin=LINE)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    assert ended.stderr.startswith("Error: ")
    return ended.stderr


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "is not a database URL; use sqlite:///audit.db"),
        ("postgresql+psycopg://u@host:port/x", "is not a database URL"),
        ("foo://x", "no such kind of database"),
        ("sqlite://", "a database in memory ends with this command"),
        ("sqlite:///:memory:", "a database in memory ends with this command"),
        ("sqlite:///no/such/folder/x.db", "the folder no/such/folder does not exist"),
        pytest.param(
            "sqlite:///x.db?bogus=1",
            "bogus",
            marks=pytest.mark.skipif(
                sqlalchemy.__version__ < "2.1", reason="SQLAlchemy 2.0 passes over what SQLite does not know"
            ),
        ),
        ("sqlite:////", "unable to open database file"),
        ("mysql+pymysql://root@127.0.0.1:1/x", "Can't connect to MySQL server"),
        ("mysql+pymysql://root@127.0.0.1/x?bogus=1", "unexpected keyword argument 'bogus'"),
        ("postgresql+psycopg://u@127.0.0.1:1/x", "Connection refused"),
        ("postgresql+psycopg://u@127.0.0.1:1/x?connect_timeout=1", "Connection refused"),
    ],
)
def test_an_unusable_url_is_explained(run: Run, url: str, problem: str):
    """
    Each way in which a URL can be wrong has a message of its own.
    """
    assert problem in trouble(run, url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:secret@127.0.0.1:1/x",
        "u:secret@host",
        "mysql://u:sec/ret@h:no/x",
        "foo://u:secret@h",
    ],
)
def test_no_message_shows_a_password(run: Run, url: str):
    """
    What is printed may end up in a log.
    """
    said = trouble(run, url)

    assert "secret" not in said
    assert "sec/ret" not in said


@pytest.mark.parametrize(
    ("url", "module", "remedy"),
    [
        ("postgresql+psycopg://h/x", "psycopg", "pip install 'audit-buffer[postgresql]'"),
        ("mysql+pymysql://h/x", "pymysql", "pip install 'audit-buffer[mysql]'"),
        ("mysql://h/x", "MySQLdb", "write mysql+pymysql://… instead"),
        ("postgresql+psycopg2://h/x", "psycopg2", "write postgresql+psycopg://… instead"),
        ("oracle+oracledb://h/x", "oracledb", "pip install oracledb"),
    ],
)
def test_a_missing_driver_is_named_with_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, url: str, module: str, remedy: str
):
    """
    The library's own extras are named where they hold the driver.
    """
    usual = builtins.__import__

    def without_driver(name: str, *arguments: object) -> object:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_driver)
    monkeypatch.delitem(sys.modules, module, raising=False)

    assert remedy in trouble(run, url)


def test_an_asyncio_driver_is_refused(run: Run):
    """
    A driver that only works inside an event loop is named as such.
    """
    assert "is an asyncio driver" in trouble(run, "postgresql+psycopg_async://u@127.0.0.1:1/x")


def test_a_login_that_needs_another_package_is_explained(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    PyMySQL asks for `cryptography` with a RuntimeError; it is no traceback.
    """

    def connect(*_: object) -> None:
        raise RuntimeError("'cryptography' package is required")

    monkeypatch.setattr(Engine, "connect", connect)

    assert "'cryptography' package is required" in trouble(run, "mysql+pymysql://root@127.0.0.1:1/x")


@pytest.mark.parametrize("command", [("replay", "-"), ("tail",), ("demo",)])
def test_a_file_that_is_no_database_is_left_alone(run: Run, tmp_path, command: tuple[str, ...]):
    """
    A wrong file name destroys nothing.
    """
    (tmp_path / "text").write_text("not a database, but long enough to look for a header in it" * 10)

    assert "file is not a database" in trouble(run, "sqlite:///text", *command)
    assert (tmp_path / "text").read_text().startswith("not a database")


@pytest.mark.parametrize("command", [("replay", "-"), ("tail",)])
def test_another_applications_table_is_left_alone(run: Run, tmp_path, command: tuple[str, ...]):
    """
    A table that happens to be called audit_log is not written to.
    """
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE audit_log (id INTEGER, what TEXT)")
    connection.close()

    assert "has no column buffer_id, seq" in trouble(run, "sqlite:///other.db", *command)


def test_a_read_only_database_is_explained(run: Run, tmp_path):
    """
    Nothing can be stored, so nothing is promised.
    """
    sqlite3.connect(tmp_path / "ro.db").close()

    assert "readonly database" in trouble(run, "sqlite:///file:ro.db?mode=ro&uri=true")


def test_reading_creates_no_file(run: Run, tmp_path):
    """
    `tail` of a database that is not there says so, and leaves nothing behind.
    """
    assert "there is no such file" in trouble(run, "sqlite:///none.db", "tail")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_has_no_audit_log_yet(run: Run, tmp_path):
    """
    `tail` says what to do first.
    """
    sqlite3.connect(tmp_path / "empty.db").close()

    assert "there is no table audit_log yet" in trouble(run, "sqlite:///empty.db", "tail")
