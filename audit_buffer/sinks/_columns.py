"""
The columns of an application's own table: what `record(**columns)` accepts, and how a value travels to the writer.

Guarantees:
    * The row is the one that a synchronous INSERT through SQLAlchemy would have made.
    * What is refused is refused at the call: an unknown column is a `TypeError`, as for any unexpected argument; a value
      that the column could not store is an `EntryRejected`.
    * Client-side defaults are evaluated at the call, because "now" means the time of the record, not of the batch.
    * Custom types run at the call, too: a `TypeDecorator` or `PickleType` turns its value into what the database takes,
      and that travels. So a value of any class can be recorded, as long as the column's type knows it.

Pure but for the defaults; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import JSON, Column, Dialect, PickleType
from sqlalchemy.types import TypeDecorator, TypeEngine

from audit_buffer._usual import is_json
from audit_buffer.errors import EntryRejected, shown
from audit_buffer.sinks._conversions import conversion_for, has_own_serializer


__all__ = ["ColumnRule", "is_generated"]

# So deep may JSON be nested that json.dumps() takes for certain.
_LEVELS = 64


class ColumnRule:
    """
    What one column accepts.

    Args:
        name: The name under which `record()` takes it: the attribute of a mapped class, or the column's key.

    Attributes:
        bind_type: The type that the writer's statement has for the column.
        process: What that type makes of a value for the driver; None for nothing.
    """

    def __init__(self, name: str, column: Column[Any], dialect: Dialect) -> None:
        self.name = name
        self.column = column
        self._decorators, self.bind_type = _unwrap(column.type, dialect)
        self._convert = conversion_for(self.bind_type, dialect)
        self.process = self.bind_type.dialect_impl(dialect).bind_processor(dialect)
        self._takes_plain_json = _takes_plain_json(self.bind_type, dialect)
        # JSON stores None as the JSON value null, unless it is told not to.
        self._takes_none = column.nullable or (
            isinstance(self.bind_type, JSON) and not self.bind_type.none_as_null
        )
        self.default = _client_default(column)
        self.required = (
            not column.nullable
            and column.default is None
            and column.server_default is None
            and not _is_numbered(column, dialect)
            and column.identity is None
        )

    def prepare(self, value: Any) -> Any:
        """
        Return what is to be stored for *value*.

        Raises:
            EntryRejected: The column would not take it.
        """
        given = value
        try:
            for decorate in self._decorators:
                value = decorate(value)
            if value is None:
                return self._prepare_none()
            value = self._convert(value)
            if self.process is not None and not (self._takes_plain_json and is_json(value, _LEVELS)):
                self.process(value)  # what it raises belongs to the call
        except EntryRejected as error:
            raise EntryRejected(f"{self.name}: {error}", field=self.name) from error
        except Exception as error:
            # A custom type may raise anything; whatever it is, the entry cannot be stored.
            why = str(error) or type(error).__name__
            raise EntryRejected(
                f"{self.name} = {shown(given)}: {why} ({self.column.type!r})", field=self.name
            ) from error
        return value

    def _prepare_none(self) -> None:
        if not self._takes_none:
            raise EntryRejected(f"{self.name} = None: the column is NOT NULL", field=self.name)


def _takes_plain_json(kind: TypeEngine[Any], dialect: Dialect) -> bool:
    """
    Tell whether what *kind* makes of JSON's own types for the driver is known to be made without an error.
    """
    impl = kind.dialect_impl(dialect)
    return (
        isinstance(kind, JSON)
        and type(impl).__module__.startswith("sqlalchemy.")
        and not has_own_serializer(dialect)
    )


def is_generated(column: Column[Any]) -> bool:
    """
    Tell whether only the database may set the column.
    """
    return column.computed is not None or (column.identity is not None and bool(column.identity.always))


def _is_numbered(column: Column[Any], dialect: Dialect) -> bool:
    """
    Tell whether the database numbers the rows in this column.
    """
    if column is not column.table.autoincrement_column:
        return False
    # SQLite numbers INTEGER PRIMARY KEY and nothing else, not even BIGINT.
    return dialect.name != "sqlite" or column.type.compile(dialect=dialect).upper() == "INTEGER"


class _DefaultContext:
    """
    The part of SQLAlchemy's execution context that a context-sensitive default may ask for.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.current_parameters = row

    def get_current_parameters(self, isolate_multiinsert_params: bool = True) -> Mapping[str, Any]:
        """
        Return the row so far, by the columns' keys.
        """
        return self.current_parameters


def _client_default(column: Column[Any]) -> Callable[[Mapping[str, Any]], Any] | None:
    """
    Return the column's default if Python evaluates it; one that the database evaluates stays with it.
    """
    default: Any = column.default
    if default is None or not (default.is_scalar or default.is_callable):
        return None
    if default.is_scalar:
        return lambda row: default.arg
    return lambda row: default.arg(_DefaultContext(row))


def _unwrap(kind: TypeEngine[Any], dialect: Dialect) -> tuple[list[Callable[[Any], Any]], TypeEngine[Any]]:
    """
    Return what custom types do to a value at the call, and the type that is left for the writer's statement.
    """
    steps: list[Callable[[Any], Any]] = []
    kind = _variant(kind, dialect)
    while isinstance(kind, TypeDecorator):
        if _overrides(kind, "bind_expression"):
            # It wraps the value in SQL, so the statement has to know the type.
            return [], kind
        if isinstance(kind, PickleType):
            steps.append(_pickler(kind))
        elif _overrides(kind, "process_bind_param"):
            steps.append(_binder(kind, dialect))
        elif _overrides(kind, "bind_processor"):
            # It speaks the driver's language only; leave it to the writer's statement.
            return steps, kind
        kind = _variant(kind.load_dialect_impl(dialect), dialect)
    return steps, kind


def _variant(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """
    Return what `with_variant()` chose for this database.
    """
    variants: Mapping[str, TypeEngine[Any]] = getattr(kind, "_variant_mapping", {})
    return variants.get(dialect.name, kind)


def _overrides(kind: TypeDecorator[Any], method: str) -> bool:
    return getattr(type(kind), method) is not getattr(TypeDecorator, method)


def _pickler(kind: PickleType) -> Callable[[Any], Any]:
    return lambda value: None if value is None else kind.pickler.dumps(value, kind.protocol)


def _binder(kind: TypeDecorator[Any], dialect: Dialect) -> Callable[[Any], Any]:
    return lambda value: kind.process_bind_param(value, dialect)
