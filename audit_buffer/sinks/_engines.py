"""
Which database an engine is for: found, named, and told apart from one that a second connection would not see.

Pure but for making an engine from a URL; any thread.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, StaticPool, create_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from audit_buffer.errors import ConfigError


if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


__all__ = ["database_name", "engine_of", "is_private_memory", "sqlite_file"]


def is_private_memory(engine: Engine) -> bool:
    """
    Tell whether every connection of *engine* is to an empty database in memory of its own.
    """
    if engine.dialect.name != "sqlite" or isinstance(engine.pool, StaticPool):
        return False
    database, query = engine.url.database, engine.url.query
    in_memory = not database or ":memory:" in database or query.get("mode") == "memory"
    return in_memory and query.get("cache") != "shared"


def sqlite_file(engine: Engine) -> str | None:
    """
    Return the path of the SQLite file behind *engine*, or None for memory and every other database.
    """
    if engine.dialect.name != "sqlite":
        return None
    path = engine.url.database
    if not path or path == ":memory:" or path.startswith("file:"):
        return None
    return path


def database_name(engine: Engine) -> str:
    """
    Return which database *engine* is for, such as ``postgresql:db.example:5432/app``: no driver, no user, no password.
    """
    path = sqlite_file(engine)
    if path is not None:
        return f"sqlite:{Path(path).absolute()}"
    url = engine.url
    port = "" if url.port is None else f":{url.port}"
    return f"{engine.dialect.name}:{url.host or ''}{port}/{url.database or ''}"


def engine_of(bind: Engine | sessionmaker[Session] | URL | str) -> Engine:
    """
    Return the engine that *bind* is, has or names.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(bind, str | URL):
        try:
            return create_engine(bind)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            raise ConfigError("bind", _masked(bind), f"is not a usable database URL ({error})") from None
    engine = bind if isinstance(bind, Engine) else _engine_of_sessions(bind)
    if not isinstance(engine, Engine):
        raise ConfigError("bind", bind, "must be an Engine, a sessionmaker bound to one, or a database URL")
    return engine


def _engine_of_sessions(bind: object) -> Any:
    """
    Return what the sessions that *bind* makes are bound to, or None.
    """
    # Whoever has made a sessionmaker has imported this; it takes half as long as the rest of SQLAlchemy.
    from sqlalchemy.orm import sessionmaker  # noqa: PLC0415

    return bind.kw.get("bind") if isinstance(bind, sessionmaker) else None


def _masked(url: URL | str) -> str:
    """
    Return *url* without its password, also where it cannot be parsed.
    """
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url) if isinstance(url, str) else repr(url)
