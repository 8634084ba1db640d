"""
Orphans are delivered once, intact prefix only, and nothing that is not ours is touched.
"""

from __future__ import annotations

import os
import tracemalloc
from multiprocessing import get_context
from pathlib import Path

import attrs
import pytest

from audit_buffer import _ring_disk
from audit_buffer._ring_file import RingFile
from audit_buffer._ring_header import HEADER_SIZE, SLOTS
from audit_buffer._ring_recovery import RingState, inspect, orphans, unsuited_filesystem
from audit_buffer.errors import RingCorrupt, RingError, RingInUse, RingVersionUnsupported
from tests.ring.rings import LABEL, cycle, descriptors, expected, filled, find, make, payload_of, take_all


def adopt(directory: Path) -> RingFile:
    (orphan,) = orphans(directory, LABEL)
    return orphan


def test_an_orphan_offers_what_was_not_released(tmp_path: Path) -> None:
    """
    Recovery starts behind the last release and goes to the last entry, under the same buffer_id.
    """
    ring = filled(tmp_path, 20)
    ring.take(7, 1 << 20)
    ring.release(7)
    ring.abandon()
    orphan = adopt(tmp_path)
    assert orphan.buffer_id == ring.buffer_id
    assert orphan.label == LABEL
    assert take_all(orphan) == expected(8, 20)
    assert (orphan.damage, orphan.torn, orphan.last_seq) == (None, None, 20)
    orphan.close()


