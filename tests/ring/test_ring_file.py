"""
What the channel relies on: the contract of one ring, by one process.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import stat
import time
from pathlib import Path
from uuid import uuid4

import pytest

from audit_buffer import _ring_disk
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_recovery import orphans
from audit_buffer.errors import RingCorrupt, RingError
from tests.ring.rings import LABEL, SMALL, cycle, descriptors, expected, filled, make, payload_of, take_all


def test_entries_come_out_in_order_under_their_seq(tmp_path: Path) -> None:
    """
    What was put is what is taken, byte for byte, once.
    """
    ring = filled(tmp_path, 10)
    assert ring.take(4, 1 << 20) == expected(1, 4)
    assert take_all(ring) == expected(5, 10)
    assert take_all(ring) == []
    ring.release(10)
    ring.close()


def test_a_batch_keeps_within_its_bytes_but_is_never_empty(tmp_path: Path) -> None:
    """
    One entry larger than the bound comes alone; otherwise the bound holds.
    """
    ring = make(tmp_path)
    for seq, size in enumerate((10, 10, 500, 10), start=1):
        ring.put(seq, bytes(size))
    assert [seq for seq, _ in ring.take(10, 25)] == [1, 2]
    assert [seq for seq, _ in ring.take(10, 25)] == [3]
    assert [seq for seq, _ in ring.take(10, 25)] == [4]
    ring.abandon()


def test_a_jump_in_seq_is_kept(tmp_path: Path) -> None:
    """
    A gap is stored as the jump it is.
    """
    ring = make(tmp_path)
    assert ring.put(1, b"a")
    assert ring.put(7, b"b")
    assert take_all(ring) == [(1, b"a"), (7, b"b")]
    ring.abandon()


needs_populate = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (5, 14),
    reason="MADV_POPULATE_WRITE came with Linux 5.14",
)


def resident(ring: RingFile) -> int:
    """
    Bytes of the mapping that are in memory, as the kernel counts them.
    """
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith(ring.path.name))
    line = next(line for line in lines[at:] if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


@needs_populate
def test_what_comes_next_is_in_memory_already(tmp_path: Path) -> None:
    """
    A `put()` does not wait for a page: after each release so much is ready as was at the start, and in the end all of the file.
    """
    size = 4 << 20
    ring = make(tmp_path, size)
    ready, payload = resident(ring), bytes(16_368)
    assert 1 << 20 <= ready < 2 << 20
    for seq in range(1, 1 + 2 * size // (1 << 14)):
        before = resident(ring)
        assert ring.put(seq, payload)
        assert resident(ring) == before
        ring.take(1, 0)
        ring.release(seq)
    assert resident(ring) == size
    ring.close()


def test_pages_come_when_they_are_touched_where_the_system_knows_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A kernel older than the request refuses it; everything else is as ever.
    """
    monkeypatch.setattr(_ring_disk, "_MADV_POPULATE_WRITE", 9999)
    ring = make(tmp_path, 4 << 20)
    assert resident(ring) < 1 << 16
    assert ring.put(1, b"a")
    assert take_all(ring) == [(1, b"a")]
    ring.release(1)
    ring.close()


def test_a_ring_that_is_synced_leaves_its_pages_alone(tmp_path: Path) -> None:
    """
    What is in memory and was not used yet would be written to the disk at each sync.
    """
    ring = make(tmp_path, 4 << 20)
    ring.sync()
    ready = resident(ring)
    for seq in range(1, 11):
        assert ring.put(seq, bytes(16_368))
        ring.take(1, 0)
        ring.release(seq)
    assert resident(ring) == ready
    ring.close()


@pytest.mark.parametrize("seq", [0, 3, 5])
def test_seq_must_grow(tmp_path: Path, seq: int) -> None:
    """
    A seq at or below the last one is a mistake of the caller, and stores nothing.
    """
    ring = filled(tmp_path, 5)
    with pytest.raises(RingError, match="does not come after 5"):
        ring.put(seq, b"again")
    assert take_all(ring) == expected(1, 5)
    ring.abandon()


def test_a_full_ring_refuses_and_overwrites_nothing(tmp_path: Path) -> None:
    """
    `put()` says False until room is released; then everything that was accepted comes out.
    """
    ring = make(tmp_path)
    seq = 0
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1
    assert not ring.put(seq + 1, payload_of(seq + 1))
    assert ring.take(10, 1 << 20) == expected(1, 10)
    assert not ring.put(seq + 1, payload_of(seq + 1)), "taken is not released"
    ring.release(10)
    assert ring.put(seq + 1, payload_of(seq + 1))
    assert take_all(ring) == expected(11, seq + 1)
    ring.abandon()


