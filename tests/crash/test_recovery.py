"""
What a start finds in the ring directory: orphans whole and damaged, of another version, half delivered, in use, or huge.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_buffer import AuditBuffer, RingCorrupt, RingVersionUnsupported, instrumentation
from audit_buffer._ring_file import RingFile
from audit_buffer.instrumentation import BatchFailed, Event, RingRefused
from tests.crash.programs import create_schema, recover, rings, run, types
from tests.crash.sinks import BlockedSink


@pytest.fixture
def events():
    """
    What was emitted in this test's process.
    """
    seen: list[Event] = []
    instrumentation.set_hooks([seen.append])
    yield seen
    instrumentation.set_hooks([instrumentation.log_event])


def leave_orphan(folder: Path, count: int = 20) -> Path:
    """
    Have a process end with *count* entries in its ring, and return the ring's path.
    """
    ended = run(
        folder,
        f"""
        buffer = open_buffer(flush_interval=60, batch_size=1000)
        for number in range(1, {count} + 1):
            buffer.record(f"e{{number}}", details={{"pad": "x" * 50}})
        say(buffer.buffer_id.hex)
        os._exit(0)
        """,
    )
    return folder / "rings" / f"{ended.stdout.strip()}.ring"


def test_a_damaged_orphan_is_told_and_does_not_stop_the_start(tmp_path: Path, events: list[Event]) -> None:
    """
    A flipped byte in the middle: the intact prefix is delivered, the error is loud, the file is set aside with its reason.
    """
    service = create_schema(tmp_path)
    orphan = leave_orphan(tmp_path)
    content = bytearray(orphan.read_bytes())
    content[content.index(b'"e11"') + 2] ^= 1
    orphan.write_bytes(content)
    told: list[BaseException] = []
    with AuditBuffer(
        service,
        ring_dir=tmp_path / "rings",
        ring_bytes=1 << 20,
        max_entry_bytes=1 << 14,
        on_error=told.append,
    ) as buffer:
        buffer.record("after the damage")
        buffer.flush(timeout=10)
        assert sorted(types(service.entries())) == sorted(
            [f"e{n}" for n in range(1, 11)] + ["after the damage"]
        )
    assert [type(error) for error in told] == [RingCorrupt]
    assert any(isinstance(event, RingRefused) for event in events)
    assert rings(tmp_path) == [f"{orphan.name}.corrupt", f"{orphan.name}.reason"]
    assert "entry 12 is intact" in (orphan.parent / f"{orphan.name}.reason").read_text()
    recover(tmp_path)
    assert len(service.entries()) == 11
    service.engine.dispose()


def test_another_versions_ring_is_left_untouched(tmp_path: Path) -> None:
    """
    A ring this version cannot read is refused aloud, byte for byte unchanged, and the application starts.
    """
    service = create_schema(tmp_path)
    orphan = leave_orphan(tmp_path)
    with orphan.open("r+b") as file:
        head = bytearray(file.read(8192))
        golden = newer_version(head)
        file.seek(0)
        file.write(golden)
    before = orphan.read_bytes()
    told: list[BaseException] = []
    with AuditBuffer(
        service,
        ring_dir=tmp_path / "rings",
        ring_bytes=1 << 20,
        max_entry_bytes=1 << 14,
        on_error=told.append,
    ) as buffer:
        buffer.record("one")
        buffer.flush(timeout=10)
    assert types(service.entries()) == ["one"]
    assert [type(error) for error in told] == [RingVersionUnsupported]
    assert orphan.read_bytes() == before
    service.engine.dispose()


def newer_version(head: bytearray) -> bytes:
    """
    Return both headers as version 99 would write them.
    """
    from audit_buffer._ring_header import SLOTS

    for slot in SLOTS:
        # Magic (8 bytes), then the version (u16): see docs/reference/ring-file.
        head[slot + 8 : slot + 10] = (99).to_bytes(2, "little")
    return bytes(head)


def test_a_database_that_is_batches_ahead_is_no_error(tmp_path: Path, events: list[Event]) -> None:
    """
    A process can die long after its COMMITs and before the ring knows of them. The next one goes on behind them, whatever
    its batch size, and no attempt fails.
    """
    service = create_schema(tmp_path)
    orphan = leave_orphan(tmp_path)
    kept = orphan.read_bytes()
    recover(tmp_path)
    orphan.write_bytes(kept)
    orphan.chmod(0o600)
    recover(tmp_path, batch_size=3)
    assert types(service.entries()) == [f"e{n}" for n in range(1, 21)]
    assert not [event for event in events if isinstance(event, BatchFailed)]
    service.engine.dispose()


def test_an_unfinished_ring_is_removed_by_the_next_start(tmp_path: Path) -> None:
    """
    A process that is killed while it makes its ring leaves no file for ever.
    """
    create_schema(tmp_path)
    ended = run(
        tmp_path,
        """
        from audit_buffer import _ring_disk
        _ring_disk.allocate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        open_buffer()
        """,
    )
    assert ended.returncode == -9
    assert len(rings(tmp_path)) == 1
    recover(tmp_path)
    assert rings(tmp_path) == []


def test_a_ring_that_cannot_be_removed_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An error on the way out of one orphan is told, and the next orphan and the barrier are reached all the same.
    """
    service = create_schema(tmp_path)
    leave_orphan(tmp_path, 3)
    leave_orphan(tmp_path, 4)
    told: list[BaseException] = []
    close, failed = RingFile.close, []

    def close_badly(ring: RingFile) -> None:
        close(ring)
        if not failed:
            failed.append(ring)
            raise OSError(5, "planted")

    monkeypatch.setattr(RingFile, "close", close_badly)
    with AuditBuffer(
        service,
        ring_dir=tmp_path / "rings",
        ring_bytes=1 << 20,
        max_entry_bytes=1 << 14,
        on_error=told.append,
    ) as buffer:
        buffer.flush(timeout=10)
    assert len(service.entries()) == 7
    assert [str(error) for error in told] == ["[Errno 5] planted"]
    service.engine.dispose()


