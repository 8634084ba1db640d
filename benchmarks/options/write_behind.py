"""
Option 2: write-behind, which is `AuditBuffer`: a ring, one writer, batched transactions.
"""

from __future__ import annotations

from audit_buffer import AuditBuffer, AuditService


def memory(service: AuditService) -> AuditBuffer:
    """
    Return a buffer whose ring is in this process.
    """
    return AuditBuffer(service, durability="memory")


def process(service: AuditService) -> AuditBuffer:
    """
    Return a buffer whose ring outlives this process.
    """
    return AuditBuffer(service, durability="process")