@pytest.mark.parametrize("entries_before", range(12))
def test_half_the_ring_fits_whereever_the_ring_stands(tmp_path: Path, entries_before: int) -> None:
    """
    An entry of `max_payload` bytes is accepted by every empty ring; one byte more is an error with the remedy.
    """
    ring = make(tmp_path)
    seq = cycle(ring, entries_before * 7, seed=entries_before)
    assert ring.put(seq + 1, bytes(ring.max_payload))
    with pytest.raises(RingError, match="raise ring_bytes"):
        ring.put(seq + 2, bytes(ring.max_payload + 1))
    assert take_all(ring) == [(seq + 1, bytes(ring.max_payload))]
    assert ring.max_payload >= 4096 // 2 - 32
    ring.abandon()


def test_skip_forgets_the_oldest_entry_not_taken(tmp_path: Path) -> None:
    """
    `skip()` passes over one entry, whose room `release()` then gives up with the rest.
    """
    ring = filled(tmp_path, 4)
    assert ring.take(1, 1) == expected(1, 1)
    assert ring.skip() == (2, payload_of(2))
    assert take_all(ring) == expected(3, 4)
    assert ring.skip() is None
    ring.release(4)
    ring.close()
    assert not list(tmp_path.iterdir())


def test_release_inside_a_batch_keeps_the_rest(tmp_path: Path) -> None:
    """
    Only entries up to the seq that was named are given up.
    """
    ring = filled(tmp_path, 6)
    take_all(ring)
    ring.release(4)
    ring.release(4)
    ring.release(2)
    ring.abandon()
    (orphan,) = orphans(tmp_path, LABEL)
    assert take_all(orphan) == expected(5, 6)
    orphan.close()


def test_rewind_offers_again_what_was_not_released(tmp_path: Path) -> None:
    """
    A reader that lost its batch gets it again.
    """
    ring = filled(tmp_path, 6)
    ring.take(4, 1 << 20)
    ring.release(2)
    ring.rewind()
    assert take_all(ring) == expected(3, 6)
    ring.release(6)
    ring.close()
    assert not list(tmp_path.iterdir())


def test_last_seq_is_the_last_entry_put(tmp_path: Path) -> None:
    """
    `last_seq` follows every `put()`, and survives release.
    """
    ring = make(tmp_path)
    assert ring.last_seq == 0
    assert cycle(ring, 100) == 100
    ring.close()


def test_an_empty_ring_leaves_nothing_behind(tmp_path: Path) -> None:
    """
    `close()` after everything was released unlinks the file; closing again does nothing.
    """
    before = descriptors()
    ring = filled(tmp_path, 3)
    take_all(ring)
    ring.release(3)
    ring.close()
    ring.close()
    assert not list(tmp_path.iterdir())
    assert descriptors() == before


def test_a_ring_with_entries_stays_to_be_adopted(tmp_path: Path) -> None:
    """
    `close()` leaves unreleased entries on the disk, without an owner.
    """
    ring = filled(tmp_path, 3)
    take_all(ring)
    ring.release(2)
    ring.close()
    (orphan,) = orphans(tmp_path, LABEL)
    assert take_all(orphan) == expected(3, 3)
    orphan.release(3)
    orphan.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "use",
    [lambda ring: ring.put(9, b"x"), lambda ring: ring.sync(), lambda ring: ring.successor()],
    ids=["put", "sync", "successor"],
)
def test_a_closed_ring_says_so(tmp_path: Path, use) -> None:
    """
    After `close()` nothing is accepted silently.
    """
    ring = make(tmp_path)
    ring.close()
    with pytest.raises(RingError, match="closed"):
        use(ring)


def test_a_forked_child_leaves_the_file_and_the_lock_alone(tmp_path: Path) -> None:
    """
    `close()` in a child neither unlinks nor unlocks: the parent goes on as if there had been no fork.
    """
    ring = make(tmp_path)
    pid = os.fork()
    if pid == 0:
        ring.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(orphans(tmp_path, LABEL)) == []
    assert ring.put(1, b"after the fork")
    ring.abandon()
    (orphan,) = orphans(tmp_path, LABEL)
    assert take_all(orphan) == [(1, b"after the fork")]
    orphan.close()


