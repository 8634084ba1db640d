"""
What the auditor finds: in the log, in what callers were told, and in what operators were told.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

from behave import step, then

from audit_buffer import instrumentation
from audit_buffer.entry import GAP_EVENT_TYPE
from features.support.clock import PATIENCE


def ordinals(context: Any) -> list[int]:
    """
    Return the ordinals of the application's entries, in the order of the log.
    """
    return [row.details["ordinal"] for row in context.world.rows() if row.event_type != GAP_EVENT_TYPE]


def ranges(words: str) -> list[int]:
    """
    Return the numbers that "1 to 4 and 8" names.
    """
    found: list[int] = []
    for part in words.split(" and "):
        first, _, last = part.partition(" to ")
        found += range(int(first), int(last or first) + 1)
    return found


# The log ----------------------------------------------------------------------------------------------------------


@then("the log holds nothing")
def empty(context: Any) -> None:
    assert context.world.log.count() == 0


@then("the log holds {count:d} entries")
def holds_count(context: Any, count: int) -> None:
    assert context.world.log.count() == count


@then("the log holds the entries {numbers} in this order")
def holds(context: Any, numbers: str) -> None:
    found = ordinals(context)
    assert found == ranges(numbers), f"{found}"


@then("after a flush the log holds the entries {numbers} in this order")
def holds_after_flush(context: Any, numbers: str) -> None:
    context.world.buffer.flush()
    holds(context, numbers)


@then("the log holds at least the entries {numbers}")
def holds_at_least(context: Any, numbers: str) -> None:
    wanted = ranges(numbers)
    assert ordinals(context)[: len(wanted)] == wanted


@then("the log is numbered from 1 to {last:d} without a hole")
def numbered(context: Any, last: int) -> None:
    assert [row.seq for row in context.world.rows()] == list(range(1, last + 1))


@then("each thread's entries stand in the order in which it recorded them")
def order_of_threads(context: Any) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for row in context.world.rows():
        found[row.actor].append(row.details["ordinal"])
    assert all(story == sorted(set(story)) for story in found.values())


@then("the log has {count:d} stories of {length:d} entries, each in order")
def stories(context: Any, count: int, length: int) -> None:
    found: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for row in context.world.rows():
        found[row.buffer_id].append((row.seq, row.details["ordinal"]))
    assert len(found) == count
    for story in found.values():
        assert [seq for seq, _ in story] == list(range(1, length + 1))
        assert story == sorted(story, key=lambda entry: entry[1])


@then("entry {later:d} is dated an hour before entry {earlier:d}")
def dated(context: Any, later: int, earlier: int) -> None:
    rows = context.world.rows()
    assert rows[earlier - 1].recorded_at - rows[later - 1].recorded_at == timedelta(hours=1)


@then("the log holds 1 entry without a number")
def holds_unnumbered(context: Any) -> None:
    (row,) = context.world.rows()
    assert row.seq is None
    assert row.buffer_id is None


@then('the log says that "{actor}" did "{event_type}" on "{resource}"')
def says(context: Any, actor: str, event_type: str, resource: str) -> None:
    (row,) = context.world.rows()
    assert (row.actor, row.event_type, row.resource) == (actor, event_type, resource)


@then('the log holds the note "{words}"')
def holds_note(context: Any, words: str) -> None:
    (row,) = context.world.rows()
    assert row.details == {"note": [words]}


@then('the log says that "{name}" was "{value}"')
def says_value(context: Any, name: str, value: str) -> None:
    (row,) = context.world.rows()
    assert row.details == {name: value}


@then(
    'the log says that {count:d} entries from number {first:d} to number {last:d} were dropped by "{policy}"'
)
def says_dropped(context: Any, count: int, first: int, last: int, policy: str) -> None:
    (row,) = context.world.log.entries(event_type=GAP_EVENT_TYPE)
    assert row.seq == last
    assert row.details == {"dropped": count, "first_seq": first, "last_seq": last, "policy": policy}


# Transactions -----------------------------------------------------------------------------------------------------


@then("the log gets {count:d} entries in one transaction")
def one_transaction(context: Any, count: int) -> None:
    context.world.faults.wait_for_commits(1)
    assert context.world.log.count() == count


@then("the log gets the first entry at once")
def first_at_once(context: Any) -> None:
    context.world.faults.wait_for_commits(1)
    assert context.world.log.entries()[0].seq == 1


@then("the log got {count:d} transactions of {size:d} entries")
def transactions(context: Any, count: int, size: int) -> None:
    assert context.world.faults.commits == count
    assert context.world.log.count() == count * size


@then("the writer sleeps until something is recorded")
def sleeps(context: Any) -> None:
    assert context.world.log.count() == 1
    assert context.world.hand_clock.alarm("audit-writer") is None


@then("only the writer spoke to the database")
def only_the_writer(context: Any) -> None:
    """
    Opening the buffer looks for the table; only what came after that counts.
    """
    statements = context.world.faults.statements
    begun = next(n for n, (_, statement) in enumerate(statements) if statement.startswith("BEGIN"))
    assert all(thread.startswith("audit-writer") for thread, _ in statements[begun:])


# Callers ----------------------------------------------------------------------------------------------------------


@then("the calls returned the numbers 1 to {last:d}")
def returned(context: Any, last: int) -> None:
    assert context.world.numbers == list(range(1, last + 1))


@then('it is told {kind:w}: "{words}"')
def told(context: Any, kind: str, words: str) -> None:
    check_error(context.world.error, kind, words)


@then('that thread is told {kind:w}: "{words}"')
def thread_told(context: Any, kind: str, words: str) -> None:
    check_error(context.other.exception(PATIENCE), kind, words)


def check_error(error: BaseException | None, kind: str, words: str) -> None:
    assert type(error).__name__ == kind, f"{error!r}"
    assert words in str(error), f"{error}"


@then("that thread waits")
def waits(context: Any) -> None:
    context.world.hand_clock.wait_until_asleep("application")
    assert not context.other.done()


@then("that thread has recorded entry {number:d}")
def recorded_number(context: Any, number: int) -> None:
    context.other.result(PATIENCE)
    assert context.world.numbers[-1] == number


@then("that thread saw its entry in the log")
def saw_own(context: Any) -> None:
    assert context.world.recorded in context.other.result(PATIENCE)


@then("the loop went on meanwhile")
def loop_went_on(context: Any) -> None:
    assert context.turns == 100


@then("the warehouse has heard of it")
def warehouse(context: Any) -> None:
    assert [event.event_type for event in context.warehouse] == ["order.paid"]


@then("it sees the entries {numbers}")
def sees(context: Any, numbers: str) -> None:
    assert context.seen == ranges(numbers)


@then("it sees nothing")
def sees_nothing(context: Any) -> None:
    assert context.seen == []


@then('it counts {count:d} entries by "{actor}"')
def counts(context: Any, count: int, actor: str) -> None:
    assert context.world.buffer.count(actor=actor) == count


@then("nothing is left behind")
def nothing_left(context: Any) -> None:
    assert context.world.buffer.stats().published == 0
    context.world.record()
    context.world.buffer.flush()
    assert [row.seq for row in context.world.rows()] == [1]


# Operators --------------------------------------------------------------------------------------------------------


@then("no entry is pending")
def none_pending(context: Any) -> None:
    assert context.world.buffer.stats().pending == 0


@then('the level in force is "{level}"')
def level_in_force(context: Any, level: str) -> None:
    assert context.world.buffer.durability == level


@then("the entries up to {number:d} survive a power cut")
def synced(context: Any, number: int) -> None:
    assert context.world.buffer.stats().synced == number


@then("no file but the log is left")
def nothing_but_the_log(context: Any) -> None:
    """
    SQLite keeps its own files beside the database while somebody looks.
    """
    found = [path.name for path in context.world.folder.rglob("*") if path.is_file()]
    assert {name for name in found if not name.startswith("audit.db")} == set(), f"{found}"


@then("the buffer still counts {count:d} pending entries")
def pending(context: Any, count: int) -> None:
    assert context.world.buffer.stats().pending == count


@then("the buffer counts {count:d} dropped entries")
def dropped(context: Any, count: int) -> None:
    assert context.world.buffer.stats().dropped == count


@then("the operator was warned {times:d} times that the buffer is nearly full")
@then("the operator was warned {times:d} time that the buffer is nearly full")
def warned_nearly_full(context: Any, times: int) -> None:
    assert warnings_of(context, instrumentation.RingNearlyFull) == times


@then("the operator was warned that the database cannot be reached")
def warned_unavailable(context: Any) -> None:
    assert warnings_of(context, instrumentation.SinkUnavailable) == 1


def warnings_of(context: Any, kind: type[instrumentation.Event]) -> int:
    found = [event for event in context.world.events if isinstance(event, kind)]
    assert all(event.level == "warning" for event in found)
    return len(found)


@step("the application was told of {count:d} failures")
def told_of_failures(context: Any, count: int) -> None:
    assert len(context.world.told) == count
    assert context.world.buffer.stats().retries == count


@then('a warning says "{words}"')
def warned(context: Any, words: str) -> None:
    (warning,) = context.warnings
    assert warning.category is ResourceWarning
    assert words in str(warning.message)
