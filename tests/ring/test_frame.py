"""
A record's bytes are the same, and are read the same, in C and in Python.
"""

from __future__ import annotations

import sys
from mmap import mmap
from unittest.mock import patch
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit_buffer import _frame
from audit_buffer._frame import (
    ENTRY,
    HEADER_BYTES,
    PAD,
    Layout,
    read_entries,
    scan,
    seal,
    store_payload,
    store_payload_in_python,
)
from tests.compiled import in_c


# The first record does not lie at the start of the file.
LAYOUT = Layout(ring_id=UUID(int=7), start=48, capacity=512)
SIZES = st.one_of(st.integers(0, 80), st.sampled_from([15, 16, 17, 31, 32, 33, 230, 300]))


@in_c
@given(
    payload=st.binary(max_size=2000),
    seq=st.integers(1, 2**64 - 1),
    seed=st.integers(0, 2**32 - 1),
    before=st.binary(min_size=16, max_size=16),
)
@example(payload=b"", seq=1, seed=0, before=bytes(16))
def test_a_payload_is_stored_alike(payload: bytes, seq: int, seed: int, before: bytes) -> None:
    """
    Payload, zeroed place of the next header, and the header that is returned, whose checksum is zlib's.
    """
    found = []
    for store in (store_payload, store_payload_in_python):
        mapping = mmap(-1, 4096)
        mapping[:] = before * 256
        header = store(mapping, 32, 2064, seq, bytearray(payload), seed)
        found.append((header, mapping[:]))
    assert found[0] == found[1]
    assert found[0][0] == seal(seed, seq, ENTRY, payload, len(payload))


@in_c
@pytest.mark.parametrize(
    ("at", "next_at"), [(-16, 64), (64, -16), (4096, 64), (4080, 64), (64, 4096), (1 << 62, 64)]
)
def test_nothing_is_stored_outside_of_the_mapping(at: int, next_at: int) -> None:
    """
    It is a ValueError that names the places, and nothing is changed.
    """
    mapping = mmap(-1, 4096)
    with pytest.raises(ValueError, match=f"lies at {at}, in front of {next_at}"):
        store_payload(mapping, at, next_at, 1, b"x", 0)
    assert not any(mapping[:])


@in_c
def test_what_is_called_in_another_way_is_refused() -> None:
    """
    Whoever calls it wrongly gets the error that Python raises, and no crash.
    """
    mapping = mmap(-1, 4096)
    for arguments in [
        (),
        (mapping, 0, 32, "1", b"", 0),
        (bytes(64), 0, 32, 1, b"", 0),
        (mapping, 0, 32, 1, "", 0),
    ]:
        with pytest.raises((TypeError, BufferError)):
            store_payload(*arguments)
    for arguments in [
        (),
        (mapping, (0, 0), 0, 0, 64, 1, 1, [], []),
        (mapping, (0, 0, 9), 0, 0, 64, 1, 1, [], ()),
    ]:
        with pytest.raises(TypeError):
            _frame.read_lap(*arguments)
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        store_payload(mapping, 0, 32, 1, b"", 0)
    with pytest.raises(ValueError, match="closed"):
        _frame.read_lap(mapping, (0, 0, 64), 0, 0, 64, 1, 1, [], [])


def image_of(sizes: list[int], first: int) -> tuple[bytes, int]:
    """
    Return a file with records of so many bytes, one behind the other from the second lap on, and where they end.
    """
    image = bytearray(LAYOUT.start + LAYOUT.capacity)
    position, stop = first, first + LAYOUT.capacity
    for seq, size in enumerate(sizes, 1):
        lap_end, need = LAYOUT.lap_end(position), size + 31 & -16
        if need > lap_end - position:
            at = LAYOUT.offset(position)
            image[at : at + HEADER_BYTES] = seal(
                LAYOUT.seed(position), 0, PAD, b"", lap_end - position - HEADER_BYTES
            )
            position = lap_end
        if position + need > stop:
            break
        at = LAYOUT.offset(position)
        payload = bytes([seq % 256]) * size
        image[at : at + HEADER_BYTES] = seal(LAYOUT.seed(position), seq, ENTRY, payload, size)
        image[at + HEADER_BYTES : at + HEADER_BYTES + size] = payload
        position += need
    return bytes(image), position


@given(
    sizes=st.lists(SIZES, max_size=20),
    first=st.integers(0, 31).map(lambda lap: LAYOUT.capacity + 16 * lap),
    flips=st.lists(st.tuples(st.integers(0, 559), st.integers(1, 255)), max_size=2),
    after=st.integers(0, 3),
    max_entries=st.integers(1, 8),
    max_bytes=st.integers(0, 400),
    short=st.integers(0, 200),
)
def test_entries_are_read_alike(
    sizes: list[int],
    first: int,
    flips: list[tuple[int, int]],
    after: int,
    max_entries: int,
    max_bytes: int,
    short: int,
) -> None:
    """
    Over two laps, damaged or not, and within both bounds: what `scan()` finds, neither more nor less.
    """
    image, end = image_of(sizes, first)
    damaged = bytearray(image)
    for at, bits in flips:
        damaged[at] ^= bits
    stop = end - short
    arguments = (bytes(damaged), LAYOUT, first, after, stop, max_entries, max_bytes)
    run = read_entries(*arguments)
    with patch.object(_frame, "read_lap", _frame.read_lap_in_python):
        assert read_entries(*arguments) == run

    frames = list(scan(bytes(damaged), LAYOUT, first, after, stop))
    entries = [(seq, payload) for seq, payload, _ in frames if payload is not None]
    places = [(seq, position) for seq, payload, position in frames if payload is not None]
    assert run.entries == entries[: len(run.entries)]
    assert run.places == places[: len(run.entries)]
    assert len(run.entries) <= max_entries
    assert sum(len(payload) for _, payload in run.entries[1:]) <= max_bytes
    if not run.is_full:
        assert run.entries == entries
        assert run.position == (frames[-1][2] if frames else first)
    elif len(run.entries) < max_entries:
        assert sum(len(payload) for _, payload in entries[: len(run.entries) + 1]) > max_bytes
    assert run.entries or not entries


@pytest.mark.parametrize("bound", [sys.maxsize, 1 << 63, 1 << 80])
def test_a_bound_may_be_larger_than_what_a_machine_counts(bound: int) -> None:
    """
    As in a configuration that wants none.
    """
    image, end = image_of([10, 20], LAYOUT.capacity)
    run = read_entries(image, LAYOUT, LAYOUT.capacity, 0, end, bound, bound)
    assert [seq for seq, _ in run.entries] == [1, 2]


@in_c
@pytest.mark.parametrize("number", [(1 << 63) - 1, -(1 << 63), 1 << 62])
@pytest.mark.parametrize("which", ["shift", "end", "position", "stop"])
def test_no_position_is_so_far_that_it_leads_out_of_the_buffer(number: int, which: str) -> None:
    """
    Not even in a forged ring: the sum of such a position and a length would be negative.
    """
    given = {"shift": 0, "end": 64, "position": 0, "stop": 64, which: number}
    lap = (given["shift"], 0, given["end"])
    with pytest.raises(ValueError, match="no ring has a place"):
        _frame.read_lap(bytes(64), lap, given["position"], 0, given["stop"], 1, 1, [], [])
