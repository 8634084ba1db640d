"""
What `record()` does when the ring has no room: the five policies of `on_full`.

Order is strict under each of them: whoever waits has no seq yet, and whoever drops uses one up, so that the gap row
stands where the entry would have stood.

Called by the recording thread, outside the channel's lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from audit_buffer._channel import Channel
from audit_buffer._ring import Payload
from audit_buffer._state import State
from audit_buffer._syncer import Syncer
from audit_buffer._timing import Clock, Deadline
from audit_buffer._writer import Writer
from audit_buffer.config import Durability
from audit_buffer.errors import SinkError


__all__ = ["Admission"]


class Admission:
    """
    Gets an entry into a channel that had no room for it.
    """

    def __init__(self, channel: Channel, writer: Writer, syncer: Syncer, clock: Clock) -> None:
        self._channel = channel
        self._writer = writer
        self._syncer = syncer
        self._clock = clock
        self._timeout = channel.config.block_timeout
        self._policy: Callable[[Payload], int] = {
            "block": self._block,
            "raise": self._raise,
            "write_through": self._write_through,
            "drop_newest": self._drop_newest,
            "drop_oldest": self._drop_oldest,
        }[channel.config.on_full]

    def publisher(self, level: Durability) -> Callable[[Payload], int]:
        """
        Return what `record()` publishes with: the channel itself, unless each entry is to be synced.
        """
        channel, syncer = self._channel, self._syncer
        if level != "sync":
            return channel.publish

        def publish_and_sync(payload: Payload) -> int:
            seq = channel.publish(payload) or self.admit(payload)
            # What interrupts the channel itself must not wait for it; the interrupted call's sync covers its entry, too.
            if not channel.is_held_here():
                syncer.sync(seq)
            return seq

        return publish_and_sync

    def admit(self, payload: Payload) -> int:
        """
        Apply the policy to one entry and return its seq.

        Raises:
            BufferFull: The policy made no room.
            BufferClosed: The buffer is not open.
            SinkError: The policy is "write_through" and the database refused.
        """
        if self._channel.state is not State.OPEN:
            raise self._channel.refusal("")
        if not self._channel.could_hold(len(payload)):
            raise self._channel.refusal(f"an entry of {len(payload)} bytes is larger than the whole ring")
        if self._writer.writes_here():
            # Recorded by what the writer itself called, a logging handler say: waiting here would be for ever.
            return self._drop_newest(payload)
        if self._channel.is_held_here():
            return self._admit_interrupting(payload)
        return self.publish_after_sync(payload) or self._policy(payload)

    def publish_after_sync(self, payload: Payload) -> int:
        """
        Publish if a sync makes room (what is released may be used again only when the disk knows that it is), or return 0.
        """
        if not self._channel.room_awaits_sync():
            return 0
        self._syncer.sync(None)
        return self._channel.publish(payload)

    def _admit_interrupting(self, payload: Payload) -> int:
        """
        Drop or refuse what a signal handler or a finalizer recorded in the middle of another call: waiting is not possible.
        """
        if self._channel.config.on_full in ("drop_newest", "drop_oldest"):
            return self._drop_newest(payload)
        raise self._channel.refusal(
            "the ring is full, and what interrupts the buffer itself cannot wait for room"
        )

    def _raise(self, payload: Payload) -> int:
        raise self._channel.refusal("the ring is full")

    def _block(self, payload: Payload) -> int:
        if _event_loop_runs():
            raise self._channel.refusal(
                "the ring is full and record() must not stall the event loop; use arecord()"
            )
        deadline = Deadline(self._clock, self._timeout)
        while self._channel.wait_for_room(len(payload), deadline):
            seq = self._channel.publish(payload) or self.publish_after_sync(payload)
            if seq:
                return seq
            if self._channel.state is not State.OPEN:
                break
        raise self._channel.refusal(f"the ring stayed full for block_timeout = {self._timeout:g} s")

    def _write_through(self, payload: Payload) -> int:
        """
        Have the writer's own thread write until the entry is committed, and return as late as the synchronous service would.

        Not on this thread: Ctrl-C in the middle of a transaction would leave the writer's lock behind. A database that refuses
        before there is room is the caller's error. Once the entry has its place it is kept and tried again like every
        other: raising then would have the caller record it twice.
        """
        if _event_loop_runs():
            raise self._channel.refusal(
                "the ring is full and record() must not stall the event loop; use arecord()"
            )
        while not (seq := self._channel.publish(payload) or self.publish_after_sync(payload)):
            if self._channel.state is not State.OPEN:
                raise self._channel.refusal("")
            self._channel.wait_for_written_room(len(payload))
        try:
            self._channel.wait_committed(seq, Deadline(self._clock, None), orphans=False)
        except SinkError:
            return seq  # said by the writer already, to on_error and in an event
        return seq

    def _drop_newest(self, payload: Payload) -> int:
        seq = self._channel.drop_newest()
        if not seq:
            raise self._channel.refusal("")
        return seq

    def _drop_oldest(self, payload: Payload) -> int:
        while self._channel.drop_oldest():
            seq = self._channel.publish(payload)
            if seq:
                return seq
        # The writer has everything in hand: what it holds may be committed already, so the new entry goes.
        return self._drop_newest(payload)


def _event_loop_runs() -> bool:
    """
    Tell whether an asyncio loop runs in this thread; costs nothing where asyncio was never imported.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
