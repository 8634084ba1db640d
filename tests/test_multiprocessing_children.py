"""
A child of multiprocessing leaves without atexit (up to Python 3.12), and yet writes what it recorded.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


CHILDREN = """
import multiprocessing, multiprocessing.util, sys, threading
from concurrent.futures import ThreadPoolExecutor
from audit_buffer import AuditBuffer, AuditService

service = AuditService("sqlite:///audit.db")
service.create_schema()
# At this interval nothing but the end of the child writes.
audit = AuditBuffer(service, flush_interval=600.0, durability="memory")

def work(child):
    for number in range(20):
        audit.record("child.worked", details={"child": child, "number": number})

def late(child, done):
    done.wait()
    for number in range(20):
        audit.record("child.worked", details={"child": child, "number": number})

def leave(child):
    # A thread, or an executor's task, still records when this returns.
    done = threading.Event()
    if child:
        ThreadPoolExecutor().submit(late, child, done)
    else:
        threading.Thread(target=late, args=(child, done)).start()
    # The last finalizer of all, behind ours. From 3.13 on threads are waited for before any of them.
    if sys.version_info < (3, 13):
        multiprocessing.util.Finalize(None, done.set, exitpriority=-1000)
    else:
        done.set()

if __name__ == "__main__":
    work = {"work": work, "leave": leave}[sys.argv.pop(1)]
    context = multiprocessing.get_context(sys.argv[1])
    context.set_forkserver_preload(sys.argv[2:])
    children = [context.Process(target=work, args=(child,)) for child in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    audit.close()
"""


@pytest.mark.parametrize("way", ["work", "leave"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "forkserver audit_buffer"])
def test_a_child_writes_what_it_recorded(method: str, way: str, tmp_path: Path) -> None:
    """
    What a child recorded is in the table once the child has ended, whichever way it was started; also what its threads
    recorded after its function had returned.
    """
    (tmp_path / "children.py").write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, "children.py", way, *method.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with sqlite3.connect(tmp_path / "audit.db") as database:
        rows = database.execute("SELECT count(*), count(DISTINCT buffer_id) FROM audit_log").fetchone()
    database.close()
    assert rows == (40, 2)
