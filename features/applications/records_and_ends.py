"""
An application that records entries and ends without closing its buffer: `records_and_ends.py URL COUNT HOW`.
"""

from __future__ import annotations

import atexit
import sys

import sqlalchemy

from audit_buffer import AuditBuffer, AuditService
from features.support.database import Faults


url, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
engine = sqlalchemy.create_engine(url)
faults = Faults(engine)
# Nothing is written before the end, so that the end has something to do.
audit = AuditBuffer(
    AuditService(engine),
    durability="memory",
    flush_interval=3600.0,
    batch_size=100_000,
    exit_timeout=0.05 if how == "losing its database" else 30.0,
)
for ordinal in range(1, count + 1):
    audit.record("plan.updated", details={"ordinal": ordinal})

if how == "an error":
    raise LookupError("the application failed")
if how == "asking for code 3":
    sys.exit(3)
if how == "a last entry of its exit hook":
    atexit.register(lambda: audit.record("app.ended", details={"ordinal": count + 1}))
if how == "losing its database":
    faults.away = True
