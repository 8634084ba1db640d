"""
What the levels with a ring file promise while the process lives: room, syncing, places, and several processes at once.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy

from audit_buffer import AuditBuffer, BufferFull, ConfigError, RingError, instrumentation
from audit_buffer import _ring_disk as disk
from audit_buffer.instrumentation import Event, RingPlaceUnsuited, RingReplaced
from tests.crash.programs import create_schema, recover, rings, run, running, types
from tests.crash.sinks import BlockedSink


FILE_LEVELS = ("process", "periodic", "sync")
SMALL = {"ring_bytes": 1 << 16, "max_entry_bytes": 1 << 14}


@pytest.fixture
def events():
    """
    What was emitted in this test.
    """
    seen: list[Event] = []
    instrumentation.set_hooks([seen.append])
    yield seen
    instrumentation.set_hooks([instrumentation.log_event])


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """
    The file descriptors of the fdatasyncs so far.
    """
    seen: list[int] = []
    sync_data = disk.sync_data

    def counted(fd: int) -> None:
        seen.append(fd)
        sync_data(fd)

    monkeypatch.setattr(disk, "sync_data", counted)
    return seen


def fill(buffer: AuditBuffer) -> int:
    """
    Record until there is no room, and return how many entries there are.
    """
    count = 0
    while True:
        try:
            buffer.record(f"e{count + 1}", details={"pad": "x" * 300})
        except BufferFull:
            return count
        count += 1


# A full ring file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", FILE_LEVELS)
@pytest.mark.parametrize("policy", ["block", "raise"])
def test_a_full_ring_file_refuses(tmp_path: Path, level: str, policy: str) -> None:
    """
    Without room record() raises and leaves nothing behind; when the database is back it takes entries again.
    """
    sink = BlockedSink()
    with AuditBuffer(
        sink, durability=level, ring_dir=tmp_path, on_full=policy, block_timeout=0.05, **SMALL
    ) as buffer:
        count = fill(buffer)
        assert 50 < count < 300
        sink.gate.set()
        buffer.flush(timeout=10)
        buffer.record("more")
    assert sink.written == [*(f"e{n}" for n in range(1, count + 1)), "more"]


@pytest.mark.parametrize("level", FILE_LEVELS)
@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_a_full_ring_file_drops_and_says_which(tmp_path: Path, level: str, policy: str) -> None:
    """
    A dropping policy never waits; the entries that are there and the gap rows account for every seq.
    """
    service = create_schema(tmp_path)
    gate = sqlalchemy.create_engine(service.engine.url)
    with (
        AuditBuffer(
            service,
            durability=level,
            ring_dir=tmp_path / "rings",
            on_full=policy,
            flush_interval=0,
            batch_size=20,
            **SMALL,
        ) as buffer,
        gate.connect() as connection,
    ):
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # nobody else writes meanwhile
        for number in range(1, 501):
            assert buffer.record(f"e{number}", details={"pad": "x" * 300}) == number
        connection.exec_driver_sql("ROLLBACK")
    gate.dispose()
    covered: list[int] = []
    for entry in service.entries():
        details = entry.details if entry.event_type == "audit_buffer.gap" else {"first_seq": entry.seq}
        assert entry.seq is not None
        assert entry.event_type in ("audit_buffer.gap", f"e{entry.seq}")
        covered += range(details["first_seq"], entry.seq + 1)
    assert covered == list(range(1, 501))
    service.engine.dispose()


def test_write_through_writes_past_a_full_ring_file(tmp_path: Path) -> None:
    """
    "write_through" waits for the COMMIT of its own entry, whatever the thresholds say.
    """
    service = create_schema(tmp_path)
    with AuditBuffer(
        service,
        ring_dir=tmp_path / "rings",
        on_full="write_through",
        flush_interval=60,
        batch_size=10_000,
        batch_max_bytes=1 << 30,
        **SMALL,
    ) as buffer:
        for number in range(1, 401):
            buffer.record(f"e{number}", details={"pad": "x" * 300})
        assert len(service.entries()) > 100
    assert types(service.entries()) == [f"e{n}" for n in range(1, 401)]
    service.engine.dispose()


@pytest.mark.parametrize("level", FILE_LEVELS)
def test_a_database_that_is_down_costs_room_only(tmp_path: Path, level: str) -> None:
    """
    Three processes cannot write; each leaves in a ring what it recorded, and the fourth delivers all of it in order.
    """
    service = create_schema(tmp_path)
    with service.engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        for process in range(3):
            ended = run(
                tmp_path,
                f"""
                buffer = open_buffer(exit_timeout=0.1)
                for number in range(100):
                    buffer.record(f"p{process}.{{number}}")
                """,
                level,
            )
            assert "100 entries are kept" in ended.stderr
        other.exec_driver_sql("ROLLBACK")
    service.engine.dispose()
    assert len(rings(tmp_path)) == 3
    assert types(recover(tmp_path)) == [f"p{p}.{n}" for p in range(3) for n in range(100)]
    assert rings(tmp_path) == []


@pytest.mark.parametrize("level", ["periodic", "sync"])
def test_room_that_awaits_a_sync_is_found(tmp_path: Path, level: str) -> None:
    """
    Released room is used again only after the next sync: many laps of a small ring go through all the same.
    """
    sink = BlockedSink()
    sink.gate.set()
    with AuditBuffer(
        sink,
        durability=level,
        ring_dir=tmp_path,
        flush_interval=0,
        sync_interval=60,
        block_timeout=10,
        **SMALL,
    ) as buffer:
        for number in range(1, 2001):
            assert buffer.record(f"e{number}", details={"pad": "x" * 300}) == number
    assert sink.written == [f"e{n}" for n in range(1, 2001)]


# Syncing ------------------------------------------------------------------------------------------------------------


def test_those_who_wait_together_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    At "sync", threads that record while a sync is under way are all covered by the next one.
    """
    gate, entered, calls = threading.Event(), threading.Event(), []
    sync_data = disk.sync_data

    def gated(fd: int) -> None:
        calls.append(fd)
        entered.set()
        gate.wait()
        sync_data(fd)

    sink = BlockedSink()
    buffer = AuditBuffer(sink, durability="sync", ring_dir=tmp_path, flush_interval=60, **SMALL)
    monkeypatch.setattr(disk, "sync_data", gated)
    first = threading.Thread(target=buffer.record, args=("first",))
    first.start()
    entered.wait()
    others = [threading.Thread(target=buffer.record, args=("other",)) for _ in range(20)]
    for thread in others:
        thread.start()
    published = threading.Event()
    while buffer.stats().published < 21:
        published.wait(0.001)
    assert buffer.stats().synced == 0
    gate.set()
    for thread in [first, *others]:
        thread.join(10)
    assert buffer.stats().synced == 21
    # The first one's own, and one for the twenty; a third where a thread had published after the second began.
    assert len(calls) == 2
    sink.gate.set()
    buffer.close()


