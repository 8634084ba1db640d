"""
Tables that refuse what `record()` accepted, each database in its own way.
"""

from __future__ import annotations

from sqlalchemy import Engine


__all__ = ["POISON", "allow", "forbid"]

# The value that a table refuses after `forbid()`.
POISON = "poison"


def forbid(engine: Engine, table: str, column: str, name: str = "no_poison") -> None:
    """
    Have *table* refuse rows with `POISON` in *column*: by a trigger in SQLite, which cannot add a CHECK, by a CHECK elsewhere.
    """
    if engine.dialect.name == "sqlite":
        statement = (
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN NEW.{column} = '{POISON}' "
            "BEGIN SELECT RAISE(ABORT, 'no poison here'); END"
        )
    else:
        statement = f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} <> '{POISON}')"
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def allow(engine: Engine, table: str, name: str = "no_poison") -> None:
    """
    Undo `forbid()`.
    """
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"DROP TRIGGER {name}" if sqlite else f"ALTER TABLE {table} DROP CONSTRAINT {name}"
        )
