"""
The life of a buffer's moving parts: opened, drained at the end of the process, begun anew in a forked child.

Guarantees:
    * The exit hook runs after the application's own hooks (`_exit`).
    * It starts nothing: it lets the writer's thread finish, and writes on the thread that runs it where there is none. It
      takes at most `exit_timeout` seconds per buffer. What is left is said on standard error, kept or lost.
    * In a child that multiprocessing forked, where no exit hook runs, its finalizers do the same, after its threads.
    * A buffer that was forgotten is drained all the same: its engine room is held here, not the buffer.
"""

from __future__ import annotations

import sys
import threading
import traceback
from threading import Thread

from audit_buffer import _fork, _signals, instrumentation
from audit_buffer._adoption import Adoption
from audit_buffer._channel import Channel
from audit_buffer._durability import Place, UnopenedRing
from audit_buffer._exit import at_exit
from audit_buffer._ring import Ring
from audit_buffer._ring_file import RingFile
from audit_buffer._state import Attention, State
from audit_buffer._syncer import Syncer
from audit_buffer._timing import Clock, Deadline
from audit_buffer._writer import Writer
from audit_buffer.config import BufferConfig
from audit_buffer.errors import RingError
from audit_buffer.sinks._protocol import Sink


__all__ = ["EngineRoom"]

# Seconds that a fork waits for a thread inside the sink. If it stays longer, the child inherits what it holds.
_FORK_PATIENCE = 0.5

# Engine rooms with something to drain, in the order they were opened. dict operations are atomic.
_open: dict[int, EngineRoom] = {}


