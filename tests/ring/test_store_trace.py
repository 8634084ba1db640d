"""
Every order in which stores can reach the disk leaves an intact prefix (HAZARDS 15 and 16).

A recording double in place of the mapping notes each store. From the record follows every image that can be found
afterwards: after a kill, the stores up to some point, the last one perhaps in part; after a power cut, for each
512-byte sector that was stored to since the last sync, any one of its states since then.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_buffer import _ring_disk
from audit_buffer._ring_file import RingFile
from tests.ring.rings import ANOTHER_BOOT, LABEL, find, make, without_c


SECTOR = 512


class Recording:
    """
    Stands in for the mapping: a bytearray that remembers its stores since the last sync.
    """

    def __init__(self, image: bytes) -> None:
        self.memory = bytearray(image)
        self.synced = bytes(image)
        # Stores since the start: (offset, bytes). Sector number -> its states since the last sync, the synced first.
        self.stores: list[tuple[int, bytes]] = []
        self.states: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, key):
        found = self.memory[key]
        return bytes(found) if isinstance(found, bytearray) else found

    def __setitem__(self, key: slice, value: bytes) -> None:
        assert key.stop - key.start == len(value), "a store never changes the size"
        self.stores.append((key.start, value))
        touched = range(key.start // SECTOR, (key.stop - 1) // SECTOR + 1)
        for sector in touched:
            self.states.setdefault(sector, [self._sector(sector)])
        self.memory[key] = value
        for sector in touched:
            self.states[sector].append(self._sector(sector))

    def madvise(self, *_: int) -> None:
        """
        Nothing is stored by that.
        """

    def _sector(self, number: int) -> bytes:
        return bytes(self.memory[number * SECTOR : (number + 1) * SECTOR])

    def sync(self) -> None:
        self.synced = bytes(self.memory)
        self.states.clear()

    def after_power_cut(self, chance: random.Random) -> bytes:
        image = bytearray(self.synced)
        for sector, states in self.states.items():
            image[sector * SECTOR : (sector + 1) * SECTOR] = chance.choice(states)
        return bytes(image)

    def close(self) -> None:
        """
        The double maps nothing.
        """


class Trial:
    """
    A ring over a recording, and what was promised about its entries.
    """

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, chance: random.Random, capacity: int
    ):
        self.chance = chance
        without_c(monkeypatch)
        self.ring: RingFile = make(directory, 8192 + capacity)
        self.disk = Recording(self.ring._map[:])
        self.ring._map.close()
        self.ring._map = self.disk  # type: ignore[assignment]
        monkeypatch.setattr(_ring_disk, "sync_data", lambda _fd: self.disk.sync())
        self.put: dict[int, bytes] = {}
        self.seq = self.released = self.synced = 0

    def step(self, *, syncing: bool) -> None:
        """
        Do one thing an application would do.
        """
        ring, chance = self.ring, self.chance
        action = chance.random()
        if action < 0.7:
            seq = self.seq + chance.choice((1, 1, 1, 3))
            payload = chance.randbytes(chance.randrange(180))
            if ring.put(seq, payload):
                self.seq = seq
                self.put[seq] = payload
                return
            if syncing and ring.room_awaits_sync:
                self.sync()
        if action < 0.9 or not syncing:
            batch = ring.take(chance.randrange(1, 5), 500)
            if batch:
                self.released = batch[-1][0]
                ring.release(self.released)
        else:
            self.sync()

    def sync(self) -> None:
        self.ring.sync()
        self.synced = self.seq
        # Nothing older can ever be offered again; keeps the trial linear.
        keep = self.ring._committed[0] - 400
        self.put = {seq: payload for seq, payload in self.put.items() if seq > keep}

    def check_killed(self, image: bytes, in_flight: int = 0) -> None:
        """
        After a kill everything that was put is there, and what was in flight is there or not.
        """
        found = find(image)
        assert (found.damage, found.torn) == (None, None)
        self._check(found.header.committed_seq, found.entries)
        last = found.entries[-1][0] if found.entries else found.header.committed_seq
        assert last in {self.seq, in_flight or self.seq}

    def check_cut(self, image: bytes) -> None:
        """
        After a power cut a true prefix is there, and all that was synced.
        """
        found = find(image, boot=ANOTHER_BOOT)
        assert found.damage is None
        self._check(found.header.committed_seq, found.entries)
        last = found.entries[-1][0] if found.entries else found.header.committed_seq
        assert last >= self.synced

    def _check(self, committed: int, entries: list[tuple[int, bytes]]) -> None:
        assert committed <= self.released
        run = [seq for seq in self.put if seq > committed]
        assert [seq for seq, _ in entries] == sorted(run)[: len(entries)]
        assert all(self.put[seq] == payload for seq, payload in entries)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    drawn = random.SystemRandom().randrange(1 << 32)
    print(f"seed {drawn}")
    return drawn


def cuts(trial: Trial, count: int, *, syncing: bool) -> Iterator[int]:
    """
    Let the application run, and cut the power some times after every step.
    """
    done = 0
    while done < count:
        trial.step(syncing=syncing)
        for _ in range(3):
            yield done
            done += 1


@pytest.mark.parametrize("syncing", [True, False], ids=["synced", "unsynced"])
def test_any_subset_of_unsynced_sectors_is_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, syncing: bool
) -> None:
    """
    Whatever the kernel wrote back before the power went: a true prefix, and at least what was synced.
    """
    trial = Trial(tmp_path, monkeypatch, random.Random(seed), 2048)
    for _ in cuts(trial, 2_000, syncing=syncing):
        image = trial.disk.after_power_cut(trial.chance)
        if syncing:
            trial.check_cut(image)
        else:
            check_unsynced(trial, image)


def check_unsynced(trial: Trial, image: bytes) -> None:
    """
    A ring that is never synced promises only that what is found is true and in order.
    """
    found = find(image, boot=ANOTHER_BOOT)
    assert found.damage is None
    run = sorted(seq for seq in trial.put if seq > found.header.committed_seq)
    assert [seq for seq, _ in found.entries] == run[: len(found.entries)]
    assert all(trial.put[seq] == payload for seq, payload in found.entries)


@pytest.mark.torture
def test_a_hundred_thousand_subsets_are_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, full: bool
) -> None:
    """
    As above: 20,000 power cuts, 100,000 at full numbers.
    """
    trial = Trial(tmp_path, monkeypatch, random.Random(seed), 2048)
    for _ in cuts(trial, 100_000 if full else 20_000, syncing=True):
        trial.check_cut(trial.disk.after_power_cut(trial.chance))


def killed_everywhere(trial: Trial, steps: int, *, syncing: bool) -> int:
    """
    Run *steps*, and look at the image after every single store, and in the middle of each; return how many images.
    """
    images = 0
    for _ in range(steps):
        before, mark = bytearray(trial.disk.memory), len(trial.disk.stores)
        state = (trial.seq, trial.released, dict(trial.put))
        trial.step(syncing=syncing)
        after = (trial.seq, trial.released, trial.put)
        # Until the step returned, only what was promised before it is certain; what it adds may be there.
        trial.put = {**state[2], **after[2]}
        trial.seq = state[0]
        for offset, value in trial.disk.stores[mark:]:
            torn = bytearray(before)
            part = trial.chance.randrange(len(value) + 1)
            torn[offset : offset + part] = value[:part]
            before[offset : offset + len(value)] = value
            for image in (torn, before):
                trial.check_killed(bytes(image), in_flight=after[0])
                images += 1
        trial.seq, trial.released, trial.put = after
        trial.disk.stores.clear()
    return images


@pytest.mark.parametrize("syncing", [True, False], ids=["synced", "unsynced"])
def test_every_prefix_of_stores_is_a_prefix_of_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, syncing: bool
) -> None:
    """
    Killed after any store, or in the middle of it: all that was put before, nothing else, and no damage.
    """
    trial = Trial(tmp_path, monkeypatch, random.Random(seed), 2048)
    assert killed_everywhere(trial, 1_000, syncing=syncing) > 2_000


@pytest.mark.torture
def test_a_thousand_laps_never_confuse_two_laps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, full: bool
) -> None:
    """
    Killed at every store of 100 laps (1,000 at full numbers) of a ring of 1 KiB: no record of an earlier lap comes back.
    """
    trial = Trial(tmp_path, monkeypatch, random.Random(seed), 1024)
    laps = 1_000 if full else 100
    while trial.ring._end < laps * 1024:
        killed_everywhere(trial, 100, syncing=False)


def test_a_record_of_an_earlier_lap_or_another_ring_is_no_record(tmp_path: Path) -> None:
    """
    The same bytes at the same place are refused one lap later, and in another ring file.
    """
    ring = RingFile.create(tmp_path, label=LABEL, size=8192 + 1024)
    ring.put(1, bytes(240))
    stale = ring._map[8192 : 8192 + 256]
    ring.take(1, 1)
    ring.release(1)
    for seq in range(2, 5):
        ring.put(seq, bytes(240))
        ring.take(1, 1)
        ring.release(seq)
    image = bytearray(ring._map[:])
    assert find(bytes(image)).header.committed_position == 1024
    image[8192 : 8192 + 256] = stale
    assert find(bytes(image)).entries == []
    other = RingFile.create(tmp_path, label=LABEL, size=8192 + 1024)
    image = bytearray(other._map[:])
    image[8192 : 8192 + 256] = stale
    assert find(bytes(image)).entries == []
    ring.close()
    other.close()
