"""
Column types of an application, for what a column may do to its value.
"""

from __future__ import annotations

import sqlalchemy as sa


__all__ = ["Reversed", "Shouted"]


class Shouted(sa.types.TypeDecorator[str]):
    """
    Wraps its value in SQL.
    """

    impl = sa.String(40)
    cache_ok = True

    def bind_expression(self, bindvalue):
        return sa.func.upper(bindvalue)


class Reversed(sa.types.TypeDecorator[str]):
    """
    Speaks the driver's language only.
    """

    impl = sa.String(40)
    cache_ok = True

    def bind_processor(self, dialect):
        return lambda value: "nothing" if value is None else value[::-1]
