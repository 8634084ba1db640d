"""
The database that a command works on: opened, looked at, and explained when it cannot be used.

Guarantees:
    * Whatever is wrong with a URL or a database is a `Trouble` that says what to do; no message shows a password.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    NoSuchTableError,
    SAWarning,
    SQLAlchemyError,
)

from audit_buffer.commands._group import Trouble
from audit_buffer.commands._text import visible
from audit_buffer.schema import audit_log
from audit_buffer.service import AuditService
from audit_buffer.sinks._engines import sqlite_file


__all__ = ["database", "engine_for", "explain", "require_audit_log", "shown"]

# Seconds; psycopg would wait for minutes where a firewall swallows the attempt.
_CONNECT_TIMEOUT = 10
_EXAMPLES = (
    "sqlite:///audit.db, postgresql+psycopg://user:password@host/database or "
    "mysql+pymysql://user:password@host/database"
)
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
# What a URL without a driver asks for, and the driver this library is tested with.
_TESTED_DRIVERS = {"psycopg2": "postgresql+psycopg", "MySQLdb": "mysql+pymysql"}


@contextmanager
def database(url: str) -> Iterator[Engine]:
    """
    Yield an engine on the database that *url* names, after a first connection; dispose of it afterwards.

    Raises:
        Trouble: It cannot be used, at first or later on.
    """
    engine = engine_for(url)
    try:
        _try_connection(engine)
        yield engine
    except SQLAlchemyError as error:
        raise Trouble(f"{_shown(engine.url)}: {explain(error)}") from error
    finally:
        engine.dispose()


def require_audit_log(engine: Engine) -> None:
    """
    Make sure that the table is there and is the one this library writes.

    Raises:
        Trouble: It is missing, or another table has its name.
    """
    try:
        found = {column["name"] for column in sqlalchemy.inspect(engine).get_columns(audit_log.name)}
    except NoSuchTableError:
        raise Trouble(
            f"{_shown(engine.url)}: there is no table {audit_log.name} yet; "
            "record something, or replay events into it"
        ) from None
    if missing := [column.name for column in audit_log.columns if column.name not in found]:
        raise Trouble(
            f"{_shown(engine.url)}: its table {audit_log.name} has no column {', '.join(missing)}, so it is another "
            "application's; name another database"
        )


def create_audit_log(service: AuditService) -> None:
    """
    Create the table unless it exists, and make sure that it is the right one.

    Raises:
        Trouble: Another table has its name.
    """
    service.create_schema()
    require_audit_log(service.engine)


def require_sqlite_file(url: str) -> None:
    """
    Refuse to read from a SQLite file that does not exist; connecting would create it.

    Raises:
        Trouble: It does not exist.
    """
    engine = engine_for(url)
    path = sqlite_file(engine)
    if path is not None and not Path(path).exists():
        raise Trouble(f"{_shown(engine.url)}: there is no such file; name the database with --db")


def explain(error: BaseException) -> str:
    """
    Return the driver's own words, on one line.
    """
    own = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    # PyMySQL's errors are (number, text).
    text = str(own.args[-1]) if own.args else ""
    return visible(" ".join(text.split())) or type(own).__name__


def engine_for(url: str) -> Engine:
    """
    Return an engine on the database that *url* names, which nobody has connected to yet.

    Raises:
        Trouble: There cannot be one.
    """
    parsed = _parse(url)
    arguments: dict[str, object] = {}
    if parsed.get_driver_name() == "psycopg" and "connect_timeout" not in parsed.query:
        arguments["connect_timeout"] = _CONNECT_TIMEOUT
    try:
        with warnings.catch_warnings():
            # SQLAlchemy only warns of an option that SQLite does not have.
            warnings.simplefilter("error", SAWarning)
            engine = sqlalchemy.create_engine(parsed, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise Trouble(f"{_shown(parsed)}: {_missing_driver(error.name or '')}") from error
    except (SQLAlchemyError, SAWarning, TypeError, ValueError) as error:
        raise Trouble(f"{_shown(parsed)}: {explain(error)}") from error
    if engine.dialect.is_async:
        raise Trouble(
            f"{_shown(parsed)}: {engine.driver} is an asyncio driver; name another, as in {_EXAMPLES}"
        )
    if engine.dialect.name == "sqlite" and (engine.url.database or ":memory:") == ":memory:":
        raise Trouble(
            f"{_shown(parsed)}: a database in memory ends with this command; name a file, as in {_EXAMPLES}"
        )
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except NoSuchModuleError:
        raise Trouble(f"{_shown(parsed)}: no such kind of database; use {_EXAMPLES}") from None
    except (ArgumentError, ValueError):
        raise Trouble(f"{_without_password(url)!r} is not a database URL; use {_EXAMPLES}") from None
    return parsed


def _missing_driver(module: str) -> str:
    if module in _TESTED_DRIVERS:
        return f"the driver {module} is not installed; write {_TESTED_DRIVERS[module]}://… instead"
    extra = _EXTRAS.get(module)
    package = f"'audit-buffer[{extra}]'" if extra else module
    return f"the driver {module} is not installed; pip install {package}"


def _try_connection(engine: Engine) -> None:
    path = sqlite_file(engine)
    try:
        with engine.connect() as connection:
            connection.scalar(sqlalchemy.select(1))
            if path is not None:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except DBAPIError as error:
        hint = ""
        if path is not None and not Path(path).absolute().parent.is_dir():
            hint = f"; the folder {visible(str(Path(path).parent))} does not exist"
        raise Trouble(f"{_shown(engine.url)} cannot be used: {explain(error)}{hint}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        # What drivers make of an unknown option in the URL's query, or of a package that a login needs.
        raise Trouble(f"{_shown(engine.url)} cannot be used: {explain(error)}") from error


def shown(url: URL) -> str:
    """
    Return *url* for a message, without its password.
    """
    return _shown(url)


def _shown(url: URL) -> str:
    return visible(url.render_as_string(hide_password=True))


def _without_password(url: str) -> str:
    return re.sub(r"^([^:/]*://)?([^:/@]*):.*@", r"\1\2:***@", url)
