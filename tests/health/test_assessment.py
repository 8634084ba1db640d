"""
What is found wrong with settings and with a buffer: pure rules, no server.
"""

from __future__ import annotations

import attrs
import pytest

from audit_buffer import DatabaseSettings, Finding, Health, RingUsage
from audit_buffer._assessment import assess_settings
from audit_buffer._health import assess


SOUND_SQLITE = DatabaseSettings(
    kind="sqlite", version="3.51.3", values={"journal_mode": "wal", "synchronous": "FULL"}
)
SOUND_POSTGRESQL = DatabaseSettings(
    kind="postgresql",
    version="15.20 (Debian 15.20-0+deb12u1)",
    values={
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "synchronous_standby_names": "",
        "standbys": "0",
        "transaction_read_only": "off",
        "in_recovery": "off",
        "server_encoding": "UTF8",
    },
)
SOUND_MARIADB = DatabaseSettings(
    kind="mariadb",
    version="10.11.19-MariaDB-0+deb12u1",
    values={
        "innodb_flush_log_at_trx_commit": "1",
        "innodb_doublewrite": "1",
        "log_bin": "1",
        "sync_binlog": "1",
        "sql_mode": "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION",
        "read_only": "0",
        "character_set_client": "utf8mb4",
    },
    collations={"audit_log.actor": "utf8mb4_bin"},
    engines={"audit_log": "InnoDB"},
)
SOUND = Health(
    state="open",
    writer_alive=True,
    lag_entries=0,
    lag_seconds=0.0,
    database_reachable=True,
    database_error=None,
    database=SOUND_SQLITE,
    durability="process",
    ring=RingUsage(bytes=0, capacity=1000, fraction=0.0, oldest_age=0.0),
    dropped=0,
    quarantined=0,
    last_error=None,
)


def changed(settings: DatabaseSettings, **values: str) -> DatabaseSettings:
    return attrs.evolve(settings, values={**settings.values, **values})


def only(findings: list[Finding] | tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize("settings", [SOUND_SQLITE, SOUND_POSTGRESQL, SOUND_MARIADB])
def test_nothing_is_found_where_all_is_as_it_should_be(settings: DatabaseSettings) -> None:
    """
    A database that keeps what it commits gives no finding.
    """
    assert assess_settings(settings) == []


@pytest.mark.parametrize(
    ("settings", "severity", "word"),
    [
        (changed(SOUND_SQLITE, journal_mode="delete"), "warning", "journal_mode is delete"),
        (changed(SOUND_SQLITE, journal_mode="off"), "error", "journal_mode is off"),
        (changed(SOUND_SQLITE, journal_mode="memory"), "warning", "in memory"),
        (changed(SOUND_SQLITE, synchronous="NORMAL"), "error", "synchronous is NORMAL"),
        (changed(SOUND_POSTGRESQL, fsync="off"), "error", "fsync"),
        (changed(SOUND_POSTGRESQL, full_page_writes="off"), "error", "full_page_writes"),
        (changed(SOUND_POSTGRESQL, synchronous_commit="off"), "error", "synchronous_commit is off"),
        (
            changed(SOUND_POSTGRESQL, synchronous_commit="local", synchronous_standby_names="s1"),
            "warning",
            "synchronous_commit is local",
        ),
        (
            changed(SOUND_POSTGRESQL, synchronous_commit="remote_write", synchronous_standby_names="s1"),
            "info",
            "remote_write",
        ),
        (changed(SOUND_POSTGRESQL, standbys="2"), "warning", "2 standby"),
        (
            changed(SOUND_POSTGRESQL, in_recovery="on", transaction_read_only="on"),
            "error",
            "this server is a standby",
        ),
        (changed(SOUND_POSTGRESQL, transaction_read_only="on"), "error", "read-only"),
        (changed(SOUND_POSTGRESQL, server_encoding="LATIN1"), "error", "LATIN1"),
        (attrs.evolve(SOUND_POSTGRESQL, version="14.9"), "warning", "14.9"),
        (
            changed(SOUND_MARIADB, innodb_flush_log_at_trx_commit="2"),
            "error",
            "innodb_flush_log_at_trx_commit is 2",
        ),
        (changed(SOUND_MARIADB, innodb_doublewrite="0"), "warning", "doublewrite"),
        (changed(SOUND_MARIADB, sync_binlog="0"), "warning", "sync_binlog is 0"),
        (changed(SOUND_MARIADB, sql_mode=""), "error", "sql_mode"),
        (changed(SOUND_MARIADB, read_only="1"), "error", "read-only"),
        (changed(SOUND_MARIADB, character_set_client="latin1"), "error", "latin1"),
        (attrs.evolve(SOUND_MARIADB, version="10.5.1-MariaDB"), "warning", "10.5.1"),
        (attrs.evolve(SOUND_MARIADB, kind="mysql", version="8.0.36"), "info", "MySQL 8.0.36"),
        (
            attrs.evolve(SOUND_MARIADB, collations={"audit_log.actor": "utf8mb4_general_ci"}),
            "warning",
            "audit_log.actor is utf8mb4_general_ci",
        ),
        (
            attrs.evolve(SOUND_MARIADB, collations={"audit_log.actor": "latin1_swedish_ci"}),
            "error",
            "audit_log.actor is latin1_swedish_ci",
        ),
        (attrs.evolve(SOUND_MARIADB, engines={"audit_log": "MyISAM"}), "error", "audit_log is MyISAM"),
        (DatabaseSettings(kind="oracle"), "warning", "oracle"),
    ],
)
def test_each_setting_that_weakens_the_promise_is_found(
    settings: DatabaseSettings, severity: str, word: str
) -> None:
    """
    One wrong setting is one finding, which names it and has a remedy.
    """
    finding = only(assess_settings(settings))
    assert finding.severity == severity
    assert word in finding.what
    assert finding.remedy


def test_a_binary_log_that_is_off_need_not_be_synced() -> None:
    """
    sync_binlog matters only where there is a binary log.
    """
    assert assess_settings(changed(SOUND_MARIADB, log_bin="0", sync_binlog="0")) == []


def test_a_rollback_journal_with_synchronous_extra_is_as_safe_as_the_wal() -> None:
    """
    What the writer falls back to where there can be no WAL is no finding.
    """
    assert assess_settings(changed(SOUND_SQLITE, journal_mode="delete", synchronous="EXTRA")) == []


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.0", False),
    ],
)
def test_the_wal_reset_bug_is_a_warning_once_several_processes_write(version: str, affected: bool) -> None:
    """
    Versions 3.7.0 to 3.51.2 may damage a file with several writers; with one it is only said.
    """
    settings = attrs.evolve(SOUND_SQLITE, version=version)
    alone, together = assess_settings(settings), assess_settings(settings, writers=3)
    assert [finding.severity for finding in alone] == ["info"] * affected
    assert [finding.severity for finding in together] == ["warning"] * affected
    assert not affected or "3 processes" in only(together).what


