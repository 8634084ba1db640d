"""
Lines from files and pipes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from audit_buffer.commands._lines import LineReader


@contextmanager
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as source, os.fdopen(writing, "wb", buffering=0) as sink:
        yield source, sink


def lines(text: bytes, limit: int = 100) -> list[bytes | None]:
    return list(LineReader(io.BytesIO(text), limit, lambda: False))


def test_lines_are_what_lies_between_line_feeds():
    """
    The last line needs no end, an empty line is one, and a byte order mark is none of the text.
    """
    assert lines(b"\xef\xbb\xbfa\n\nb\r\nc") == [b"a", b"", b"b\r", b"c"]
    assert lines(b"") == []


def test_a_line_over_the_limit_is_read_past_and_counted():
    """
    A gigabyte without a line end costs no gigabyte of memory, and the lines behind it keep their numbers.
    """
    assert lines(b"a\n" + b"x" * 101 + b"\nb\n") == [b"a", None, b"b"]
    assert lines(b"x" * 500_000 + b"\nb\n") == [None, b"b"]
    assert lines(b"x" * 500_000) == [None]


def test_a_pipe_gives_each_line_as_soon_as_it_is_there():
    """
    A line that was written is handed out while the writer still has the pipe open.
    """
    with pipe() as (source, sink):
        reader = iter(LineReader(source, 100, lambda: False))
        for line in (b"one", b"two"):
            sink.write(line + b"\n")
            assert next(reader) == line


def test_stopping_hands_out_what_was_read_and_no_half_line():
    """
    Every complete line that was taken from the pipe is handed out; half a line is not taken for a line.
    """
    stopped = False
    with pipe() as (source, sink):
        sink.write(b"one\ntwo\nthr")
        reader = iter(LineReader(source, 100, lambda: stopped))
        assert next(reader) == b"one"
        stopped = True
        assert list(reader) == [b"two"]


def test_stopping_is_noticed_while_nothing_comes():
    """
    A silent pipe does not keep the program.
    """
    looks = iter([False, True])
    with pipe() as (source, _):
        assert list(LineReader(source, 100, lambda: next(looks, True))) == []


def test_only_a_regular_file_has_a_size(tmp_path):
    """
    The bar needs a length; a pipe has none.
    """
    (tmp_path / "file").write_bytes(b"12345")
    with (tmp_path / "file").open("rb") as source:
        reader = LineReader(source, 100, lambda: False)
        assert reader.size() == 5
        assert list(reader) == [b"12345"]
        assert reader.consumed == 5
    with pipe() as (source, _):
        assert LineReader(source, 100, lambda: False).size() is None
    assert LineReader(io.BytesIO(b"1"), 100, lambda: False).size() is None
