"""
What "periodic" promises: a sync comes `sync_interval` after an entry, whatever the writer is doing.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from audit_buffer import AuditBuffer
from audit_buffer._channel import Channel
from audit_buffer._ring_file import RingFile
from audit_buffer._syncer import Syncer
from audit_buffer.config import BufferConfig
from audit_buffer.testing import FakeClock, MemorySink


def test_a_sync_covers_what_gathered_for_sync_interval(tmp_path: Path) -> None:
    """
    One step waits exactly `sync_interval` after it found an entry; then that entry survives a power cut.
    """
    clock = FakeClock()
    ring = RingFile.create(tmp_path / "ring", label="test", size=1 << 20)
    channel = Channel(ring, BufferConfig(sync_interval=0.5), clock, lambda attention: None)
    channel.publish(b"an entry")
    assert channel.snapshot().synced == 0
    started = clock.monotonic()
    assert Syncer(channel, clock).step()
    assert channel.snapshot().synced == 1
    assert clock.monotonic() - started == 0.5
    ring.close()


class HangingSink(MemorySink):
    """
    Its database answers when it is released.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.released = threading.Event()

    def write(self, batch) -> None:
        self.hangs.set()
        assert self.released.wait(60)
        super().write(batch)


def test_a_hanging_database_does_not_keep_entries_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While the writer waits for the database, what was recorded since is synced all the same.
    """
    sink, armed, synced = HangingSink(), threading.Event(), threading.Event()
    sync = RingFile.sync

    def observed(ring: RingFile) -> None:
        expected = armed.is_set()
        sync(ring)
        if expected:
            synced.set()

    monkeypatch.setattr(RingFile, "sync", observed)
    options = {
        "durability": "periodic",
        "ring_dir": tmp_path / "ring",
        "sync_interval": 0.01,
        "batch_size": 1,
    }
    with AuditBuffer(sink, **options) as audit:
        audit.record("first")
        assert sink.hangs.wait(60)
        audit.record("second")
        armed.set()
        audit.record("third")
        assert synced.wait(60)
        assert audit.stats().committed == 0
        sink.released.set()
    assert sink.seqs == [1, 2, 3]