def test_a_child_does_not_keep_a_closed_ring_from_being_adopted(tmp_path: Path) -> None:
    """
    A forked child still has the open file, but `close()` gives the lock up for both.
    """
    ring = filled(tmp_path, 1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    ring.close()
    adopted = list(orphans(tmp_path, LABEL))
    os.close(write)
    os.close(read)
    os.waitpid(pid, 0)
    assert len(adopted) == 1
    adopted[0].close()


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    """
    The file is 0600 in a directory of 0700, and no other program inherits it.
    """
    directory = tmp_path / "deep" / "rings"
    ring = make(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    assert not os.get_inheritable(ring._fd)
    assert ring.path.name == f"{ring.buffer_id.hex}.ring"
    ring.close()


@pytest.mark.parametrize("name", ["app.log", "lost+found", ".hidden", "ring"])
def test_a_directory_others_may_write_to_is_refused(tmp_path: Path, name: str) -> None:
    """
    If it holds anything but rings; the error names the remedy, nothing is made, and its mode stays.
    """
    (tmp_path / name).touch()
    tmp_path.chmod(0o775)
    with pytest.raises(RingError, match=r"chmod 700.*folder of its own"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o775


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o2770, 0o702])
def test_a_directory_of_rings_is_made_private_again(tmp_path: Path, mode: int) -> None:
    """
    As an fsGroup leaves it, and an emptyDir: nobody else may go there from then on.
    """
    tmp_path.chmod(mode)
    filled(tmp_path, 3).abandon()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode & ~0o077
    tmp_path.chmod(mode)
    (tmp_path / "x.ring.corrupt").touch()
    make(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode & ~0o077


def test_a_place_that_everybody_shares_stays_shared(tmp_path: Path) -> None:
    """
    A folder like /tmp is refused, though it be empty and belong to this user.
    """
    tmp_path.chmod(0o1777)
    with pytest.raises(RingError, match="folder of its own"):
        make(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_directory_of_somebody_else_stays_as_it_is(tmp_path: Path) -> None:
    """
    Its owner decides who may write there.
    """
    rings = tmp_path / "rings"
    rings.mkdir()
    rings.chmod(0o777)
    os.chown(rings, 12345, 12345)
    with pytest.raises(RingError, match="folder of its own"):
        make(rings)
    assert stat.S_IMODE(rings.stat().st_mode) == 0o777


def test_a_second_ring_of_the_same_buffer_is_refused(tmp_path: Path) -> None:
    """
    Nothing that is there is overwritten.
    """
    ring = filled(tmp_path, 3)
    with pytest.raises(RingError, match="already"):
        RingFile.create(tmp_path, label=LABEL, size=SMALL, buffer_id=ring.buffer_id)
    assert take_all(ring) == expected(1, 3)
    ring.abandon()


@pytest.mark.parametrize(("label", "size"), [("x" * 201, SMALL), ("x", 8192), ("x", 0)])
def test_a_ring_that_cannot_work_is_refused(tmp_path: Path, label: str, size: int) -> None:
    """
    Too long a label or too small a size is an error, and leaves nothing behind.
    """
    with pytest.raises(RingError):
        RingFile.create(tmp_path, label=label, size=size)
    assert not list(tmp_path.iterdir())


def test_an_empty_ring_opens_in_50_ms(tmp_path: Path) -> None:
    """
    64 MiB are allocated, mapped, synced and named in less than 50 ms (the best of five).
    """
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ring = make(tmp_path, 64 << 20)
        times.append(time.perf_counter() - start)
        assert os.stat(ring.path).st_blocks * 512 >= 64 << 20
        ring.close()
    assert min(times) < 0.05


def test_room_is_not_reused_before_its_release_is_synced(tmp_path: Path) -> None:
    """
    Once the ring is synced, released room waits for the next sync, and says so.
    """
    ring = filled(tmp_path, 10)
    ring.sync()
    assert ring.synced_seq == 10
    seq = 10
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1
    taken = take_all(ring)
    assert not ring.room_awaits_sync
    ring.release(taken[-1][0])
    assert not ring.put(seq + 1, payload_of(seq + 1))
    assert ring.room_awaits_sync
    ring.sync()
    assert not ring.room_awaits_sync
    assert ring.put(seq + 1, payload_of(seq + 1))
    ring.abandon()


def failing_sync(fd: int) -> None:
    raise OSError(errno.EIO, "the device says no")


def test_after_a_failed_sync_the_file_is_never_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A later fdatasync would "succeed" and prove nothing, so it is not asked; the first error stays the cause.
    """
    ring = filled(tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(_ring_disk, "sync_data", failing_sync)
        with pytest.raises(RingError, match="kernel log") as caught:
            ring.sync()
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    with pytest.raises(RingError, match="successor") as caught:
        ring.sync()
    assert caught.value.__cause__ is cause
    assert ring.synced_seq == 0
    ring.abandon()


def test_a_successor_has_all_unreleased_entries_and_takes_the_name(tmp_path: Path) -> None:
    """
    Same buffer, other file, everything synced; what was taken stays taken and can be released there.
    """
    ring = make(tmp_path)
    cycle(ring, 60)
    for seq in range(61, 73):
        ring.put(seq, payload_of(seq))
    ring.take(5, 1 << 20)
    heir = ring.successor()
    assert heir.buffer_id == ring.buffer_id
    assert heir._header.ring_id != ring._header.ring_id
    assert [path.name for path in tmp_path.iterdir()] == [f"{heir.buffer_id.hex}.ring"]
    assert heir.last_seq == heir.synced_seq == 72
    assert heir.put(73, payload_of(73))
    assert take_all(heir) == expected(66, 73)
    heir.release(64)
    heir.abandon()
    (orphan,) = orphans(tmp_path, LABEL)
    assert take_all(orphan) == expected(65, 73)
    orphan.close()


def test_a_successor_of_an_empty_ring_counts_on(tmp_path: Path) -> None:
    """
    `last_seq` does not start anew.
    """
    ring = make(tmp_path)
    cycle(ring, 9)
    heir = ring.successor()
    assert heir.last_seq == 9
    heir.close()
    assert not list(tmp_path.iterdir())


def test_a_full_ring_has_a_successor(tmp_path: Path) -> None:
    """
    A full ring's entries fit into a new one, wherever its lap ended.
    """
    for start in range(0, 40, 3):
        ring = make(tmp_path / str(start))
        seq = cycle(ring, start, seed=start)
        first = seq + 1
        while ring.put(seq + 1, payload_of(seq + 1)):
            seq += 1
        heir = ring.successor()
        assert take_all(heir) == expected(first, seq)
        heir.abandon()


def test_a_successor_that_cannot_be_made_leaves_the_ring_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The new file is gone, the old one still takes and offers entries.
    """
    ring = filled(tmp_path, 5)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(_ring_disk, "sync_data", failing_sync)
        with pytest.raises(RingError):
            ring.successor()
    assert descriptors() == before
    assert [path.name for path in tmp_path.iterdir()] == [ring.path.name]
    assert ring.put(6, payload_of(6))
    assert take_all(ring) == expected(1, 6)
    ring.abandon()


def test_a_successor_whose_name_is_not_safe_does_not_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    When the directory could not be synced, the successor works, but its sync fails until it has one itself.
    """
    ring = filled(tmp_path, 5)

    def refuse(directory: Path) -> None:
        raise RingError("cannot sync", path=directory)

    with monkeypatch.context() as patch:
        patch.setattr(_ring_disk, "sync_directory", refuse)
        heir = ring.successor()
    assert heir.put(6, payload_of(6))
    with pytest.raises(RingError, match="successor"):
        heir.sync()
    last = heir.successor()
    last.sync()
    assert take_all(last) == expected(1, 6)
    last.abandon()


def test_an_entry_changed_behind_our_back_is_not_delivered(tmp_path: Path) -> None:
    """
    Reading one's own ring checks every checksum; what was before the changed entry comes out first.
    """
    ring = filled(tmp_path, 5)
    at = ring._map.find(payload_of(3))
    ring._map[at] ^= 1
    assert ring.take(2, 1 << 20) == expected(1, 2)
    with pytest.raises(RingCorrupt, match="after seq 2"):
        take_all(ring)
    with pytest.raises(RingCorrupt, match="after seq 2"):
        ring.successor()
    ring.abandon()


def test_a_name_made_by_somebody_else_is_never_opened(tmp_path: Path) -> None:
    """
    A symbolic link where the file will be made is an error that says so, and its target stays as it was.
    """
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    rings = tmp_path / "rings"
    rings.mkdir(mode=0o700)
    buffer_id = uuid4()
    link = rings / f"{buffer_id.hex}.ring"
    link.symlink_to(target)
    with pytest.raises(RingError, match="already"):
        RingFile.create(rings, label=LABEL, size=SMALL, buffer_id=buffer_id)
    with pytest.raises(RingError, match="already"):
        os.close(_ring_disk.open_new(link))
    assert target.read_bytes() == b"precious"


def test_repr_shows_state_and_counts(tmp_path: Path) -> None:
    """
    A log line tells which ring, whose, and how far it is.
    """
    ring = filled(tmp_path, 5)
    assert repr(ring) == f"<RingFile {ring.path.name} own last_seq=5 committed=0>"
    ring.abandon()
    assert "closed" in repr(ring)
