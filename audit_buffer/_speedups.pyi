from collections.abc import Callable
from typing import Any

def encode_usual(
    row: tuple[Any, ...], buffer: bytearray, encode_into: Callable[[Any, bytearray], None], /
) -> bool: ...
def is_json(value: Any, levels: int, /) -> bool: ...