def test_a_sound_buffer_has_no_findings() -> None:
    """
    An open, idle buffer on a sound database is fine, also before its writer was started.
    """
    assert assess(SOUND) == ()
    assert assess(attrs.evolve(SOUND, writer_alive=False)) == ()
    assert SOUND.ok


@pytest.mark.parametrize(
    ("change", "severity", "word"),
    [
        ({"state": "failed", "last_error": OSError("gone")}, "error", "failed"),
        (
            {"database_reachable": False, "database_error": "refused", "database": None},
            "error",
            "cannot be reached: refused",
        ),
        ({"lag_entries": 7, "writer_alive": False}, "warning", "7 entries wait"),
        ({"lag_entries": 7, "lag_seconds": 61.0, "last_error": OSError("gone")}, "error", "OSError('gone')"),
        (
            {"lag_entries": 7, "advice": "drop the trigger", "last_error": OSError("no")},
            "error",
            "7 entries wait until somebody acts: OSError('no')",
        ),
        ({"dropped": 3}, "warning", "3 entries were dropped"),
        ({"quarantined": 2}, "warning", "2 entries were refused"),
        ({"durability": "memory"}, "info", "memory"),
        (
            {"ring": RingUsage(bytes=900, capacity=1000, fraction=0.9, oldest_age=1.0)},
            "warning",
            "90% of the ring",
        ),
        (
            {
                "ring": RingUsage(
                    bytes=0, capacity=1, fraction=0.0, oldest_age=0.0, unsuited="tmpfs is memory"
                )
            },
            "warning",
            "tmpfs is memory",
        ),
    ],
)
def test_each_trouble_of_a_buffer_is_found(change: dict[str, object], severity: str, word: str) -> None:
    """
    One thing wrong with a buffer is one finding with a remedy.
    """
    finding = only(assess(attrs.evolve(SOUND, **change)))
    assert (finding.severity, word in finding.what) == (severity, True)
    assert finding.remedy


def test_the_worst_comes_first_and_decides() -> None:
    """
    Findings are sorted by severity, and only an error makes a buffer not ok.
    """
    poor = attrs.evolve(
        SOUND, durability="memory", dropped=1, database=changed(SOUND_SQLITE, synchronous="OFF")
    )
    findings = assess(poor)
    assert [finding.severity for finding in findings] == ["error", "warning", "info"]
    assert not attrs.evolve(poor, findings=findings).ok
    assert attrs.evolve(poor, findings=findings[1:]).ok


def test_a_closed_buffer_does_not_lag() -> None:
    """
    What waits in a buffer that has ended is told by its state, not by the age of the entries.
    """
    assert (
        assess(attrs.evolve(SOUND, state="closed", lag_entries=1, lag_seconds=1e6, writer_alive=False)) == ()
    )


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("3.40.1", (3, 40, 1)),
        ("15.20 (Debian 15.20-0+deb12u1)", (15, 20)),
        ("10.11.19-MariaDB-0+deb12u1", (10, 11, 19)),
        ("18beta1", ()),
        ("", ()),
    ],
)
def test_a_version_is_compared_by_its_numbers(version: str, release: tuple[int, ...]) -> None:
    """
    What is not a plain version compares as none, and gives no finding.
    """
    assert DatabaseSettings(kind="postgresql", version=version).release == release
