"""
The tables, as SQLAlchemy metadata that Alembic can see, and the column types that keep values as they are.

`audit_log` is the service's table. `position_table`, `gap_table` and `quarantine_table` stand beside an application's own
table, in the same database, so that `TableSink` can write them in the batch's transaction.

Types: times are UTC to the microsecond everywhere (SQLite text, PostgreSQL ``timestamptz``, MariaDB ``DATETIME(6)``);
details are JSON text that keeps its bytes (never ``jsonb``); keys compare byte by byte (MariaDB ``utf8mb4_bin``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    inspect,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from audit_buffer._facts import MAX_LENGTHS


__all__ = [
    "FENCE",
    "BufferId",
    "JsonText",
    "UtcDateTime",
    "audit_log",
    "create_tables",
    "gap_table",
    "metadata",
    "position_table",
    "quarantine_table",
]

# The constraint that makes a second delivery fail instead of double.
FENCE = "uq_audit_log_buffer_id_seq"

_decode_json = msgspec.json.Decoder().decode


class UtcDateTime(TypeDecorator[datetime]):
    """
    A moment: aware on the Python side, UTC to the microsecond in the database.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """
        Choose the type that keeps microseconds.
        """
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """
        Turn an aware moment into what the database keeps.
        """
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """
        Return an aware moment in UTC.
        """
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _PostgresJson(UserDefinedType[Any]):
    """
    PostgreSQL's ``json``, which keeps the text it is given; the text is ours, so nothing is processed.
    """

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "JSON"


class JsonText(TypeDecorator[dict[str, Any]]):
    """
    A JSON object stored as the text it is; bound as text (or as a dict), returned as a dict.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """
        Choose the type that keeps the text.
        """
        if dialect.name == "postgresql":
            return dialect.type_descriptor(_PostgresJson())
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: dict[str, Any] | str | None, dialect: Dialect) -> str | None:
        """
        Pass JSON text on, and encode anything else.
        """
        return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """
        Return the object; psycopg has decoded ``json`` already.
        """
        result: dict[str, Any] | None = _decode_json(value) if isinstance(value, str) else value
        return result


class BufferId(TypeDecorator[UUID]):
    """
    A 128-bit id: ``uuid`` on PostgreSQL, ``BINARY(16)`` on MariaDB, 32 hexadecimal digits on SQLite.
    """

    impl = Uuid
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """
        Choose the narrowest type the database compares byte by byte.
        """
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.BINARY(16))
        return dialect.type_descriptor(Uuid(native_uuid=dialect.name == "postgresql"))

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        """
        Turn an id into what the database keeps.
        """
        return value.bytes if value is not None and dialect.name in ("mysql", "mariadb") else value

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        """
        Return the id as a UUID.
        """
        return UUID(bytes=bytes(value)) if isinstance(value, bytes | bytearray) else value


def _text(name: str) -> TypeEngine[str]:
    length = MAX_LENGTHS[name]
    return String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


_big = BigInteger()
_MARIADB_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

metadata = MetaData()

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _big.with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("buffer_id", BufferId),
    Column("seq", _big),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("event_type", _text("event_type"), nullable=False),
    Column("actor", _text("actor")),
    Column("resource", _text("resource")),
    Column("outcome", _text("outcome"), nullable=False),
    Column("correlation_id", _text("correlation_id")),
    Column("details", JsonText),
    UniqueConstraint("buffer_id", "seq", name=FENCE),
    Index("ix_audit_log_occurred_at", "occurred_at"),
    Index("ix_audit_log_resource", "resource"),
    **_MARIADB_OPTIONS,
)

# Beside an application's own table. Its MetaData is separate: an application that uses only the service never sees it.
companion_metadata = MetaData()

position_table = Table(
    "audit_buffer_position",
    companion_metadata,
    Column("buffer_id", BufferId, primary_key=True),
    Column("last_seq", _big, nullable=False),
    # The first seq of the last transaction, and what stands for all entries before it and up to its end; see `_positions`.
    Column("first_seq", _big),
    Column("checksum", String(32)),
    Column("updated_at", UtcDateTime, nullable=False),
    **_MARIADB_OPTIONS,
)

gap_table = Table(
    "audit_buffer_gap",
    companion_metadata,
    Column("buffer_id", BufferId, primary_key=True),
    Column("last_seq", _big, primary_key=True, autoincrement=False),
    Column("first_seq", _big, nullable=False),
    Column("dropped", _big, nullable=False),
    Column("policy", String(32), nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    **_MARIADB_OPTIONS,
)

_bytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

quarantine_table = Table(
    "audit_buffer_quarantine",
    companion_metadata,
    Column("buffer_id", BufferId, primary_key=True),
    Column("seq", _big, primary_key=True, autoincrement=False),
    Column("payload", _bytes, nullable=False),
    Column("error", Text, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    **_MARIADB_OPTIONS,
)


def create_tables(engine: Engine, tables: MetaData) -> None:
    """
    Create those of *tables* that do not exist, also while other processes do the same.

    Between the look and the CREATE TABLE another worker of the same server may have been quicker. Whoever fails with a table that is
    there now looks again; with no such table the failure is another one.
    """
    missing = _missing(engine, tables)
    while True:
        try:
            tables.create_all(engine)
        except DBAPIError:
            before, missing = missing, _missing(engine, tables)
            if missing == before:
                raise
        else:
            return


def _missing(engine: Engine, tables: MetaData) -> set[str]:
    there = inspect(engine)
    return {table.name for table in tables.sorted_tables if not there.has_table(table.name)}
