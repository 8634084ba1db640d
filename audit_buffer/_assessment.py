"""
What facts about a database and its ring files mean, and what to do about it. Pure: no I/O, any thread.

Severities: "error" is a promise that does not hold, or will stop holding by itself; "warning" is one that holds less
than it could, or needs somebody's attention; "info" is good to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from audit_buffer.sinks._settings import DatabaseSettings


__all__ = ["Finding", "Severity", "assess_settings"]

Severity = Literal["error", "warning", "info"]

# The versions that this library is tested with; see docs/explanation/track-record.md.
_OLDEST_POSTGRESQL = (15,)
_OLDEST_MARIADB = (10, 11)
# "The WAL-Reset Bug" in https://sqlite.org/wal.html.
_WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))


@attrs.frozen
class Finding:
    """
    One thing that is not as it should be, or good to know.

    Attributes:
        severity: "error", "warning" or "info".
        what: What was found.
        remedy: What to do about it.
    """

    severity: Severity
    what: str
    remedy: str


def assess_settings(settings: DatabaseSettings, *, writers: int = 1, of_writer: bool = True) -> list[Finding]:
    """
    Judge how a database keeps what is committed.

    Args:
        writers: How many processes are known to write to it.
        of_writer: Whether the settings are those of a buffer's own connection, which sets some of them itself.
    """
    if settings.kind == "sqlite":
        return [*_assess_sqlite(settings, writers)]
    if settings.kind == "postgresql":
        return [*_assess_postgresql(settings)]
    if settings.kind in ("mariadb", "mysql"):
        return [*_assess_mariadb(settings, of_writer)]
    return [
        Finding(
            "warning",
            f"nothing is known about how {settings.kind} keeps what is committed",
            "make sure that a COMMIT survives a power cut there; SQLite, PostgreSQL and MariaDB are the tested databases",
        )
    ]


def _assess_sqlite(settings: DatabaseSettings, writers: int) -> Iterator[Finding]:
    journal, synchronous = settings.values.get("journal_mode", ""), settings.values.get("synchronous", "")
    if journal == "memory":
        yield Finding(
            "warning",
            "the database is in memory, or its journal is: nothing survives the process",
            "use a database file, unless this is a test",
        )
        return
    if journal == "off":
        yield Finding(
            "error", "journal_mode is off: a crash destroys the database", "PRAGMA journal_mode=WAL"
        )
    elif journal != "wal" and synchronous != "EXTRA":
        yield Finding(
            "warning",
            f"journal_mode is {journal}: a power cut may take the last commit back",
            "nothing for a buffer, which sets WAL when it writes; for every other writer PRAGMA journal_mode=WAL",
        )
    if synchronous in ("OFF", "NORMAL"):
        yield Finding(
            "error",
            f"synchronous is {synchronous}: a power cut takes commits back",
            "PRAGMA synchronous=FULL on each connection that writes",
        )
    oldest, newest = _WAL_RESET_BUG
    if oldest <= settings.release <= newest:
        several = writers > 1
        yield Finding(
            "warning" if several else "info",
            f"SQLite {settings.version} has the WAL-reset bug (3.7.0 to 3.51.2)"
            + (f", and {writers} processes write to this file: it may be damaged" if several else ""),
            "use a Python with SQLite 3.51.3 or later"
            + (
                ", or one writing process for each file"
                if several
                else " before a second process writes here"
            ),
        )


def _assess_postgresql(settings: DatabaseSettings) -> Iterator[Finding]:
    values = settings.values
    if values.get("fsync") == "off":
        yield Finding(
            "error",
            "fsync is off: a crash of the machine destroys the database",
            "fsync = on in postgresql.conf",
        )
    if values.get("full_page_writes") == "off":
        yield Finding(
            "error",
            "full_page_writes is off: a power cut may leave torn pages",
            "full_page_writes = on, unless the file system writes pages as a whole (ZFS)",
        )
    yield from _assess_commits(values.get("synchronous_commit", ""), settings)
    if values.get("in_recovery") == "on":
        yield Finding(
            "error",
            "this server is a standby: it takes no entries",
            "name the primary in the URL, or several hosts and ?target_session_attrs=read-write",
        )
    elif values.get("transaction_read_only") == "on":
        yield Finding(
            "error",
            "transactions are read-only here: no entry can be written",
            "default_transaction_read_only = off, for the server, the database or the user",
        )
    if values.get("server_encoding", "UTF8") != "UTF8":
        yield Finding(
            "error",
            f"the database's encoding is {values['server_encoding']}: it refuses text that has other characters",
            "a database WITH ENCODING 'UTF8'",
        )
    yield from _assess_version(settings, _OLDEST_POSTGRESQL, "PostgreSQL")


def _assess_commits(level: str, settings: DatabaseSettings) -> Iterator[Finding]:
    named = settings.values.get("synchronous_standby_names", "")
    standbys = settings.values.get("standbys", "0")
    if level == "off":
        yield Finding(
            "error",
            "synchronous_commit is off: a crash of the server takes the last commits back",
            "synchronous_commit = on, at least for this user: ALTER ROLE … SET synchronous_commit = on",
        )
    elif named and level == "local":
        yield Finding(
            "warning",
            "synchronous_commit is local although there are synchronous standbys: a failover takes the last commits back",
            "synchronous_commit = on for this user",
        )
    elif named and level == "remote_write":
        yield Finding(
            "info",
            "synchronous_commit is remote_write: if primary and standby lose power together, the last commits may go",
            "synchronous_commit = on",
        )
    elif not named and standbys != "0":
        yield Finding(
            "warning",
            f"{standbys} standby server(s), none of them synchronous: a failover takes the last commits back",
            "synchronous_standby_names; docs/how-to/failover.md says what the buffer can do",
        )


def _assess_mariadb(settings: DatabaseSettings, of_writer: bool) -> Iterator[Finding]:
    values = settings.values
    if (flush := values.get("innodb_flush_log_at_trx_commit", "1")) != "1":
        yield Finding(
            "error",
            f"innodb_flush_log_at_trx_commit is {flush}: a power cut takes the last second of commits back",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in the server's configuration file",
        )
    if values.get("innodb_doublewrite", "1") in ("0", "OFF"):
        yield Finding(
            "warning",
            "innodb_doublewrite is off: a power cut may leave torn pages",
            "innodb_doublewrite = ON, unless the device writes pages as a whole",
        )
    if values.get("log_bin") == "1" and (sync := values.get("sync_binlog", "1")) != "1":
        yield Finding(
            "warning",
            f"sync_binlog is {sync}: after a power cut the replicas may lack the last commits, or have more of them",
            "SET GLOBAL sync_binlog = 1, and in the server's configuration file",
        )
    if values.get("read_only", "0") not in ("0", "OFF"):
        yield Finding("error", "the server is read-only: it takes no entries", "name the primary in the URL")
    yield from _assess_text(settings, of_writer)
    for table, engine in settings.engines.items():
        if engine.lower() != "innodb":
            yield Finding(
                "error",
                f"table {table} is {engine}: it knows no transactions, so no entry is written exactly once",
                f"ALTER TABLE {table} ENGINE=InnoDB",
            )
    if settings.kind == "mysql":
        yield Finding(
            "info",
            f"MySQL {settings.version}: this library is tested with MariaDB",
            "run its tests against your server",
        )
    else:
        yield from _assess_version(settings, _OLDEST_MARIADB, "MariaDB")


def _assess_text(settings: DatabaseSettings, of_writer: bool) -> Iterator[Finding]:
    """
    Judge whether text comes back as it went in.
    """
    if "STRICT_" not in settings.values.get("sql_mode", "STRICT_"):
        # A buffer's own connection is made strict; AuditService.record() and everybody else get what the server has.
        yield Finding(
            "error" if of_writer else "warning",
            "sql_mode is not strict: what does not fit is cut short without an error"
            + ("" if of_writer else ", but for a buffer, which sets its own"),
            "add STRICT_TRANS_TABLES to sql_mode",
        )
    client = settings.values.get("character_set_client", "utf8mb4")
    if client != "utf8mb4":
        yield Finding(
            "error",
            f"the connection's character set is {client}: other characters are lost",
            "?charset=utf8mb4 in the URL",
        )
    for column, collation in settings.collations.items():
        convert = (
            f"ALTER TABLE {column.partition('.')[0]} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        if not collation.startswith("utf8mb4_"):
            yield Finding(
                "error", f"column {column} is {collation}: it refuses or changes other characters", convert
            )
        elif not collation.endswith("_bin"):
            yield Finding(
                "warning", f"column {column} is {collation}: searches find 'ABC' for 'abc'", convert
            )


def _assess_version(settings: DatabaseSettings, oldest: tuple[int, ...], name: str) -> Iterator[Finding]:
    if settings.release and settings.release < oldest:
        wanted = ".".join(map(str, oldest))
        yield Finding(
            "warning",
            f"{name} {settings.version} is older than this library is tested with",
            f"{name} {wanted} or later",
        )
