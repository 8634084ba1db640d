"""
One folder of ring files, several targets and processes: everything is delivered where it belongs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine

from audit_buffer import AuditBuffer, AuditService, ConfigError, SinkError
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import inspect


def service_on(path: Path) -> AuditService:
    """
    A service with its table in a SQLite file.
    """
    # No pool: no connection is left for the garbage collector to complain of.
    service = AuditService(create_engine(f"sqlite:///{path}", poolclass=NullPool))
    service.create_schema()
    return service


def leave_orphan(service: AuditService, ring_dir: Path, count: int) -> None:
    """
    Leave a ring behind as a killed process would, with so many entries for *service*.
    """
    audit = AuditBuffer(service, ring_dir=ring_dir, flush_interval=3600)
    for number in range(count):
        audit.record("left", details={"number": number})
    ring = audit._channel.ring
    assert isinstance(ring, RingFile)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    # What the kernel does at a kill: the descriptor goes, and with it the lock.
    ring.abandon()
    audit._room.channel.fail(RuntimeError("killed"))


def test_a_shared_folder_delivers_to_the_database_it_was_recorded_for(tmp_path: Path) -> None:
    """
    Two applications use one folder and the same table name in two databases: neither adopts the other's entries.
    """
    ring_dir = tmp_path / "rings"
    first, second = service_on(tmp_path / "first.db"), service_on(tmp_path / "second.db")
    leave_orphan(first, ring_dir, 10)
    with AuditBuffer(second, ring_dir=ring_dir) as audit:
        audit.flush(timeout=20)
        assert audit.count() == 0
    assert [report.entries for report in inspect(ring_dir)] == [10]
    with AuditBuffer(first, ring_dir=ring_dir) as audit:
        audit.flush(timeout=20)
        assert audit.count() == 10
    assert inspect(ring_dir) == []


def test_a_forked_child_adopts_what_a_killed_sibling_left(tmp_path: Path) -> None:
    """
    Behind a preloaded server only children live, so the next one to record, or to flush, delivers for the dead.
    """
    ring_dir = tmp_path / "rings"
    service = service_on(tmp_path / "audit.db")
    with AuditBuffer(service, ring_dir=ring_dir) as audit:
        leave_orphan(service, ring_dir, 7)
        child = os.fork()
        if not child:
            status = 1
            try:
                audit.flush(timeout=20)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert service.count(event_type="left") == 7


@pytest.mark.parametrize("ended", ["closed", "open"])
def test_a_child_records_although_another_buffers_folder_is_gone(tmp_path: Path, ended: str) -> None:
    """
    Every buffer of the parent begins anew in the child; one that cannot does not keep the others from it.
    """
    service, gone = service_on(tmp_path / "audit.db"), tmp_path / "gone"
    other = AuditBuffer(service, ring_dir=gone)
    if ended == "closed":
        other.close()
    with AuditBuffer(service, ring_dir=tmp_path / "rings") as audit:
        shutil.rmtree(gone)
        child = os.fork()
        if not child:
            status = 1
            try:
                audit.record("child")
                audit.flush(timeout=20)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert service.count(event_type="child") == 1
    other.close()


def test_a_buffer_that_is_not_to_buffer_is_refused(tmp_path: Path) -> None:
    """
    `asynchronous=False` is for `open_audit()`; the error says so.
    """
    with pytest.raises(ConfigError, match=r"asynchronous = False: .*open_audit"):
        AuditBuffer(service_on(tmp_path / "audit.db"), asynchronous=False)


def test_what_a_buffer_gave_up_is_there_for_the_next_one(tmp_path: Path) -> None:
    """
    After `delivery_timeout` the ring file is let go, and another buffer delivers it, in this very process.
    """
    service = service_on(tmp_path / "audit.db")
    with service.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER away BEFORE INSERT ON audit_log BEGIN SELECT missing(); END"
        )
    first = AuditBuffer(service, delivery_timeout=0.01, retry_backoff=0.01, retry_backoff_max=0.01)
    first.record("kept")
    with pytest.raises(SinkError):
        first.close(timeout=20)
    first._writer.worker.join(20)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER away")
    with AuditBuffer(service) as second:
        second.flush(timeout=20)
        assert second.count(event_type="kept") == 1
    assert first.stats().state == "failed"
