"""
The way in for an application that has a database and wants an audit trail: one call, and one setting that switches the buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Engine

from audit_buffer.buffer import AuditBuffer
from audit_buffer.config import BufferConfig
from audit_buffer.service import AuditService


if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


__all__ = ["open_audit"]


def open_audit(
    bind: Engine | sessionmaker[Session] | str, config: BufferConfig | None = None
) -> AuditService | AuditBuffer:
    """
    Return a ready service: the plain `AuditService` when `asynchronous` is off, an `AuditBuffer` around it otherwise.

    The table is created if it does not exist. Both have `record()`, `entries()` and `count()`; close the buffer.

    Args:
        config: Settings; None means the environment (`BufferConfig.from_env()`).
    """
    config = BufferConfig.from_env() if config is None else config
    service = AuditService(bind, config)
    service.create_schema()
    return AuditBuffer(service, config) if config.asynchronous else service
