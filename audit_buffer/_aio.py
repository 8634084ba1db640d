"""
Waiting for the channel in an event loop: nothing here blocks it, and no thread is taken from its executor (but for an
fdatasync at "sync", which has to run somewhere).

Imported only where a loop runs, because asyncio takes its time to be imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from audit_buffer._admission import Admission
from audit_buffer._channel import Channel
from audit_buffer._state import State
from audit_buffer._syncer import Syncer
from audit_buffer._timing import Clock, Deadline
from audit_buffer.errors import SinkError


__all__ = ["admit", "sync", "wait_closed", "wait_committed", "wait_until"]


async def admit(channel: Channel, admission: Admission, clock: Clock, payload: bytes) -> int:
    """
    Apply the policy to an entry that found no room, as `Admission.admit()` does, and return its seq.

    Raises:
        BufferFull: The policy made no room.
        BufferClosed: The buffer is not open.
        SinkError: The policy is "write_through" and the database refused.
    """
    seq = 0
    if channel.state is State.OPEN and channel.could_hold(len(payload)):
        if channel.config.on_full == "block":
            seq = await _block(channel, admission, clock, payload)
        elif channel.config.on_full == "write_through":
            seq = await _write_through(channel, admission, clock, payload)
    return seq or admission.admit(payload)


async def _publish(channel: Channel, admission: Admission, payload: bytes) -> int:
    seq = channel.publish(payload)
    if not seq and channel.room_awaits_sync():
        seq = await asyncio.to_thread(admission.publish_after_sync, payload)
    return seq


async def _block(channel: Channel, admission: Admission, clock: Clock, payload: bytes) -> int:
    deadline, now = Deadline(clock, channel.config.block_timeout), Deadline(clock, 0.0)
    while await wait_until(channel, lambda: channel.wait_for_room(len(payload), now), deadline):
        seq = await _publish(channel, admission, payload)
        if seq:
            return seq
        if channel.state is not State.OPEN:
            break
    raise channel.refusal("the ring stayed full for block_timeout")


async def _write_through(channel: Channel, admission: Admission, clock: Clock, payload: bytes) -> int:
    """
    As `Admission` does.
    """
    never = Deadline(clock, None)
    while not (seq := await _publish(channel, admission, payload)):
        if channel.state is not State.OPEN:
            raise channel.refusal("")
        _, failures = channel.request_flush()
        await wait_until(channel, partial(channel.check_written_room, len(payload), failures), never)
    try:
        await _wait_committed(channel, seq, never, orphans=False)
    except SinkError:
        return seq  # it has its place, and is kept; raising would have the caller record it twice
    return seq


async def sync(syncer: Syncer, seq: int) -> None:
    """
    Return when entry *seq* survives a power cut; raises as `Syncer.sync()` does.
    """
    await asyncio.to_thread(syncer.sync, seq)


async def wait_committed(channel: Channel, deadline: Deadline) -> None:
    """
    Return when all that is published now is committed; raises as `Channel.wait_committed()` does.
    """
    await _wait_committed(channel, None, deadline)


async def _wait_committed(
    channel: Channel, seq: int | None, deadline: Deadline, *, orphans: bool = True
) -> None:
    seq, failures = channel.request_flush(seq)

    def reached() -> bool:
        return channel.check_committed(seq, failures, deadline, orphans=orphans)

    await wait_until(channel, reached, deadline)
    reached()


async def wait_closed(channel: Channel, deadline: Deadline) -> None:
    """
    Return when the writer has ended; raises as `Channel.wait_closed()` does.
    """
    await wait_until(channel, lambda: channel.check_closed(deadline), deadline)
    channel.check_closed(deadline)


async def wait_until(channel: Channel, reached: Callable[[], bool], deadline: Deadline) -> bool:
    """
    Return True once *reached* says so, False when the deadline comes first.

    Args:
        reached: Looked at now and after every progress of the channel; what it raises ends the wait.
    """
    loop = asyncio.get_running_loop()
    while not reached():
        if deadline.passed():
            return False
        progress = asyncio.Event()
        channel.add_listener(_waker(loop, progress))
        # The progress may have come between the look and the listener.
        if reached():
            return True
        try:
            await asyncio.wait_for(progress.wait(), deadline.remaining())
        except TimeoutError:
            continue
    return True


def _waker(loop: asyncio.AbstractEventLoop, progress: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        try:
            loop.call_soon_threadsafe(progress.set)
        except RuntimeError:
            # The loop was closed meanwhile; nobody waits there any more.
            return

    return wake