def test_sync_is_waited_for_on_demand(tmp_path: Path, syncs: list[int]) -> None:
    """
    `wait(seq, until="synced")` syncs at "process", where nothing else does, and only once.
    """
    sink = BlockedSink()
    buffer = AuditBuffer(sink, durability="process", ring_dir=tmp_path, **SMALL)
    seq = buffer.record("one")
    before = len(syncs)
    assert buffer.stats().synced == 0
    buffer.wait(seq, until="synced", timeout=10)
    buffer.wait(seq, until="synced", timeout=10)
    assert (len(syncs) - before, buffer.stats().synced) == (1, 1)
    sink.gate.set()
    buffer.close()


def test_periodic_syncs_while_the_database_hangs(tmp_path: Path) -> None:
    """
    At "periodic" an entry is on the disk after `sync_interval`, whatever the database does.
    """
    sink = BlockedSink()
    buffer = AuditBuffer(sink, durability="periodic", ring_dir=tmp_path, sync_interval=0.01, **SMALL)
    buffer.record("one")
    sink.entered.wait(10)
    seq = buffer.record("two")
    pause, looks = threading.Event(), 0
    while buffer.stats().synced < seq:
        pause.wait(0.01)
        looks += 1
        assert looks < 1000
    sink.gate.set()
    buffer.close()


