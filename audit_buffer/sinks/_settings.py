"""
What a database says about how it keeps rows: one table of settings for each kind of database.

Pure functions over a `Connection`: they read, begin nothing and change nothing. What an answer means is judged in
`_assessment`. A setting that a version does not have is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from sqlalchemy import Connection, bindparam, text


__all__ = ["DatabaseSettings", "read_settings"]

# Statements of their own: PRAGMA journal_mode is in no table.
SQLITE = {
    "journal_mode": "PRAGMA journal_mode",
    "synchronous": "PRAGMA synchronous",
}
# Expressions of one SELECT, so that all come from one moment. The second argument: NULL where it does not exist.
POSTGRESQL = {
    "fsync": "current_setting('fsync', true)",
    "full_page_writes": "current_setting('full_page_writes', true)",
    "synchronous_commit": "current_setting('synchronous_commit', true)",
    "synchronous_standby_names": "current_setting('synchronous_standby_names', true)",
    "standbys": "(SELECT count(*) FROM pg_stat_replication)",
    "transaction_read_only": "current_setting('transaction_read_only', true)",
    "in_recovery": "pg_is_in_recovery()",
    "server_encoding": "current_setting('server_encoding', true)",
}
MARIADB = {
    "innodb_flush_log_at_trx_commit": "@@innodb_flush_log_at_trx_commit",
    "innodb_doublewrite": "@@innodb_doublewrite",
    "log_bin": "@@log_bin",
    "sync_binlog": "@@sync_binlog",
    "sql_mode": "@@sql_mode",
    "read_only": "@@read_only",
    "character_set_client": "@@character_set_client",
}
_SELECTS = {
    "postgresql": ("current_setting('server_version')", POSTGRESQL),
    "mysql": ("@@version", MARIADB),
    "mariadb": ("@@version", MARIADB),
}
# What PRAGMA synchronous means by its numbers.
_SYNCHRONOUS = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}

_COLLATIONS = text(
    "SELECT table_name, column_name, collation_name FROM information_schema.columns "
    "WHERE table_schema = DATABASE() AND table_name IN :tables AND collation_name IS NOT NULL "
    "ORDER BY table_name, ordinal_position"
).bindparams(bindparam("tables", expanding=True))
_ENGINES = text(
    "SELECT table_name, engine FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name IN :tables ORDER BY table_name"
).bindparams(bindparam("tables", expanding=True))


@attrs.frozen(kw_only=True)
class DatabaseSettings:
    """
    How a database keeps what is committed.

    Attributes:
        kind: "sqlite", "postgresql", "mariadb" or "mysql"; another dialect's name where nothing is known of it.
        version: As the database gives it.
        values: Settings by the database's own names, as text; what is on or off is "on" or "off".
        collations: MariaDB: the collation of each text column of ours, by ``table.column``.
        engines: MariaDB: the storage engine of each table that entries go to.
    """

    kind: str
    version: str = ""
    values: Mapping[str, str] = attrs.Factory(dict)
    collations: Mapping[str, str] = attrs.Factory(dict)
    engines: Mapping[str, str] = attrs.Factory(dict)

    @property
    def release(self) -> tuple[int, ...]:
        """
        Return the version as numbers: (3, 40, 1).
        """
        numbers: list[int] = []
        for part in self.version.split("-")[0].split()[:1]:
            numbers += [int(number) for number in part.split(".") if number.isdigit()]
        return tuple(numbers)


def read_settings(
    connection: Connection, tables: tuple[str, ...] = (), own_tables: tuple[str, ...] = ()
) -> DatabaseSettings:
    """
    Read the settings that hold on *connection*.

    Args:
        tables: Tables of ours, whose collations and engines are of interest.
        own_tables: Tables of the application's, whose collations are its own affair.
    """
    kind = connection.dialect.name
    if kind == "sqlite":
        return _read_sqlite(connection)
    if kind not in _SELECTS:
        return DatabaseSettings(kind=kind)
    version, values = _select(connection, *_SELECTS[kind])
    if kind == "postgresql":
        return DatabaseSettings(kind=kind, version=version, values=values)
    return DatabaseSettings(
        kind="mariadb" if "mariadb" in version.lower() else "mysql",
        version=version,
        values=values,
        collations={
            f"{table}.{column}": collation
            for table, column, collation in _about(connection, _COLLATIONS, tables)
        },
        engines={table: engine for table, engine in _about(connection, _ENGINES, tables + own_tables)},  # noqa: C416  (rows are no pairs to mypy)
    )


def _read_sqlite(connection: Connection) -> DatabaseSettings:
    values = {name: str(connection.exec_driver_sql(query).scalar()) for name, query in SQLITE.items()}
    values["synchronous"] = _SYNCHRONOUS.get(values["synchronous"], values["synchronous"])
    version = str(connection.exec_driver_sql("SELECT sqlite_version()").scalar())
    return DatabaseSettings(kind="sqlite", version=version, values=values)


def _select(connection: Connection, version: str, table: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    row = connection.exec_driver_sql(f"SELECT {', '.join([version, *table.values()])}").one()
    found = zip(table, row[1:], strict=True)
    return str(row[0]), {name: _as_text(value) for name, value in found if value is not None}


def _about(connection: Connection, query: object, tables: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not tables:
        return []
    rows = connection.execute(query, {"tables": list(tables)})  # type: ignore[call-overload]
    return [tuple(str(value) for value in row) for row in rows]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value.decode() if isinstance(value, bytes) else str(value)