def test_another_targets_ring_is_left_alone(tmp_path: Path) -> None:
    """
    A ring directory may serve several targets; each adopts its own.
    """
    service = create_schema(tmp_path)
    orphan = leave_orphan(tmp_path)
    sink = BlockedSink()
    sink.gate.set()
    with AuditBuffer(
        sink, ring_dir=tmp_path / "rings", ring_bytes=1 << 20, max_entry_bytes=1 << 14
    ) as buffer:
        buffer.flush(timeout=10)
    assert sink.written == []
    assert orphan.exists()
    assert len(recover(tmp_path)) == 20
    service.engine.dispose()


def test_orphans_and_new_entries_go_beside_each_other(tmp_path: Path) -> None:
    """
    A start does not wait until the past is delivered: an entry of the new buffer is committed while orphans still wait.
    """
    service = create_schema(tmp_path)
    leave_orphan(tmp_path, 500)
    with AuditBuffer(
        service,
        ring_dir=tmp_path / "rings",
        ring_bytes=1 << 20,
        max_entry_bytes=1 << 14,
        batch_size=2,
        flush_interval=0,
    ) as buffer:
        buffer.record("new")
        buffer.flush(timeout=30)
    found = types(service.entries())
    assert found.index("new") < 100
    assert [kind for kind in found if kind != "new"] == [f"e{n}" for n in range(1, 501)]
    service.engine.dispose()


def test_one_ring_is_adopted_by_one_process(tmp_path: Path) -> None:
    """
    Eight processes that start at once deliver an orphan once.
    """
    service = create_schema(tmp_path)
    leave_orphan(tmp_path, 200)
    ended = run(
        tmp_path,
        """
        gate, go = os.pipe()
        children = []
        for _ in range(8):
            pid = os.fork()
            if not pid:
                os.close(go)
                os.read(gate, 1)
                try:
                    with open_buffer() as buffer:
                        buffer.flush(timeout=20)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
            children.append(pid)
        os.close(go)
        sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
        """,
    )
    assert ended.returncode == 0, ended.stderr
    assert types(recover(tmp_path)) == [f"e{n}" for n in range(1, 201)]
    assert rings(tmp_path) == []
    service.engine.dispose()


MEASURE = """
class Counting(BlockedSink):
    count = 0
    def write(self, batch):
        self.count += len(batch)
        self._position[batch.buffer_id] = batch.through

def peak():
    # Of private memory: the pages of the mapped ring are the kernel's, and it takes them back when it needs them.
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
"""


def test_recovery_needs_memory_for_one_batch(tmp_path: Path) -> None:
    """
    However many entries an orphan holds, delivering them takes no more memory than a batch of them.
    """
    recover_and_measure(tmp_path, 100_000)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_recovery_of_a_million_needs_memory_for_one_batch(tmp_path: Path, full: bool) -> None:
    """
    As above, with 1,000,000 entries with --full.
    """
    recover_and_measure(tmp_path, 1_000_000 if full else 200_000)


def recover_and_measure(tmp_path: Path, count: int) -> None:
    size = count * 200
    left = run(
        tmp_path,
        MEASURE
        + f"""
buffer = open_buffer(Counting(), flush_interval=600, batch_size=1 << 30, batch_max_bytes=1 << 40, ring_bytes={size})
for number in range({count}):
    buffer.record("e", details={{"n": number, "pad": "x" * 50}})
os._exit(0)
""",
        timeout=300,
    )
    assert left.returncode == 0, left.stderr
    ended = run(
        tmp_path,
        MEASURE
        + """
first = open_buffer(Counting(), adopt_orphans=False)
first.record("warm")
first.close()
before = peak()
highest = [0]
sink = Counting()
write = sink.write
def measured(batch):
    write(batch)
    highest[0] = max(highest[0], peak())
sink.write = measured
with open_buffer(sink) as buffer:
    buffer.flush(timeout=300)
say(json.dumps([sink.count, highest[0] - before]))
""",
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    found, grown = json.loads(ended.stdout)
    assert found == count
    # A batch of 512 entries of 100 bytes; 4 MiB is the allocator's.
    assert grown < 4096, f"{grown} KiB"
    assert rings(tmp_path) == []
