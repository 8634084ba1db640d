"""
The buffer in an event loop: nothing blocks it.

Where something must wait for the sink, the gate of the sink is opened by the loop itself: a blocked loop would never do it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from audit_buffer import AuditBuffer, BufferClosed, BufferFull, FlushTimeout, SinkError, _aio
from tests.flow.doubles import PATIENCE, GatedSink, Hurting, full_ring_file


AWAY = ConnectionError("the database is away")


def full_buffer(sink: GatedSink, **settings: Any) -> AuditBuffer:
    """
    Return a buffer whose two places are taken, one by the batch that waits at the gate.
    """
    audit = AuditBuffer(
        sink,
        **{"queue_maxsize": 2, "batch_size": 1, "flush_interval": 0.0, "block_timeout": PATIENCE, **settings},
    )
    audit.record("in.hand")
    assert sink.entered.wait(PATIENCE)
    audit.record("waiting")
    return audit


async def passes(turns: int = 5) -> None:
    """
    Let everybody who is ready have a turn.
    """
    for _ in range(turns):
        await asyncio.sleep(0)


def test_the_whole_life_in_a_loop() -> None:
    """
    async with, arecord, aflush, aclose: all is written, in order.
    """
    sink = GatedSink()
    sink.gate.set()

    async def main() -> None:
        async with AuditBuffer(sink, flush_interval=1000) as audit:
            assert [await audit.arecord("event") for _ in range(10)] == list(range(1, 11))
            await audit.aflush()
            assert sink.seqs == list(range(1, 11))
            await audit.aflush(timeout=0)
        with pytest.raises(BufferClosed):
            await audit.arecord("late")
        await audit.aclose()

    asyncio.run(main())
    assert sink.closed == 1


@pytest.mark.parametrize("policy", ["block", "write_through"])
def test_arecord_waits_for_room_while_the_loop_goes_on(policy: str) -> None:
    """
    The loop opens the gate while arecord() waits; under write_through the entry is committed when it returns.
    """
    sink = GatedSink()
    audit = full_buffer(sink, on_full=policy)

    async def main() -> None:
        waiting = asyncio.create_task(audit.arecord("patient"))
        await passes()
        assert not waiting.done()
        sink.gate.set()
        seq = await waiting
        assert seq == 3
        if policy == "write_through":
            assert audit.stats().committed >= seq
        await audit.aclose()

    asyncio.run(main())
    assert sink.seqs == [1, 2, 3]


@pytest.mark.parametrize("policy", ["block", "write_through"])
def test_arecord_has_the_sync_made_that_makes_room(tmp_path: Path, policy: str) -> None:
    """
    What the writer gave back of a synced ring file may be used again after a sync, and nobody else asks for one.
    """
    flow = full_ring_file(tmp_path, on_full=policy, block_timeout=PATIENCE)
    full = flow.channel.snapshot().published

    async def main() -> None:
        waiting = asyncio.create_task(_aio.admit(flow.channel, flow.admission, flow.clock, bytes(100)))
        await passes()
        flow.writer.step()
        while not waiting.done():  # the sync has a thread of its own
            await passes()
            now = flow.channel.snapshot()
            if now.published > full and now.pending:
                flow.channel.request_flush()
                flow.writer.step()
        assert await waiting == full + 1

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    flow.channel.begin_close()
    flow.step_to_the_end()
    assert flow.sink.seqs == list(range(1, full + 2))


def test_many_arecords_share_a_small_ring() -> None:
    """
    Hundreds wait at once; each is stored once.
    """
    sink = GatedSink()
    audit = full_buffer(sink)

    async def main() -> None:
        waiting = [asyncio.create_task(audit.arecord("patient")) for _ in range(300)]
        await passes()
        sink.gate.set()
        seqs = await asyncio.gather(*waiting)
        assert sorted(seqs) == list(range(3, 303))
        await audit.aclose()

    asyncio.run(main())
    assert sink.seqs == list(range(1, 303))


def test_arecord_gives_up_at_block_timeout() -> None:
    """
    BufferFull, and nothing left behind.
    """
    sink = GatedSink()
    audit = full_buffer(sink, block_timeout=0.01)
    with pytest.raises(BufferFull, match="block_timeout"):
        asyncio.run(audit.arecord("impatient"))
    sink.gate.set()
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1, 2]


@pytest.mark.parametrize("policy", ["block", "write_through"])
def test_arecord_hears_of_the_end_while_it_waits(policy: str) -> None:
    """
    A buffer that closes meanwhile refuses who waits for room.
    """
    sink = GatedSink()
    audit = full_buffer(sink, on_full=policy)

    async def main() -> None:
        waiting = asyncio.create_task(audit.arecord("late"))
        await passes()
        closing = asyncio.create_task(audit.aclose())
        await passes()
        sink.gate.set()
        with pytest.raises(BufferClosed):
            await waiting
        await closing

    asyncio.run(main())
    assert sink.seqs == [1, 2]


def test_arecord_under_the_policies_that_never_wait() -> None:
    """
    "raise" raises, "drop_newest" uses up a seq, an entry larger than the ring is refused.
    """
    for policy in ("raise", "drop_newest"):
        sink = GatedSink()
        audit = full_buffer(sink, on_full=policy, queue_max_bytes=1000)
        if policy == "raise":
            with pytest.raises(BufferFull):
                asyncio.run(audit.arecord("event"))
        else:
            assert asyncio.run(audit.arecord("event")) == 3
        with pytest.raises(BufferFull, match="larger than the whole ring"):
            asyncio.run(audit.arecord("event", details={"much": "x" * 1000}))
        sink.gate.set()
        audit.close(timeout=PATIENCE)


def test_arecord_under_write_through_raises_what_the_database_says() -> None:
    """
    SinkError before there was room, and nothing left behind.
    """
    sink = Hurting([AWAY] * 1000)
    audit = AuditBuffer(
        sink, on_full="write_through", queue_maxsize=1, retry_backoff=0.01, retry_backoff_max=0.01
    )
    audit.record("first")
    with pytest.raises(SinkError) as caught:
        asyncio.run(audit.arecord("second"))
    assert caught.value.__cause__ is AWAY
    assert audit.stats().published == 1
    sink.script.clear()
    audit.close(timeout=PATIENCE)


def test_arecord_under_write_through_keeps_what_has_its_place() -> None:
    """
    Stored, and the database goes away: the seq is returned, the entry is written later.
    """
    sink = Hurting()
    audit = AuditBuffer(
        sink,
        on_full="write_through",
        queue_maxsize=1,
        flush_interval=1000,
        retry_backoff=0.001,
        retry_backoff_max=0.001,
    )
    assert audit._writer.hold_still(PATIENCE)
    audit.record("first")
    publish = audit._channel.publish

    def publish_and_lose_the_database(payload: bytes) -> int:
        with audit._channel._lock:  # the writer must not come between the entry and the loss
            seq = publish(payload)
            if seq:
                sink.script = [AWAY] * 100_000
        if audit._writer.writes_here():
            audit._writer.go_on()  # the ring was found full
        return seq

    audit._channel.publish = publish_and_lose_the_database  # type: ignore[method-assign]
    assert asyncio.run(audit.arecord("second")) == 2
    assert audit.stats().committed == 1
    sink.script = []
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1, 2]
    assert audit.stats().retries >= 1


def test_arecord_under_write_through_goes_on_when_others_take_the_room() -> None:
    """
    The room that was made is gone again: it asks for more, and is committed when it returns.
    """
    sink = GatedSink()
    audit = full_buffer(sink, on_full="write_through", flush_interval=0.0)
    publish, stolen = audit._channel.publish, [0]

    def steal(payload: bytes) -> int:
        with audit._channel._lock:  # or the writer makes room between the last theft and the attempt
            while stolen[-1] < 40 and (seq := publish(payload)):
                stolen.append(seq)
            return publish(payload)

    audit._channel.publish = steal  # type: ignore[method-assign]

    async def main() -> None:
        waiting = asyncio.create_task(audit.arecord("patient"))
        await passes()
        sink.gate.set()
        seq = await waiting
        assert seq > 40
        assert audit.stats().committed >= seq
        await audit.aclose()

    asyncio.run(main())
    assert sink.seqs == list(range(1, audit.stats().published + 1))


def test_a_cancelled_arecord_publishes_nothing() -> None:
    """
    Cancelled while it waits for room: the entry is in no table, and the buffer works on.
    """
    sink = GatedSink()
    audit = full_buffer(sink)

    async def main() -> None:
        waiting = asyncio.create_task(audit.arecord("cancelled"))
        await passes()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        sink.gate.set()
        assert await audit.arecord("next") == 3
        await audit.aclose()

    asyncio.run(main())
    assert [entry.event_type for entry in sink.entries] == ["in.hand", "waiting", "next"]


def test_a_cancelled_aflush_leaves_the_buffer_as_it_is() -> None:
    """
    Only the waiting ends.
    """
    sink = GatedSink()
    audit = full_buffer(sink)

    async def main() -> None:
        waiting = asyncio.create_task(audit.aflush())
        await passes()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        sink.gate.set()
        await audit.aflush(timeout=PATIENCE)
        assert sink.seqs == [1, 2]
        await audit.aclose()

    asyncio.run(main())


def test_aflush_keeps_its_deadline_and_says_how_many_wait() -> None:
    """
    FlushTimeout after its seconds, and the loop goes on meanwhile.
    """
    sink = GatedSink()
    audit = full_buffer(sink)

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        with pytest.raises(FlushTimeout) as caught:
            await audit.aflush(timeout=0.02)
        assert caught.value.remaining == 2
        assert ticks > 3
        with pytest.raises(FlushTimeout):
            await audit.aclose(timeout=0.0)
        ticking.cancel()
        sink.gate.set()
        await audit.aclose()

    asyncio.run(main())
    assert sink.seqs == [1, 2]


def test_aflush_raises_what_the_writer_met() -> None:
    """
    Without a deadline the next failure is raised, with a deadline the retries go on.
    """
    # It fails until aflush() has looked, however late that is.
    sink = Hurting([AWAY] * 1000)
    audit = AuditBuffer(sink, flush_interval=1000, retry_backoff=0.001, retry_backoff_max=0.001)

    async def main() -> None:
        audit.record("event")
        with pytest.raises(SinkError) as caught:
            await audit.aflush()
        assert caught.value.__cause__ is AWAY
        sink.script.clear()
        await audit.aflush(timeout=PATIENCE)
        await audit.aclose()

    asyncio.run(main())
    assert sink.seqs == [1]


def test_progress_after_the_loop_is_gone_harms_nobody() -> None:
    """
    Who waited in a loop that was closed is not told any more, and the writer does not mind.
    """
    sink = GatedSink()
    audit = full_buffer(sink)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(audit.aflush())
    loop.run_until_complete(passes())
    waiting.cancel()
    loop.run_until_complete(asyncio.wait([waiting]))
    loop.close()
    sink.gate.set()
    audit.close(timeout=PATIENCE)
    assert sink.seqs == [1, 2]
    assert audit._writer.restarts == 0
