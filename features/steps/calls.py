"""
What the application, its operator and its server do.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

from behave import step, when
from sqlalchemy import text
from sqlalchemy.orm import Session

from audit_buffer import DomainEvent
from features.support.clock import PATIENCE


# Recording --------------------------------------------------------------------------------------------------------


@when("the application records {count:d} entries")
@when("the application records {count:d} entry")
def record(context: Any, count: int) -> None:
    context.world.record(count)


@when('the application records {count:d} entries by "{actor}"')
def record_by(context: Any, count: int, actor: str) -> None:
    context.world.record(count, actor)


@when("the application records {count:d} entries of {size:d} bytes")
@when("the application records {count:d} entry of {size:d} bytes")
def record_large(context: Any, count: int, size: int) -> None:
    for _ in range(count):
        context.world.buffer.record("file.read", details={"content": "x" * size})


@when("the application tries to record an entry")
def try_to_record(context: Any) -> None:
    context.world.attempt(context.world.record)


@when('the application records a note saying "{words}"')
def record_note(context: Any, words: str) -> None:
    context.note = {"note": [words]}
    context.world.buffer.record("note.written", details=context.note)


@when('the application changes the note to "{words}"')
def change_note(context: Any, words: str) -> None:
    context.note["note"][0] = words


@when('the application records that "{name}" was "{value}"')
def record_secret(context: Any, name: str, value: str) -> None:
    context.world.buffer.record("user.login", details={name: value})


@when("the application records {count:d} entries by turns")
def record_by_turns(context: Any, count: int) -> None:
    for ordinal in range(count):
        context.world.buffers[ordinal % 2].record("plan.updated", details={"ordinal": ordinal})


@when("{threads:d} threads record {count:d} entries each at the same time")
def record_in_threads(context: Any, threads: int, count: int) -> None:
    world = context.world

    def work(name: str) -> None:
        for ordinal in range(count):
            world.buffer.record("plan.updated", actor=name, details={"ordinal": ordinal})

    futures = [world.in_background(lambda name=f"thread-{n}": work(name)) for n in range(threads)]
    for future in futures:
        future.result(PATIENCE)


@when("another thread records an entry")
def record_in_background(context: Any) -> None:
    context.other = context.world.in_background(context.world.record)


@when("another thread records an entry and looks into the log at once")
def record_and_look(context: Any) -> None:
    def record_then_look() -> list[int]:
        context.world.record()
        return [row.details["ordinal"] for row in context.world.rows()]

    context.other = context.world.in_background(record_then_look)


@when("a block that holds a buffer records {count:d} entries and then fails")
def fail_in_block(context: Any, count: int) -> None:
    world = context.world

    def block() -> None:
        with world.open_buffer():
            world.record(count)
            raise LookupError("the operation failed")

    world.attempt(block)
    assert isinstance(world.error, LookupError)


@when('the domain emits "{event_type}" by "{actor}" on "{resource}"')
def emit(context: Any, event_type: str, actor: str, resource: str) -> None:
    context.bus.emit(DomainEvent(event_type=event_type, actor=actor, resource=resource))


# Transactions of the application ----------------------------------------------------------------------------------


@when("the application records an entry in a transaction of its own, and commits it")
def record_and_commit(context: Any) -> None:
    with Session(context.world.engine) as session:
        context.world.buffer.record("order.paid", session=session)
        session.commit()


@when("the application records an entry in a transaction of its own, and rolls it back")
def record_and_roll_back(context: Any) -> None:
    with Session(context.world.engine) as session:
        context.world.buffer.record("order.paid", session=session)
        session.rollback()


@when("the application tries to record an entry in a transaction of its own")
def try_to_record_in_session(context: Any) -> None:
    with Session(context.world.engine) as session:
        context.world.attempt(lambda: context.world.buffer.record("order.paid", session=session))


# Event loops ------------------------------------------------------------------------------------------------------


@when("an event loop records an entry")
def record_in_loop(context: Any) -> None:
    async def main() -> None:
        context.world.record()

    context.world.attempt(lambda: asyncio.run(main()))


@when("an event loop awaits the recording of an entry, and the database answers again")
def record_politely(context: Any) -> None:
    async def main() -> int:
        world = context.world
        world.recorded += 1
        entry = asyncio.create_task(world.buffer.arecord("plan.updated", details={"ordinal": world.recorded}))
        turns = 0
        while turns < 100 and not entry.done():
            turns += 1
            await asyncio.sleep(0)
        world.faults.recover()
        await entry
        return turns

    context.turns = asyncio.run(main())


# Flushing, closing, reading ---------------------------------------------------------------------------------------


@when("the application flushes")
def flush(context: Any) -> None:
    context.world.buffer.flush()


@when("the application flushes for at most {seconds:g} seconds")
def flush_for(context: Any, seconds: float) -> None:
    context.world.attempt(lambda: context.world.buffer.flush(timeout=seconds))


@when("the application tries to flush")
def try_to_flush(context: Any) -> None:
    context.world.attempt(context.world.buffer.flush)


@when("the application waits for entry {number:d}")
def wait(context: Any, number: int) -> None:
    context.world.buffer.wait(number, timeout=PATIENCE)


@when("the application waits until entry {number:d} survives a power cut")
def wait_synced(context: Any, number: int) -> None:
    context.world.buffer.wait(number, until="synced", timeout=PATIENCE)


@when("the application opens a buffer")
def open_buffer(context: Any) -> None:
    context.world.open_buffer()


@when("the application closes the buffer")
def close(context: Any) -> None:
    context.world.buffer.close()


@when("the application closes the buffer within {seconds:g} seconds")
def close_within(context: Any, seconds: float) -> None:
    context.world.attempt(lambda: context.world.buffer.close(timeout=seconds))


@when("the application closes both")
def close_both(context: Any) -> None:
    for buffer in context.world.buffers:
        buffer.close()


@when("the application forgets the buffer")
def forget(context: Any) -> None:
    with warnings.catch_warnings(record=True) as context.warnings:
        warnings.simplefilter("always")
        context.world.buffers.clear()
        gc.collect()
    context.world.join_writers()


@when('the application asks for the entries by "{actor}"')
def ask(context: Any, actor: str) -> None:
    context.seen = [row.details["ordinal"] for row in context.world.buffer.entries(actor=actor)]


@when("the application tries to count the entries")
def try_to_count(context: Any) -> None:
    context.world.attempt(context.world.buffer.count)


# The world around -------------------------------------------------------------------------------------------------


@when("the database answers again")
def answer(context: Any) -> None:
    context.world.faults.recover()


@when("{seconds:g} seconds pass")
def pass_time(context: Any, seconds: float) -> None:
    clock = context.world.hand_clock
    if not context.world.background:
        clock.wait_until_asleep("audit-writer")
    clock.advance(seconds)


@when("the administrator sets the clock back by an hour")
def set_back(context: Any) -> None:
    context.world.hand_clock.step_wall_time(-3600)


@step("the writer is stuck")
def stuck(context: Any) -> None:
    context.world.faults.wait_until_stuck()


DROP_CONNECTIONS = {
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
}


@when("the server drops every connection")
def drop_connections(context: Any) -> None:
    with context.world.auditor.connect() as connection:
        found = connection.execute(text(DROP_CONNECTIONS[connection.dialect.name])).scalars().all()
        assert found, "nobody was connected"
        if connection.dialect.name == "mysql":
            for number in found:
                connection.execute(text(f"KILL {number}"))
