"""
A forked child has a buffer of its own, empty, and nothing of its parent's; the parent does not notice it.
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from tests.crash.programs import ROOT, create_schema, recover, rings, run, running, types


FAULTS = ("lost", "doubled", "inverted", "phantom", "hangs", "ended_badly", "left", "retries")


def storm(folder: Path, url: str, level: str, forks: int, *ways: str) -> None:
    command = [sys.executable, "-m", "tests.crash.fork_storm", "--url", url, "--level", level]
    command += ["--ring-dir", str(folder / "rings"), "--acks", str(folder / "acks"), "--forks", str(forks)]
    command += ["--seed", str(random.SystemRandom().randrange(1 << 32))]
    command += ["--ways", ",".join(ways)] if ways else []
    print(" ".join(command[1:]))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    tally = json.loads(ended.stdout.splitlines()[-1])
    print(tally)
    assert tally["entries"] > forks
    assert {fault: tally[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0), ended.stderr[-3000:]


@pytest.mark.untraced
@pytest.mark.parametrize("level", ["process", "memory"])
def test_forks_while_four_threads_record(tmp_path: Path, level: str) -> None:
    """
    Whatever the child does, nothing is lost, nothing comes twice, nobody hangs and no connection is harmed.
    """
    storm(tmp_path, f"sqlite:///{tmp_path / 'audit.db'}", level, 12, "os", "os-close", "os-silent", "mp-fork")


@pytest.mark.untraced
def test_children_that_start_from_nothing(tmp_path: Path) -> None:
    """
    What a child of multiprocessing recorded is written when it returns, also if it was spawned.
    """
    storm(tmp_path, f"sqlite:///{tmp_path / 'audit.db'}", "memory", 4, "mp-forkserver", "mp-spawn")


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("level", ["process", "periodic", "sync", "memory"])
def test_forks_however_many(tmp_path: Path, full: bool, level: str) -> None:
    """
    As above, all ways mixed: 500 forks a level with --full.
    """
    storm(tmp_path, f"sqlite:///{tmp_path / 'audit.db'}", level, 500 if full else 12)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_forks_beside_a_server(tmp_path: Path, postgresql_engine: Engine, full: bool) -> None:
    """
    As above; a child that ends must not say goodbye on its parent's connection.
    """
    url = make_url(postgresql_engine.url).render_as_string(hide_password=False)
    storm(tmp_path, url, "process", 500 if full else 12)


def test_a_child_that_never_records_makes_no_file(tmp_path: Path) -> None:
    """
    Forking costs no ring: the child's is made by its first record().
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        with open_buffer() as buffer:
            before = sorted(os.listdir(folder / "rings"))
            pid = os.fork()
            if not pid:
                buffer.flush(timeout=5)
                os._exit(before != sorted(os.listdir(folder / "rings")))
            assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("first_call", ["record('child')", "flush(timeout=5)", "stats()", "close(timeout=5)"])
def test_a_fork_python_was_not_told_of_is_noticed(tmp_path: Path, first_call: str) -> None:
    """
    Whatever a child forked from C calls first, it neither waits for threads it does not have nor writes its parent's.
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        f"""
        buffer = open_buffer(flush_interval=60)
        parent = buffer.buffer_id
        buffer.record("parent")
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            try:
                buffer.{first_call}
                assert buffer.buffer_id != parent
                buffer.close(timeout=5)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        buffer.close()
        """,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(types(recover(tmp_path))) == (["child"] if "record" in first_call else []) + ["parent"]


def test_a_child_outlives_its_parents_database(tmp_path: Path) -> None:
    """
    What a child commits in SQLite is there, although the parent has closed its connections meanwhile: the last one to close
    deletes the WAL, and a child that had inherited an open database would not count.
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        buffer = open_buffer()
        buffer.record("parent")
        buffer.flush()
        heard, go = os.pipe()
        ready, done = os.pipe()
        pid = os.fork()
        if not pid:
            buffer.record("child, early")
            buffer.flush(timeout=5)
            os.write(done, b".")
            os.read(heard, 1)
            buffer.record("child, late")
            buffer.flush(timeout=5)
            os._exit(0)
        os.read(ready, 1)
        buffer.close()
        buffer._target.engine.dispose()
        os.write(go, b".")
        assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert ended.returncode == 0, ended.stderr
    assert types(recover(tmp_path)) == ["parent", "child, early", "child, late"]


def test_a_fork_does_not_wait_for_a_database_that_hangs(tmp_path: Path) -> None:
    """
    SQLite in the child takes the parent's transaction for its own, and cannot write; what the child records is kept in its
    ring file, and in the table after the next start, once. The parent goes on.
    """
    create_schema(tmp_path)
    program = """
    buffer = open_buffer(exit_timeout=0.1, flush_interval=0)
    buffer.record("parent, early")
    while buffer._channel._ledger.in_hand is None: pass
    say("busy")
    pid = os.fork()
    if not pid:
        buffer.record("child")
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
    say("forked")
    buffer.record("parent, late")
    buffer.flush(timeout=20)
    """
    database = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    with running(tmp_path, program) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == "busy\n"
        assert parent.stdout.readline() == "forked\n"
        database.execute("ROLLBACK")
        assert parent.wait(30) == 0, parent.stderr.read()
    database.close()
    assert types(recover(tmp_path)) == ["parent, early", "parent, late", "child"]


def test_a_child_keeps_no_ring_of_its_parents_locked(tmp_path: Path) -> None:
    """
    When the parent is killed its ring can be adopted, and so can the orphan it was delivering, while the child lives on.
    """
    create_schema(tmp_path)
    leave = """
    buffer = open_buffer(BlockedSink(), flush_interval=60)
    buffer.record("left by the first")
    os._exit(0)
    """
    assert run(tmp_path, leave).returncode == 0
    adopt_and_fork = """
    sink = BlockedSink()
    buffer = open_buffer(sink)
    sink.entered.wait()
    buffer.record("left by the second")
    pid = os.fork()
    if not pid:
        say(os.getpid())
        hear()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    check = """
    sink = BlockedSink()
    sink.gate.set()
    with open_buffer(sink) as buffer:
        buffer.flush(timeout=10)
    say(*sorted(sink.written), sep="|")
    """.replace(', sep="|"', "")
    with running(tmp_path, adopt_and_fork) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        parent.wait(10)
        ended = run(tmp_path, check)
    assert ended.stdout.strip() == "left by the first left by the second", ended.stderr
    assert rings(tmp_path) == []


def test_pool_workers_lose_nothing_when_terminated(tmp_path: Path) -> None:
    """
    `Pool.terminate()` is SIGTERM: what its workers recorded is in their rings, and is delivered by the next start.
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        buffer = open_buffer(flush_interval=60)

        def work(number):
            return buffer.record("work", resource=str(number)) > 0

        if __name__ == "__main__":
            pool = multiprocessing.get_context("fork").Pool(2)
            assert all(pool.map(work, range(50)))
            pool.terminate()
            pool.join()
            buffer.close()
        """,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(int(entry.resource or "") for entry in recover(tmp_path)) == list(range(50))
