from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Any

def encode_usual(
    row: tuple[Any, ...], buffer: bytearray, encode_into: Callable[[Any, bytearray], None], /
) -> bool: ...
def is_json(value: Any, levels: int, /) -> bool: ...
def store_payload(
    mapping: mmap, at: int, next_at: int, seq: int, payload: bytes | bytearray, seed: int, /
) -> bytes: ...
def read_lap(
    buffer: bytes | mmap,
    lap: tuple[int, int, int],
    position: int,
    after: int,
    stop: int,
    max_entries: int,
    max_bytes: int,
    entries: list[tuple[int, bytes]],
    places: list[tuple[int, int]],
    /,
) -> tuple[int, bool]: ...
def make_rows(
    identity: str,
    stored: Sequence[tuple[int, bytes]],
    decode_head: Callable[[bytes], tuple[Any, ...]],
    as_text: Callable[[int], str],
    /,
) -> list[tuple[Any, ...]]: ...
