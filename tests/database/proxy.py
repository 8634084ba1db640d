"""
A TCP proxy between a buffer and a server that knows a COMMIT when it sees one, and misbehaves on request.

`PostgresWire` and `MySQLWire` split what a client sends into the messages of its protocol, so that a COMMIT inside an
entry is not taken for one; the connection must not be encrypted.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Literal, Protocol


__all__ = ["Cut", "MySQLWire", "PostgresWire", "Proxy"]

# Of the COMMIT: not forwarded; forwarded, and the connection cut at once; forwarded, and cut once the answer is there; or the
# proxy becomes a black hole, and this COMMIT is the first thing that it swallows.
Cut = Literal["before", "after", "answer", "swallow"]


class Wire(Protocol):
    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """
        Return the messages that *data* completes, each with whether it is (the last one of) a COMMIT.
        """
        ...


class PostgresWire:
    """
    Type (from the second phase on), length with itself, content; see "Message Formats" in the PostgreSQL documentation.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._typed = False
        self._parsed_commit = False

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        self._rest += data
        found = []
        while len(self._rest) >= (start := 5 if self._typed else 4):
            size = start - 4 + int.from_bytes(self._rest[start - 4 : start])
            if len(self._rest) < size:
                break
            message, self._rest = self._rest[:size], self._rest[size:]
            found.append((message, self._typed and self._is_commit(message)))
            # A version 3.x; before it there may be requests for encryption.
            self._typed = self._typed or message[4:6] == b"\0\3"
        return found

    def _is_commit(self, message: bytes) -> bool:
        if message[:1] == b"P":
            self._parsed_commit = message[5:].split(b"\0")[1] == b"COMMIT"
        # The extended protocol executes with Sync.
        return (
            message[5:] == b"COMMIT\0" if message[:1] == b"Q" else self._parsed_commit and message[:1] == b"S"
        )


class MySQLWire:
    """
    Length, number, content; a query is command 3. See "Client/Server Protocol" in the MariaDB documentation.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        self._rest += data
        found = []
        while len(self._rest) >= 4:
            size = 4 + int.from_bytes(self._rest[:3], "little")
            if len(self._rest) < size:
                break
            message, self._rest = self._rest[:size], self._rest[size:]
            found.append((message, message[4:] == b"\3COMMIT"))
        return found


class Pair:
    """
    One client and its connection to the server.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.is_black = False
        self.due: Cut | None = None

    def cut(self) -> None:
        for end in (self.client, self.server):
            # shutdown() first: close() alone wakes nobody who waits in recv(), and tells the other end nothing.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """
    Listens on *port* and forwards to *server* until `close()`.
    """

    def __init__(self, server: tuple[str, int], wire: Callable[[], Wire]) -> None:
        self._server = server
        self._wire = wire
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self._on_cut: Callable[[], None] = lambda: None
        self._has_cut = Event()
        self._lock = Lock()  # guards what follows
        self._next: Cut | None = None
        self._is_black = False
        self._pairs: set[Pair] = set()
        self._open = Event()
        self._open.set()
        self._ended = Event()
        self._threads = [Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_next_commit(self, cut: Cut | None, on_cut: Callable[[], None] = lambda: None) -> None:
        """
        Do *cut* with the next COMMIT, once *on_cut* has returned ("answer": when the answer is there).
        """
        with self._lock:
            self._next = cut
            self._on_cut = on_cut
        self._has_cut.clear()

    def wait_for_cut(self) -> None:
        assert self._has_cut.wait(60)

    def cut_all(self) -> None:
        with self._lock:
            for pair in self._pairs:
                pair.cut()

    def hold(self) -> None:
        """
        Delay everything until `go_on()`.
        """
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def swallow(self) -> None:
        """
        Be a black hole, also for new connections, until `heal()`; neither end of those there are now ever hears of it.
        """
        with self._lock:
            self._is_black = True
            for pair in self._pairs:
                pair.is_black = True

    def heal(self) -> None:
        with self._lock:
            self._is_black = False

    def close(self) -> None:
        self._ended.set()
        self._open.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._server)
            except OSError:
                return
            with server:
                pair = Pair(client, server)
                with self._lock:
                    pair.is_black = self._is_black
                    self._pairs.add(pair)
                    if self._ended.is_set():
                        # close() has cut all that it knew of, and waits for this thread.
                        pair.cut()
                back = Thread(target=self._answers, args=(pair,), daemon=True)
                back.start()
                self._requests(pair)
                back.join()
                with self._lock:
                    self._pairs.discard(pair)

    def _requests(self, pair: Pair) -> None:
        wire = self._wire()
        with contextlib.suppress(OSError):
            while data := pair.client.recv(65536):
                for message, is_commit in wire.feed(data):
                    cut = self._due(pair) if is_commit else None
                    if cut == "before" or not self._forward(pair, pair.server, message) or cut == "after":
                        return pair.cut()
        if pair.is_black:
            self._ended.wait()
        return pair.cut()

    def _answers(self, pair: Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.server.recv(65536):
                if pair.due == "answer":
                    self._tell()
                # An answer that overtakes the cut would turn "after" into no cut at all.
                if pair.due in ("after", "answer") or not self._forward(pair, pair.client, data):
                    break
        if pair.is_black:
            self._ended.wait()
        pair.cut()

    def _due(self, pair: Pair) -> Cut | None:
        with self._lock:
            cut, self._next = self._next, None
            self.cuts += cut is not None
            pair.due = cut
        if cut == "swallow":
            self.swallow()
        if cut is not None and cut != "answer":
            self._tell()
        return cut

    def _tell(self) -> None:
        self._on_cut()
        self._has_cut.set()

    def _forward(self, pair: Pair, to: socket.socket, data: bytes) -> bool:
        self._open.wait()
        if not pair.is_black:
            to.sendall(data)
        return not self._ended.is_set()