class EngineRoom:
    """
    Channel, writer and syncer of one buffer.

    Raises:
        ConfigError: The ring file cannot be made, or a signal cannot be handled.
    """

    def __init__(self, place: Place, config: BufferConfig, sink: Sink, clock: Clock) -> None:
        self.place = place
        self.config = place.bounds(config)
        self.sink = sink
        self.clock = clock
        ring = place.open_ring()
        try:
            _signals.handle(config.handle_signals)
        except BaseException:
            ring.close()
            raise
        adoption = self._adoption(ring)
        self.channel = Channel(ring, self.config, clock, self._on_attention, adopting=adoption is not None)
        self.writer = Writer(self.channel, sink, clock, adoption)
        self.syncer = Syncer(self.channel, clock)
        _open[id(self)] = self
        _fork.watch(self)
        if adoption is not None:
            self.writer.ensure_running()

    def _adoption(self, own: Ring) -> Adoption | None:
        """
        Return what delivers the orphans, or None where there cannot be any.
        """
        if not (self.config.adopt_orphans and self.place.may_have_orphans(own)):
            return None
        return Adoption(self.place.orphans(self._ring_refused), self.sink, self.config, self._ring_refused)

    def _on_attention(self, attention: Attention) -> None:
        if Attention.START_WRITER in attention:
            self.writer.ensure_running()
            if self.place.level == "periodic":
                self.syncer.ensure_running()
        if Attention.NEARLY_FULL in attention:
            now = self.channel.snapshot()
            instrumentation.emit(
                instrumentation.RingNearlyFull(
                    buffer_id=self.channel.ring.buffer_id,
                    pending=now.pending,
                    pending_bytes=now.pending_bytes,
                    last_error=None if now.last_error is None else repr(now.last_error),
                )
            )

    def _ring_refused(self, error: RingError) -> None:
        self.writer.ring_refused(error)

    def closed(self) -> None:
        """
        Forget the parts, which have ended.
        """
        self.writer.worker.join(None)
        self.syncer.worker.join(None)
        if _open.pop(id(self), None) is not None:
            _signals.release(self.config.handle_signals)
            instrumentation.emit(
                instrumentation.BufferClosedEvent(
                    buffer_id=self.channel.ring.buffer_id, committed=self.channel.snapshot().committed
                )
            )

    def drain_at_exit(self) -> None:
        """
        Write what is left until `exit_timeout` has passed, or somebody insists (Ctrl-C), and say what remains.
        """
        try:
            self._drain(Deadline(self.clock, self.config.exit_timeout))
        finally:
            self.say_what_is_left()

    def _drain(self, deadline: Deadline) -> None:
        channel = self.channel
        self.writer.leave_orphans()
        channel.begin_close()
        # The writer's own thread first, where there is one: a database that hangs then hangs that, and not the exit.
        self.writer.worker.join(deadline.remaining())
        self.writer.drain(deadline)
        if channel.state is State.CLOSING and self.place.level in ("periodic", "sync"):
            self.syncer.sync(None, timeout=self.config.exit_timeout)

    def say_what_is_left(self) -> None:
        """
        Say on standard error how many entries are not written, kept or lost.
        """
        channel = self.channel
        now = channel.snapshot()
        if not now.pending or now.state is State.CLOSED:
            return
        kept = channel.ring.survives_exit
        instrumentation.emit(
            instrumentation.EntriesLeft(
                buffer_id=channel.ring.buffer_id,
                entries=now.pending,
                lost=not kept,
                last_error=repr(now.last_error),
            )
        )
        fate = "are kept in the ring file for the next start" if kept else "are lost"
        sys.stderr.write(
            f"audit_buffer: {now.pending} entries {fate}; the writer last met {now.last_error!r}\n"
        )

    def hold_still(self) -> bool:
        """
        Before a fork: keep the writer out of the sink, and have the sink let go of what no child may inherit.
        """
        if not self.writer.hold_still(_FORK_PATIENCE):
            return False
        before_fork = getattr(self.sink, "before_fork", None)
        try:
            if before_fork is not None:
                before_fork()
        except BaseException:
            self.writer.go_on()
            raise
        return True

    def go_on(self) -> None:
        """
        After a fork, in the parent.
        """
        self.writer.go_on()

    def begin_anew(self) -> None:
        """
        In a forked child: an empty ring under a new buffer_id, new locks, no threads, no connection of the parent's.
        """
        ring, open_before = self.channel.ring, self.channel.state is State.OPEN
        if isinstance(ring, RingFile):
            ring.abandon()
        self.writer.abandon_orphans()
        after_fork = getattr(self.sink, "after_fork", None)
        if after_fork is not None:
            after_fork()
        unopened = UnopenedRing(self.place.open_ring, self._set_ring)
        # A server that was forked from a loaded application has no other process that would adopt what a killed worker left.
        adoption = self._adoption(unopened) if open_before else None
        self.channel.__init__(  # type: ignore[misc]
            unopened, self.config, self.clock, self._on_attention, adopting=adoption is not None
        )
        self.writer.__init__(self.channel, self.sink, self.clock, adoption)  # type: ignore[misc]
        self.syncer.__init__(self.channel, self.clock)  # type: ignore[misc]
        if not open_before:
            self.channel.begin_close()

    def _set_ring(self, ring: object) -> None:
        self.channel.ring = ring  # type: ignore[assignment]


def _drain_all() -> None:
    _fork.notice()
    _signals.ignore_from_now_on()
    rooms = list(_open.values())
    try:
        while rooms:
            _drain(rooms.pop(0))
    finally:
        # Empty, unless somebody insisted: then nothing is waited for, but said.
        for room in rooms:
            room.say_what_is_left()


def _drain(room: EngineRoom) -> None:
    try:
        room.drain_at_exit()
    except Exception:
        # One that cannot be drained must not keep the others from it.
        traceback.print_exc()
    finally:
        _open.pop(id(room), None)


def _drain_in_child() -> None:
    """
    As `_drain_all()`, in a child of multiprocessing, whose finalizers run before its threads are waited for.

    They may record until their end. So one more thread, waited for like them, outlives them. (To join them here would be for
    ever: those of an executor are told to end after this.)
    """
    if _other_threads():
        Thread(target=_drain_behind_threads, name="audit-drain").start()
    else:
        _drain_all()


def _drain_behind_threads() -> None:
    while others := _other_threads():
        others[0].join()
    _drain_all()


def _other_threads() -> list[Thread]:
    mine = (threading.current_thread(), threading.main_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in mine]


at_exit(_drain_all)
_fork.in_multiprocessing_child(_drain_in_child)