def record_beside_close(folder: Path, level: str) -> None:
    sink = BlockedSink()
    sink.gate.set()
    buffer = AuditBuffer(
        sink, durability=level, ring_dir=folder, flush_interval=0, sync_interval=0.001, **SMALL
    )
    raised: list[str] = []
    accepted: list[int] = []
    started = threading.Barrier(4)

    def record() -> None:
        started.wait()
        try:
            while True:
                accepted.append(buffer.record("e"))
        except Exception as error:
            raised.append(repr(error))

    threads = [threading.Thread(target=record) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    buffer.flush()
    buffer.close()
    for thread in threads:
        thread.join(10)
    assert [error.partition("(")[0] for error in raised] == ["BufferClosed"] * 3, raised
    assert len(sink.written) == len(accepted)


@pytest.mark.parametrize("level", ["periodic", "sync"])
def test_record_beside_close_is_synced_or_refused(tmp_path: Path, level: str) -> None:
    """
    An entry that is committed already needs no sync, so closing beside record() breaks nothing.
    """
    for _ in range(30):
        record_beside_close(tmp_path, level)
    assert rings_in(tmp_path) == []


def rings_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class BrokenDisk:
    """
    Lets the fdatasyncs with these numbers fail, counted from 1.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sync_data = disk.sync_data
        self.count = 0
        self.failing: set[int] = set()
        monkeypatch.setattr(disk, "sync_data", self)

    def fail(self, *numbers: int) -> None:
        self.failing = {self.count + number for number in numbers}

    def __call__(self, fd: int) -> None:
        self.count += 1
        if self.count in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.sync_data(fd)


@pytest.mark.parametrize("level", FILE_LEVELS)
def test_a_failed_sync_moves_the_entries_to_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event], level: str
) -> None:
    """
    The old file is not asked again; nothing is lost or doubled, an alarm is raised, and the entries survive a kill.
    """
    sink = BlockedSink()
    told: list[BaseException] = []
    broken = BrokenDisk(monkeypatch)
    buffer = AuditBuffer(
        sink,
        durability=level,
        ring_dir=tmp_path,
        sync_interval=0.001,
        batch_size=7,
        on_error=told.append,
        **SMALL,
    )
    for number in range(1, 21):
        buffer.record(f"e{number}")
    sink.entered.wait(10)
    old = next(tmp_path.iterdir()).stat().st_ino
    broken.fail(1)
    seq = buffer.record("e21")
    buffer.wait(seq, until="synced", timeout=10)
    assert next(tmp_path.iterdir()).stat().st_ino != old
    assert [(type(error), bool(error.__cause__)) for error in told] == [(RingError, True)]
    assert [event.replaced for event in events if isinstance(event, RingReplaced)] == [True]
    sink.gate.set()
    buffer.record("e22")
    buffer.close()
    assert sink.written == [f"e{n}" for n in range(1, 23)]
    assert rings_in(tmp_path) == []


def test_an_alarm_that_raises_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    on_error is told of the failed sync inside record(); what it raises does not come out of there.
    """
    sink = BlockedSink()
    sink.gate.set()
    broken = BrokenDisk(monkeypatch)

    def raising(error: BaseException) -> None:
        raise RuntimeError("of the application")

    with AuditBuffer(sink, durability="sync", ring_dir=tmp_path, on_error=raising, **SMALL) as buffer:
        broken.fail(1)
        assert buffer.record("one") == 1
        assert buffer.record("two") == 2
    assert sink.written == ["one", "two"]


def test_no_disk_at_all_fails_the_buffer(tmp_path: Path) -> None:
    """
    When a new file cannot be synced either, "sync" cannot be kept: record() raises and says that the entry is kept, under
    which seq, and it is: the next start writes it, once.
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        from audit_buffer import _ring_disk

        buffer = open_buffer(flush_interval=60, exit_timeout=0.1)
        buffer.record("one")
        def broken(*_): raise OSError(5, "planted")
        _ring_disk.sync_data = broken
        for call in (buffer.record, buffer.record, lambda _: buffer.flush()):
            try:
                call("two")
            except AuditBufferError as error:
                say(type(error).__name__, buffer.stats().state, getattr(error, "seq", None))
                if isinstance(error, RingError):
                    assert "entry 2 is kept in the ring file and written by the next start" in str(error)
        """,
        "sync",
    )
    expected = ["RingError failed 2", "BufferClosed failed None", "SinkError failed None"]
    assert ended.stdout.splitlines() == expected
    assert "2 entries are kept" in ended.stderr
    assert types(recover(tmp_path)) == ["one", "two"]


def test_what_is_committed_needs_no_sync(tmp_path: Path, syncs: list[int]) -> None:
    """
    An entry that reached the database between its publishing and its sync is safe there, and its ring may be gone.
    """
    sink = BlockedSink()
    sink.gate.set()
    buffer = AuditBuffer(sink, durability="sync", ring_dir=tmp_path, **SMALL)
    seq = buffer._channel.publish(buffer._recorder.encode("one"))
    buffer.close()
    before = len(syncs)
    buffer._room.syncer.sync(seq)
    buffer._room.syncer.sync(None)
    assert len(syncs) == before
    assert buffer.stats().state == "closed"


# Places -------------------------------------------------------------------------------------------------------------


def test_the_ring_of_a_sqlite_file_lies_beside_it(tmp_path: Path) -> None:
    """
    As `-wal` and `-shm` do, so that whoever copies the database finds it; in a folder that only its owner can enter.
    """
    service = create_schema(tmp_path)
    with AuditBuffer(service) as buffer:
        assert buffer.durability == "process"
        folder = tmp_path / "audit.db-ring"
        assert [path.name for path in folder.iterdir()] == [f"{buffer.buffer_id.hex}.ring"]
        assert folder.stat().st_mode & 0o777 == 0o700
        assert next(folder.iterdir()).stat().st_mode & 0o777 == 0o600
    service.engine.dispose()


