"""
What a transaction that went wrong, or seems to have gone well, leaves on its connection.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from audit_buffer.errors import SinkError
from audit_buffer.sinks._faults import Action, classify


__all__ = ["is_clean_after", "refuse_aborted"]


def is_clean_after(error: BaseException, connection: Connection) -> bool:
    """
    Tell whether the database only refused a value, and after a ROLLBACK the connection is as good as new.

    A batch that is narrowed is refused many times, and connecting takes longer than all the rest of it.
    """
    if classify(error).action is not Action.NARROW or connection.invalidated:
        return False
    if connection.dialect.name != "sqlite":
        return not connection.in_transaction()  # SQLAlchemy has rolled back
    raw = _raw(connection)
    try:
        # The writer's BEGIN is one that SQLAlchemy does not know of. Some errors have ended it.
        if raw.in_transaction:
            connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        return False
    return not raw.in_transaction


def refuse_aborted(connection: Connection) -> None:
    """
    Raise if somebody swallowed an error in the transaction: PostgreSQL answers COMMIT, stores nothing, and psycopg is content.
    """
    status = getattr(getattr(_raw(connection), "info", None), "transaction_status", None)
    if getattr(status, "name", "") == "INERROR":
        raise SinkError("a statement of the transaction failed, so that COMMIT would store nothing")


def _raw(connection: Connection) -> Any:
    return connection.connection.dbapi_connection
