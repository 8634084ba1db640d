"""
How long a database may take over anything that the writer asks of it: every such number stands here.

All follow from `BufferConfig.statement_timeout`, S, 30 seconds by default (below 2 s, S + 2 s is 2 S):

==================  =======================  ==============================================================================
what                bound                    held by
==================  =======================  ==============================================================================
to connect          10 s, at most S          the driver (`connect_arguments()`); an engine made with ``creator=`` decides itself
one statement       S                        the server, which then says so and stays in step
a lock, a busy file S / 3                    the server (SQLite: whoever begins, and no longer than the application allows)
left in the middle  S + 2 s                  the server, which then gives up what a writer that was cut off holds locked
no answer at all    S + 2 s                  `Watchdog`, which shuts the socket; PyMySQL's own ``read_timeout`` as well
no sign of life     S + 2 s                  the kernel (TCP_USER_TIMEOUT), also where no watchdog can run; PostgreSQL's as well
idle, and gone      60 s                     the kernel (keepalive); PostgreSQL's as well
==================  =======================  ==============================================================================

Nothing of it reaches the application's own connections. Behind PgBouncer in transaction mode, however, the settings of a
session are those of a server connection that others use next: point the writer's engine to a pool in session mode there.

Pure but for `protect()`; any thread.
"""

from __future__ import annotations

import math
import socket
from typing import Any

import attrs
from sqlalchemy import Connection, Dialect


__all__ = ["Timeouts", "connect_arguments", "protect", "set_limits", "socket_of"]

_MOST_TO_CONNECT = 10.0
# libpq takes less for two seconds, too.
_LEAST_TO_CONNECT = 2
# What the server is given, at most, to say "statement timeout" itself.
_GRACE = 2.0
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_CONNECT_TIMEOUT_DRIVERS = ("psycopg", "psycopg2", "pymysql", "mysqldb")


@attrs.frozen
class Timeouts:
    """
    The bounds that follow from *statement*, in seconds.
    """

    statement: float = 30.0

    @property
    def connect(self) -> int:
        """
        Return how long connecting may take.
        """
        return max(_LEAST_TO_CONNECT, math.ceil(min(_MOST_TO_CONNECT, self.statement)))

    @property
    def lock(self) -> float:
        """
        Return how long to wait for a lock.
        """
        return self.statement / 3

    @property
    def hang(self) -> float:
        """
        Return how long a server may be silent before it is taken for hung.
        """
        return self.statement + min(_GRACE, self.statement)


def connect_arguments(dialect: Dialect, timeouts: Timeouts) -> dict[str, Any]:
    """
    Return what to pass to the driver's ``connect()``; what the application passes itself goes first.
    """
    if dialect.driver not in _CONNECT_TIMEOUT_DRIVERS:
        return {}
    arguments: dict[str, Any] = {"connect_timeout": timeouts.connect}
    if dialect.driver == "pymysql":
        arguments |= {"read_timeout": timeouts.hang, "write_timeout": timeouts.hang}
    return arguments


def set_limits(connection: Connection, timeouts: Timeouts) -> None:
    """
    Have the server bound statements and waits on *connection*; it is in no transaction afterwards.
    """
    name = connection.dialect.name
    if name == "postgresql":
        connection.exec_driver_sql(_postgresql(timeouts))
        connection.commit()
    elif name in ("mysql", "mariadb"):
        connection.exec_driver_sql(
            _mariadb(timeouts, is_mariadb=getattr(connection.dialect, "is_mariadb", False))
        )
        connection.rollback()
    elif name == "sqlite":
        found = int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0)
        connection.exec_driver_sql(f"PRAGMA busy_timeout={min(found, _milliseconds(timeouts.lock))}")


def _postgresql(timeouts: Timeouts) -> str:
    hang = _milliseconds(timeouts.hang)
    limits = {
        "statement_timeout": _milliseconds(timeouts.statement),
        "lock_timeout": _milliseconds(timeouts.lock),
        "idle_in_transaction_session_timeout": hang,
        # The server's end of the socket. Its timeout above does not run after psycopg's executemany(): that sends a Flush
        # behind the Sync, which turns it off (PostgreSQL 15, psycopg 3.3).
        "tcp_user_timeout": hang,
        "tcp_keepalives_idle": _KEEPALIVE["TCP_KEEPIDLE"],
        "tcp_keepalives_interval": _KEEPALIVE["TCP_KEEPINTVL"],
        "tcp_keepalives_count": _KEEPALIVE["TCP_KEEPCNT"],
    }
    # set_config() takes them all in one round trip, with every driver.
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in limits.items())


def _mariadb(timeouts: Timeouts, *, is_mariadb: bool) -> str:
    limits = f"SET SESSION innodb_lock_wait_timeout = {_whole(timeouts.lock)}"
    if not is_mariadb:
        # MySQL bounds neither anything but SELECT, nor an idle transaction.
        return limits
    idle = _whole(timeouts.hang)
    return f"{limits}, max_statement_time = {timeouts.statement:.3f}, idle_transaction_timeout = {idle}"


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def _milliseconds(seconds: float) -> int:
    # 0 would mean no limit.
    return max(1, round(seconds * 1000))


def socket_of(raw: Any) -> int | None:
    """
    Return the descriptor of the socket under the driver's connection *raw*; None for a file, and for drivers that hide it.
    """
    # PyMySQL has no public way to it.
    owner: Any = raw if hasattr(raw, "fileno") else getattr(raw, "_sock", None)
    return owner.fileno() if hasattr(owner, "fileno") else None


def protect(line: socket.socket, timeouts: Timeouts) -> None:
    """
    Have the kernel notice when the other end of *line* is gone.
    """
    if line.family not in (socket.AF_INET, socket.AF_INET6):
        return
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {**_KEEPALIVE, "TCP_USER_TIMEOUT": _milliseconds(timeouts.hang)}
    for name, value in options.items():
        # Not every system has every one of them.
        if (option := getattr(socket, name, None)) is not None:
            line.setsockopt(socket.IPPROTO_TCP, option, value)
