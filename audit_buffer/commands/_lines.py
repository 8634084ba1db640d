"""
Lines of a file or a pipe, in bounded memory and without losing any to an interruption.

Guarantees:
    * At most one chunk and one line are held; a line over the limit is read past, and is handed out as None.
    * Reading from a pipe stops within a fraction of a second after *stopped* turned true, also while nothing comes; each
      complete line that was taken from the pipe until then is handed out.

Called from one thread.
"""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO


__all__ = ["LineReader"]

_CHUNK = 64 * 1024
# Seconds between two looks at *stopped* while nothing comes.
_PATIENCE = 0.2
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineReader:
    """
    Hands out lines without their ends.

    Args:
        source: An open binary file. One with a descriptor is read through it: the file's own buffer must be empty.
        limit: Longest line in bytes.
        stopped: Asked between reads.
    """

    def __init__(self, source: BinaryIO, limit: int, stopped: Callable[[], bool]) -> None:
        self._source = source
        self._limit = limit
        self._stopped = stopped
        self._held: list[bytes] = []  # the parts of the line in hand
        self._length = 0
        self.consumed = 0  # bytes
        try:
            self._fd: int | None = source.fileno()
        except io.UnsupportedOperation:
            self._fd = None

    def size(self) -> int | None:
        """
        Return the length of a regular file in bytes, None for anything else.
        """
        if self._fd is None:
            return None
        status = os.fstat(self._fd)
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def __iter__(self) -> Iterator[bytes | None]:
        while chunk := self._read():
            if not self.consumed:
                chunk = chunk.removeprefix(_BYTE_ORDER_MARK)
            self.consumed += len(chunk)
            rest, *lines = chunk.split(b"\n")
            self._hold(rest)
            for line in lines:
                yield self._release()
                self._hold(line)
        # Half a line, if it was the interruption that ended the reading.
        if self._length and not self._stopped():
            yield self._release()

    def _hold(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= self._limit:
            self._held.append(part)
        else:
            self._held.clear()

    def _release(self) -> bytes | None:
        line = b"".join(self._held) if self._length <= self._limit else None
        self._held.clear()
        self._length = 0
        return line

    def _read(self) -> bytes:
        while not self._stopped():
            if self._fd is None:
                return self._source.read(_CHUNK)
            # Not a blocking read: Python would go on with it after a signal, until the next byte comes.
            readable, _, _ = select.select([self._fd], [], [], _PATIENCE)
            if readable:
                return os.read(self._fd, _CHUNK)
        return b""