def test_a_place_that_cannot_be_used_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    """
    Never a silent step down to memory.
    """
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/rings")):
        with pytest.raises(ConfigError, match=r"ring_dir.*durability='memory'"):
            AuditBuffer(BlockedSink(), ring_dir=place)
    with pytest.raises(ConfigError, match="set ring_dir"):
        AuditBuffer(BlockedSink(), durability="sync")


def test_a_disk_that_is_full_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The room is allocated when the buffer is made, so that a full disk shows then, and leaves nothing behind.
    """

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match="disk is full: free space, or set a smaller ring_bytes"):
        AuditBuffer(BlockedSink(), ring_dir=tmp_path)
    assert rings_in(tmp_path) == []


def test_what_memory_means_is_said_once(tmp_path: Path) -> None:
    """
    Where no place is known and nobody chose, one event says what is lost when, and which setting changes that.
    """
    ended = run(
        tmp_path,
        """
        sinks = [BlockedSink(), BlockedSink()]
        buffers = [AuditBuffer(sink) for sink in sinks] + [AuditBuffer(BlockedSink(), durability="memory")]
        say(*{buffer.durability for buffer in buffers})
        """,
    )
    assert ended.stdout.strip() == "memory"
    assert ended.stderr.count("audit_buffer.durability_notice") == 1
    assert "ring_dir" in ended.stderr
    chosen = run(tmp_path, "AuditBuffer(BlockedSink(), durability='memory').close()")
    assert chosen.stderr == ""


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no tmpfs is mounted on /dev/shm")
def test_a_file_system_that_promises_less_is_named(tmp_path: Path, events: list[Event]) -> None:
    """
    A ring on tmpfs works, and its owner is told that it survives no reboot.
    """
    import tempfile

    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        AuditBuffer(BlockedSink(), ring_dir=folder, **SMALL),
    ):
        pass
    found = [event.why for event in events if isinstance(event, RingPlaceUnsuited)]
    assert [why.partition(":")[0] for why in found] == ["tmpfs is memory"]


# Several processes, and none at all -----------------------------------------------------------------------------------

WORKER = """
seen = []
instrumentation.set_hooks([lambda event: seen.append(event) if event.level in ("warning", "error") else None])
errors = []
buffer = open_buffer(on_error=errors.append, block_timeout=30, close_timeout=60, ring_bytes=1 << 20)
hear()
for number in range({count}):
    buffer.record(sys.argv[3], resource=str(number), details={{"pad": "x" * 200}})
buffer.close()
names = {{event.name for event in seen}} - {{"audit_buffer.ring_nearly_full"}}
say(json.dumps([repr(buffer.stats().last_error), [repr(error) for error in errors], sorted(names)]))
"""


def work_together(folder: Path, count: int) -> None:
    service = create_schema(folder)
    with ExitStack() as stack:
        source = WORKER.format(count=count)
        workers = [stack.enter_context(running(folder, source, "process", name)) for name in "abcd"]
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        answers = [worker.communicate(timeout=600) for worker in workers]
    for out, err in answers:
        assert json.loads(out.splitlines()[-1]) == ["None", [], []], err
    found = service.entries()
    for name in "abcd":
        own = [entry for entry in found if entry.event_type == name]
        assert [entry.resource for entry in own] == [str(number) for number in range(count)]
        assert [entry.seq for entry in own] == list(range(1, count + 1))
    assert rings(folder) == []
    service.engine.dispose()


def test_four_processes_share_one_sqlite_file(tmp_path: Path) -> None:
    """
    Four workers at full speed, one ring directory, one file: nothing is lost, and "database is locked" is nobody's business.
    """
    work_together(tmp_path, 2_000)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_four_processes_share_one_sqlite_file_for_long(tmp_path: Path, full: bool) -> None:
    """
    As above, for minutes with --full.
    """
    work_together(tmp_path, 250_000 if full else 8_000)


@pytest.mark.parametrize("level", [*FILE_LEVELS, "memory"])
def test_an_idle_buffer_wakes_nobody(tmp_path: Path, level: str) -> None:
    """
    With nothing to write and nothing to sync, no thread of the process runs.
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        buffer = open_buffer(flush_interval=0.01, sync_interval=0.01)
        buffer.record("one")
        buffer.flush()
        if level == "periodic":
            buffer.wait(1, until="synced")

        def switches():
            main = str(threading.main_thread().native_id)
            found = {}
            for task in Path("/proc/self/task").iterdir():
                lines = (task / "status").read_text().splitlines()
                if task.name != main:
                    found[task.name] = [line.split()[1] for line in lines if "ctxt_switches" in line]
            return found

        threading.Event().wait(0.3)  # the last sync of "periodic" has had its interval
        before = switches()
        threading.Event().wait(1)
        say(json.dumps([before, switches()]))
        """,
        level,
    )
    assert ended.returncode == 0, ended.stderr
    before, after = json.loads(ended.stdout)
    assert before
    assert before == after
