"""
What there is before something happens: databases, buffers, and what is wrong with them.
"""

from __future__ import annotations

from typing import Any

from behave import given, step, when

from audit_buffer import BufferConfig, EventBus, TableSink, open_audit
from audit_buffer.testing import MemorySink
from features.support.clock import HandClock
from features.support.own import Journal, create_payments, payments
from features.support.world import RING_BYTES


# Databases and time -----------------------------------------------------------------------------------------------


@given("an empty audit log")
def empty_log(context: Any) -> None:
    context.world.use_database()
    context.world.log.create_schema()


@given("an empty audit log in {database}")
def empty_log_in(context: Any, database: str) -> None:
    context.world.use_database(database)
    context.world.log.create_schema()


@given("a database without an audit log")
def no_log(context: Any) -> None:
    context.world.use_database()


@given("time stands still")
def hand_clock(context: Any) -> None:
    context.world.clock = HandClock()


@given("the database does not answer")
def hang(context: Any) -> None:
    context.world.faults.hang()


@given("the database does not answer, and the buffer is full")
def hang_and_fill(context: Any) -> None:
    """
    Room for four: two are in the writer's hands, two wait.
    """
    context.world.faults.hang()
    context.world.record(2)
    context.world.faults.wait_until_stuck()
    context.world.record(2)


@step("the database goes away")
def go_away(context: Any) -> None:
    context.world.faults.away = True


@given("the database refuses the next {times:d} transactions")
def refuse(context: Any, times: int) -> None:
    context.world.faults.fail(times)


@given("the answer to the next COMMIT is lost")
def lose_answer(context: Any) -> None:
    context.world.faults.lost_answers = 1


# Buffers ----------------------------------------------------------------------------------------------------------


@given("a buffer in front of it")
@given("another buffer in front of it")
def buffer(context: Any) -> None:
    context.world.open_buffer()


@given("a buffer in front of it that writes {count:d} entries at a time")
def buffer_by_size(context: Any, count: int) -> None:
    context.world.open_buffer(batch_size=count)


@given("a buffer in front of it that writes {size:d} bytes at a time")
def buffer_by_bytes(context: Any, size: int) -> None:
    context.world.open_buffer(batch_max_bytes=size)


@given("a buffer in front of it that lets an entry wait for {seconds:g} seconds")
def buffer_by_age(context: Any, seconds: float) -> None:
    context.world.open_buffer(flush_interval=seconds)


@given("a buffer in front of it with room for {count:d} entries")
def buffer_with_room(context: Any, count: int) -> None:
    context.world.open_buffer(queue_maxsize=count, block_timeout=20.0)


@given('a buffer in front of it that does "{policy}" when it is full')
def buffer_with_policy(context: Any, policy: str) -> None:
    context.world.open_buffer(queue_maxsize=4, on_full=policy)


@given("a buffer in front of it that does not flush for readers")
def buffer_without_flush(context: Any) -> None:
    context.world.open_buffer(read_your_writes=False)


@given("a buffer in front of it that gives up after {seconds:g} seconds")
def buffer_that_gives_up(context: Any, seconds: float) -> None:
    context.world.open_buffer(delivery_timeout=seconds)


@given('a buffer in front of it that hides what is called "{name}"')
def buffer_that_redacts(context: Any, name: str) -> None:
    def redact(details: Any) -> Any:
        return {key: "***" if key == name else value for key, value in details.items()}

    context.world.open_buffer(redact=redact)


@given("the audit log is opened with asynchronous {switch:w}")
def opened(context: Any, switch: str) -> None:
    """
    Open the log as an application does that has the choice in its settings.
    """
    world = context.world
    config = BufferConfig(asynchronous=switch == "on", ring_bytes=RING_BYTES)
    world.buffers.append(open_audit(world.engine, config))


@given("the event bus tells the audit log first, and the warehouse second")
def event_bus(context: Any) -> None:
    context.bus, context.warehouse = EventBus(), []
    context.bus.subscribe(None, context.world.buffer.on_event)
    context.bus.subscribe("order.paid", context.warehouse.append)


# Other places -----------------------------------------------------------------------------------------------------


@given("a buffer in front of the application's own table")
def own_table(context: Any, **settings: Any) -> None:
    world = context.world
    create_payments(world.auditor)
    sink = TableSink(world.engine, payments)
    TableSink(world.auditor, payments).create_schema()
    world.open_buffer(sink, **settings)


@given('a buffer in front of the application\'s own table that does "{policy}" when it is full')
def own_table_with_policy(context: Any, policy: str) -> None:
    own_table(context, queue_maxsize=4, on_full=policy)


@given("a buffer in front of the application's own service")
def own_service(context: Any) -> None:
    context.journal = Journal()
    context.world.open_buffer(context.journal)


@given("a buffer in front of a place of its own")
def own_sink(context: Any) -> None:
    context.place = MemorySink()
    context.world.open_buffer(context.place)


@given("a buffer in front of it with durability {level:w}")
def buffer_with_durability(context: Any, level: str) -> None:
    context.world.open_buffer(durability=None if level == "unsaid" else level)


@when("a buffer in front of a place of its own is to be opened with durability {level:w}")
def open_own_sink(context: Any, level: str) -> None:
    context.world.attempt(lambda: context.world.open_buffer(MemorySink(), durability=level))