def test_recovery_can_be_interrupted_and_repeated(tmp_path: Path) -> None:
    """
    Each attempt goes on behind what the one before released; the last one removes the file.
    """
    filled(tmp_path, 20).abandon()
    for start in range(1, 21, 4):
        orphan = adopt(tmp_path)
        assert orphan.take(4, 1 << 20) == expected(start, start + 3)
        orphan.release(start + 3)
        orphan.abandon()
    adopt(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_an_orphan_closed_too_early_stays(tmp_path: Path) -> None:
    """
    Not taken, or taken and not released: the file is there for the next time.
    """
    filled(tmp_path, 3).abandon()
    adopt(tmp_path).close()
    orphan = adopt(tmp_path)
    take_all(orphan)
    orphan.release(2)
    orphan.close()
    orphan = adopt(tmp_path)
    assert take_all(orphan) == expected(3, 3)
    orphan.close()


def test_an_orphan_takes_no_new_entries(tmp_path: Path) -> None:
    """
    Its seqs belong to a buffer that is gone.
    """
    filled(tmp_path, 3).abandon()
    orphan = adopt(tmp_path)
    with pytest.raises(RingError, match="no new entries"):
        orphan.put(4, b"x")
    with pytest.raises(RingError, match="no new entries"):
        orphan.successor()
    take_all(orphan)
    orphan.release(3)
    with pytest.raises(RingError, match="no new entries"):
        orphan.put(4, b"x")
    orphan.close()


def test_orphans_come_in_the_order_of_their_creation(tmp_path: Path) -> None:
    """
    The oldest ring is delivered first.
    """
    rings = [filled(tmp_path, 1) for _ in range(5)]
    for ring in rings:
        ring.abandon()
    found = list(orphans(tmp_path, LABEL))
    assert [orphan.buffer_id for orphan in found] == [ring.buffer_id for ring in rings]
    for orphan in found:
        orphan.close()


def test_living_and_foreign_rings_are_left_alone(tmp_path: Path) -> None:
    """
    A ring with an owner or with another label is not offered.
    """
    living = filled(tmp_path, 1)
    other = make(tmp_path, label="entry:elsewhere")
    other.put(1, b"x")
    other.abandon()
    assert list(orphans(tmp_path, LABEL)) == []
    with pytest.raises(RingInUse, match="living"):
        RingFile.adopt(living.path)
    assert other.path.exists()
    assert list(orphans(tmp_path / "nowhere", LABEL)) == []
    living.abandon()


def test_what_was_never_finished_is_removed(tmp_path: Path) -> None:
    """
    A process killed while it made a ring leaves a file that promised nothing; one that is still made stays.
    """
    left_over = tmp_path / "0123.ring.89ab.new"
    left_over.write_bytes(bytes(100))
    in_work = RingFile._make(tmp_path / "4567.ring", filled(tmp_path, 1)._header)
    list(orphans(tmp_path, LABEL))
    assert not left_over.exists()
    assert in_work.path.exists()
    in_work.abandon()


def test_a_flipped_bit_is_never_delivered(tmp_path: Path) -> None:
    """
    Whatever byte of the records is changed: recovery yields a true prefix, and says damage when it is not all of them.
    """
    ring = make(tmp_path)
    seq = cycle(ring, 40)
    first = seq + 1
    for number in range(first, first + 12):
        ring.put(number, payload_of(number))
    everything = expected(first, first + 11)
    image = bytearray(ring._map[:])
    used = range(8192, len(image))
    ring.abandon()
    damaged = 0
    for at in used:
        image[at] ^= 0x10
        found = find(bytes(image))
        assert found.entries == everything[: len(found.entries)]
        if len(found.entries) < 11:
            # Damage to the last entry cannot be told from a torn end; before it, it must be seen.
            assert found.damage is not None, at
            damaged += 1
        image[at] ^= 0x10
    assert damaged > 11 * 16


def test_a_flipped_bit_in_a_header_costs_no_entry(tmp_path: Path) -> None:
    """
    Either header alone leads to all unreleased entries, also when released room was filled again at once.
    """
    ring = make(tmp_path)
    seq = cycle(ring, 40)
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1
    released = ring.take(5, 1 << 20)[-1][0]
    ring.release(released)
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1
    image = bytearray(ring._map[:])
    ring.abandon()
    for slot in SLOTS:
        for at in range(slot, slot + HEADER_SIZE):
            image[at] ^= 0x10
            found = find(bytes(image))
            assert found.damage is None
            assert found.entries[-(seq - released) :] == expected(released + 1, seq)
            image[at] ^= 0x10


def test_released_room_is_used_only_when_both_headers_say_so(tmp_path: Path) -> None:
    """
    One release alone opens no room in use; the older header would lead into it.
    """
    ring = filled(tmp_path, 2)
    seq = 2
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1
    ring.take(5, 1 << 20)
    ring.release(5)
    while ring.put(seq + 1, payload_of(seq + 1)):
        seq += 1
        image = bytearray(ring._map[:])
        image[SLOTS[ring._slot]] ^= 1
        found = find(bytes(image))
        assert found.damage is None
        assert found.entries[-(seq - 5) :] == expected(6, seq)
    assert seq > 30
    ring.abandon()


def damage(path: Path, needle: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(needle)] ^= 1
    path.write_bytes(content)


def test_damage_in_the_middle_is_loud_and_keeps_the_file(tmp_path: Path) -> None:
    """
    The intact prefix is delivered; the file is set aside with the reason, and is not adopted again.
    """
    ring = filled(tmp_path, 9)
    ring.abandon()
    damage(ring.path, payload_of(5))
    orphan = adopt(tmp_path)
    assert take_all(orphan) == expected(1, 4)
    assert orphan.damage is not None
    assert "entry 6 is intact" in orphan.damage
    orphan.release(4)
    orphan.close()
    assert ring.path.exists(), "a damaged file is never unlinked"
    orphan = adopt(tmp_path)
    assert take_all(orphan) == []
    aside = orphan.set_aside(orphan.damage or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{ring.path.name}.corrupt",
        f"{ring.path.name}.reason",
    ]
    assert ring.path.with_suffix(".ring.reason").read_text().strip() == orphan.damage
    assert aside.read_bytes().count(payload_of(6)) == 1
    assert list(orphans(tmp_path, LABEL)) == []


def test_a_torn_last_entry_is_the_end(tmp_path: Path) -> None:
    """
    An entry that was being stored when the process died was not promised, and is no damage.
    """
    ring = filled(tmp_path, 9)
    ring.abandon()
    damage(ring.path, payload_of(9))
    orphan = adopt(tmp_path)
    assert take_all(orphan) == expected(1, 8)
    assert (orphan.damage, orphan.torn) == (None, None)
    orphan.release(8)
    orphan.close()
    assert not list(tmp_path.iterdir())


def test_a_synced_entry_that_is_gone_is_damage(tmp_path: Path) -> None:
    """
    Also at the end, and also after a power cut: it had been promised.
    """
    ring = filled(tmp_path, 9)
    ring.sync()
    ring.take(1, 1)
    ring.release(1)
    ring.abandon()
    damage(ring.path, payload_of(9))
    orphan = adopt(tmp_path)
    assert take_all(orphan) == expected(2, 8)
    assert orphan.damage is not None
    assert "9 were synced" in orphan.damage
    orphan.close()


def test_a_file_without_a_header_is_set_aside(tmp_path: Path) -> None:
    """
    It is reported, and the other orphans are still delivered.
    """
    filled(tmp_path, 2).abandon()
    ruin = tmp_path / "00.ring"
    ruin.write_bytes(bytes(100))
    refused: list[RingError] = []
    (orphan,) = orphans(tmp_path, LABEL, on_refused=refused.append)
    assert take_all(orphan) == expected(1, 2)
    orphan.close()
    assert [type(error) for error in refused] == [RingCorrupt]
    assert (tmp_path / "00.ring.corrupt").read_bytes() == bytes(100)
    assert "neither" in (tmp_path / "00.ring.reason").read_text()


@pytest.mark.parametrize("field", ["committed_position", "retained_position"])
def test_a_header_that_says_what_cannot_be_is_set_aside(tmp_path: Path, field: str) -> None:
    """
    Forged, with a right checksum: it does not keep the other rings from being delivered.
    """
    forged = filled(tmp_path, 3)
    header = attrs.evolve(forged._header, generation=9, created_us=0, **{field: (1 << 64) - 16})
    for slot in SLOTS:
        forged._map[slot : slot + HEADER_SIZE] = header.pack()
    forged.abandon()
    filled(tmp_path, 5).abandon()
    refused: list[RingError] = []
    (orphan,) = orphans(tmp_path, LABEL, on_refused=refused.append)
    assert take_all(orphan) == expected(1, 5)
    orphan.abandon()
    (error,) = refused
    assert isinstance(error, RingCorrupt)
    assert f"{field} is 18446744073709551600" in str(error)
    assert forged.path.with_name(f"{forged.path.name}.corrupt").exists()


def test_a_file_cut_short_is_set_aside_unread(tmp_path: Path) -> None:
    """
    A mapping behind the end of the file would kill the process, so it is never made.
    """
    ring = filled(tmp_path, 2)
    ring.abandon()
    os.truncate(ring.path, 9000)
    with pytest.raises(RingCorrupt, match="9000 bytes long"):
        adopt(tmp_path)
    assert not ring.path.exists()


@pytest.mark.parametrize("at", [8, 12], ids=["version", "features"])
def test_an_unknown_format_is_refused_untouched(tmp_path: Path, at: int) -> None:
    """
    A newer version's file, or one with a feature we do not know, stays byte for byte as it was.
    """
    ring = filled(tmp_path, 2)
    ring.abandon()
    content = bytearray(ring.path.read_bytes())
    for slot in SLOTS:
        content[slot + at] = 9
        # A version to come may have its checksum elsewhere; nobody may rely on ours.
    ring.path.write_bytes(content)
    with pytest.raises(RingVersionUnsupported, match="knows version 1"):
        adopt(tmp_path)
    assert ring.path.read_bytes() == content
    (report,) = inspect(tmp_path)
    assert report.state is RingState.UNSUPPORTED


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    """
    A symbolic link, a pipe or a directory named like a ring is reported and left alone.
    """
    directory = tmp_path / "rings"
    directory.mkdir(mode=0o700)
    precious = filled(tmp_path, 2)
    precious.abandon()
    (directory / "a.ring").symlink_to(precious.path)
    os.mkfifo(directory / "b.ring")
    (directory / "c.ring").mkdir()
    (directory / "d.ring.0.new").symlink_to(precious.path)
    refused: list[RingError] = []
    before = descriptors()
    assert list(orphans(directory, LABEL, on_refused=refused.append)) == []
    assert len(refused) == 3
    assert [report.state for report in inspect(directory)] == [RingState.DAMAGED] * 3
    assert len(list(directory.iterdir())) == 4
    assert precious.path.exists()
    assert descriptors() == before


def adopt_at_once(directory: Path, start, results) -> None:
    start.wait()
    for orphan in orphans(directory, LABEL):
        entries = take_all(orphan)
        orphan.release(entries[-1][0])
        orphan.close()
        results.put(len(entries))
    results.put(None)


def race(directory: Path, processes: int) -> list[int]:
    context = get_context("fork")
    start, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=adopt_at_once, args=(directory, start, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    delivered, ended = [], 0
    while ended < processes:
        count = results.get(timeout=60)
        if count is None:
            ended += 1
        else:
            delivered.append(count)
    for worker in workers:
        worker.join()
    assert {worker.exitcode for worker in workers} == {0}
    return delivered


def test_a_file_delivered_meanwhile_is_not_delivered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Another process finished between our open and our lock: the lock is ours, but the file has no name any more.
    """
    ring = filled(tmp_path, 3)
    ring.abandon()
    real_lock = _ring_disk.lock

    def lock_too_late(fd: int, path: Path) -> None:
        path.unlink()
        real_lock(fd, path)

    monkeypatch.setattr(_ring_disk, "lock", lock_too_late)
    before = descriptors()
    assert list(orphans(tmp_path, LABEL)) == []
    assert descriptors() == before


@pytest.mark.untraced
@pytest.mark.parametrize("_round", range(5))
def test_one_of_many_processes_gets_the_orphan(tmp_path: Path, _round: int) -> None:
    """
    Eight processes that start at once deliver each orphan exactly once, and none of them fails.
    """
    filled(tmp_path, 12).abandon()
    filled(tmp_path, 5).abandon()
    assert sorted(race(tmp_path, 8)) == [5, 12]
    assert not list(tmp_path.iterdir())


@pytest.mark.torture
def test_one_of_many_processes_gets_the_orphan_always(tmp_path: Path, full: bool) -> None:
    """
    As above, 20 times, or 200 times at full numbers.
    """
    for number in range(200 if full else 20):
        directory = tmp_path / str(number)
        filled(directory, 12).abandon()
        assert race(directory, 8) == [12]


def test_a_million_entries_need_memory_for_one_batch(tmp_path: Path) -> None:
    """
    Recovery reads on demand; 1,000,000 entries pass through some hundred kilobytes. (20,000 here: it is linear.)
    """
    ring = make(tmp_path, 2 << 20)
    for seq in range(1, 20_001):
        assert ring.put(seq, b'{"n":%d}' % seq)
    ring.abandon()
    orphan = adopt(tmp_path)
    tracemalloc.start()
    seen = 0
    while batch := orphan.take(512, 1 << 20):
        assert batch[0][0] == seen + 1
        seen = batch[-1][0]
        orphan.release(seen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 20_000
    assert peak < 512 * 1024
    orphan.close()


def test_inspect_neither_locks_nor_writes(tmp_path: Path) -> None:
    """
    A living ring is reported with its figures while its owner goes on, and not one byte or time changes.
    """
    ring = filled(tmp_path, 6)
    ring.take(2, 1 << 20)
    ring.release(2)
    before = (ring.path.read_bytes(), ring.path.stat().st_mtime_ns)
    (report,) = inspect(tmp_path)
    assert (report.state, report.alive, report.owner_pid) == (RingState.LIVE, True, os.getpid())
    assert (report.entries, report.first_seq, report.last_seq) == (4, 3, 6)
    assert report.bytes == sum(len(payload) for _, payload in expected(3, 6))
    assert report.oldest_payload == payload_of(3)
    assert (report.label, report.buffer_id, report.damage) == (LABEL, ring.buffer_id, None)
    assert (ring.path.read_bytes(), ring.path.stat().st_mtime_ns) == before
    ring.abandon()
    (report,) = inspect(tmp_path)
    assert (report.state, report.alive) == (RingState.ORPHAN, False)


def test_inspect_is_not_fooled_by_a_reused_process_id(tmp_path: Path) -> None:
    """
    The process named in the header lives (it is this one), but owns nothing: the ring is an orphan.
    """
    filled(tmp_path, 1).abandon()
    (report,) = inspect(tmp_path)
    assert report.owner_pid == os.getpid()
    assert not report.alive


def test_inspect_takes_no_lock_even_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It asks the kernel who holds the file; flock is never called.
    """
    import fcntl

    filled(tmp_path, 1).abandon()

    def refuse(*_args: object) -> None:
        raise AssertionError("a lock was taken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert [report.entries for report in inspect(tmp_path)] == [1]


def test_inspect_reports_damage_and_what_was_set_aside(tmp_path: Path) -> None:
    """
    An operator sees what recovery will say, and later why a file lies there.
    """
    ring = filled(tmp_path, 9)
    ring.abandon()
    damage(ring.path, payload_of(5))
    (report,) = inspect(tmp_path)
    assert report.state is RingState.DAMAGED
    assert report.entries == 4
    assert report.damage is not None
    adopt(tmp_path).set_aside("found by the test")
    (report,) = inspect(tmp_path)
    assert report.state is RingState.SET_ASIDE
    assert report.entries == 4


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /dev/shm rw - tmpfs tmpfs rw
24 22 0:6 / /srv/my\\040data rw shared:1 - btrfs /dev/vdb rw
25 22 0:7 / /home rw - nfs4 server:/home rw
26 22 0:8 / /home rw - xfs /dev/vdc rw
27 22 0:9 / /pool rw - fuse.zfs pool rw
"""


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/var/lib/app", None),
        ("/dev/shm/rings", "memory"),
        ("/srv/my data/rings", "copies on write"),
        ("/home/app", None),
        ("/pool/rings", "copies on write"),
    ],
)
def test_a_poor_place_is_named(tmp_path: Path, path: str, word: str | None) -> None:
    """
    The innermost and latest mount decides; a good or unknown file system says nothing.
    """
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    sentence = unsuited_filesystem(Path(path), mountinfo)
    assert sentence is None if word is None else word in str(sentence)


def test_a_system_without_mountinfo_says_nothing(tmp_path: Path) -> None:
    """
    Not knowing is no warning.
    """
    assert unsuited_filesystem(tmp_path, tmp_path / "missing") is None
