"""
Where the nanoseconds of `record()` go: `python benchmarks/where_time_goes.py [--events FILE] [--rounds N]
[--without-speedups]`.

Rebuilds `record()`, `publish()` and `put()` one step at a time, out of the library's own parts, and times every stage in turn: what a
step costs is what its stage takes more than the one before. The best of many rounds counts, because whatever else runs
only ever adds. The last stage is the real `record()` of a buffer; where it differs from the sum of the steps, the row "the rest"
says by how much (the real ring goes on to pages of its file that were never touched, for one).

Entries that need a closer look are left out of FILE. Needs a quiet machine; prints Markdown.
"""

from __future__ import annotations

import argparse
import gc
import operator
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any

import msgspec

from audit_buffer import BufferConfig, _fork, _mapped_ring, _recorders
from audit_buffer._channel import Channel
from audit_buffer._codec import encode_into
from audit_buffer._frame import store_payload_in_python
from audit_buffer._recorders import EntryRecorder
from audit_buffer._ring import MemoryRing, Payload, Ring
from audit_buffer._ring_file import RingFile
from audit_buffer._timing import SystemClock
from audit_buffer._turn import turn_at
from audit_buffer._usual import HAS_SPEEDUPS, encode_usual_by_msgspec
from audit_buffer.commands._bench_events import SMALL, Arguments, read_events, synthetic_event
from audit_buffer.testing import MemorySink


# Few in a round, so that some rounds are not disturbed.
ENTRIES = 250
RECORD = """
def record(event_type, *, actor=None, resource=None, outcome="success", details=None, correlation_id=None,
           occurred_at=None, session=None):
    pass
"""
RECORD_STEPS = (
    ("clock, in microseconds", "recorded = time_ns() // 1000"),
    ("a buffer for the bytes, and back", "buffer = spare.pop(); spare.append(buffer)"),
    (
        "encode (msgspec)",
        """row = (recorded, None, event_type, actor, resource, outcome, correlation_id, details)
    encode_into(row, buffer)""",
    ),
    ("the quick look", "if not encode_usual(row, buffer, encodes_nothing): raise ValueError"),
    ("check of size", "if len(buffer) > 1048576: raise ValueError"),
    ("`publish()`: call", "publish(buffer)"),
)
PUBLISH = """
def publish(payload):
    pass
"""
PUBLISH_STEPS = (
    ("fork canary", "if not alive[0]: raise OSError"),
    ("lock", "with turn as is_mine: pass"),
)
PUT = """
def put(seq, payload):
    global end
"""
PUT_STEPS = (
    (
        "where it goes, and whether it may",
        """start = end
    end = start + (len(payload) + 31 & -16)
    if end > quiet_until or seq <= last_seq:
        return False
    shift, seed, _ = lap
    at = start - shift""",
    ),
    ("payload and CRC", "header = store_payload(mapping, at, end - shift, seq, payload, seed)"),
    ("commit word", "mapping[at : at + 16] = header"),
)

Record = Callable[..., Any]
Stage = tuple[str, Record, Callable[[], object]]  # the step it adds, and what ends a round


class NoRing(MemoryRing):
    """
    A ring that stores nothing.
    """

    def put(self, seq: int, payload: Payload) -> bool:
        return True


def build(source: str, name: str, lines: Sequence[str], names: dict[str, Any]) -> Callable[..., Any]:
    """
    Return the function *name* of *source* with *lines* as the rest of its body.
    """
    exec(source + "".join(f"    {line}\n" for line in lines), names)
    return names[name]  # type: ignore[no-any-return]


def recording(publish: Callable[..., Any], steps: int = len(RECORD_STEPS)) -> Record:
    """
    Return a `record()` of so many steps.
    """
    names = {
        "time_ns": time.time_ns,
        "spare": [bytearray()],
        "encode_into": encode_into,
        "encode_usual": _recorders.encode_usual,
        "encodes_nothing": operator.is_,
        "publish": publish,
    }
    return build(RECORD, "record", [line for _, line in RECORD_STEPS[:steps]], names)


def stages(level: str, folder: Path, room: int, stack: ExitStack) -> list[Stage]:
    """
    Return all stages of one level, each with one step more than the one before.
    """
    found: list[Stage] = [("call and arguments", recording(int, 0), int)]
    nothing = build(PUBLISH, "publish", [], {})
    found += [(name, recording(nothing, count), int) for count, (name, _) in enumerate(RECORD_STEPS, 1)]
    names = {"alive": _fork.alive, "turn": turn_at(RLock())}
    for count, (name, _) in enumerate(PUBLISH_STEPS, 1):
        publish = build(PUBLISH, "publish", [line for _, line in PUBLISH_STEPS[:count]], dict(names))
        found.append((name, recording(publish), int))
    publish, finish = publishing(NoRing())
    found.append(
        ("book-keeping: seq, room, thresholds, interruptions; `put()`: call", recording(publish), finish)
    )
    if level == "process":
        found += putting(folder, room, stack)
    ring: Ring = MemoryRing()
    if level == "process":
        ring = RingFile.create(folder, label="bench", size=2 * room)
        stack.callback(ring.close)
    else:
        publish, finish = publishing(MemoryRing())
        found.append(("store (a copy, a deque)", recording(publish), finish))
    publish, finish = publishing(ring)
    recorder = EntryRecorder(MemorySink(), "bench", None, BufferConfig(), SystemClock())
    found.append(("the rest", recorder.bind(publish, publish), finish))
    return found


def publishing(ring: Ring) -> tuple[Callable[[Payload], int], Callable[[], object]]:
    """
    Return the real `publish()` in front of *ring*, and what makes room for the next round.

    There is always a batch in hand, as if the writer were busy, so that no entry asks for it.
    """
    channel = Channel(
        ring, BufferConfig(queue_maxsize=4 * ENTRIES, queue_max_bytes=1 << 30), SystemClock(), bool
    )

    def finish() -> None:
        while (taken := channel.take()) is not None:
            channel.committed(taken)
        channel.publish(b"in hand")
        channel.request_flush()
        channel.take()
        channel.publish(b"looks at the thresholds")

    channel.publish(b"first")
    finish()
    return channel.publish, finish


def putting(folder: Path, room: int, stack: ExitStack) -> list[Stage]:
    """
    Return the stages of `put()` on a mapped file, behind the real `publish()`.
    """
    file = stack.enter_context((folder / "mapped").open("w+b"))
    file.write(bytes(2 * room))
    file.flush()
    mapping = stack.enter_context(mmap(file.fileno(), 0))
    found: list[Stage] = []
    for count, (name, _) in enumerate(PUT_STEPS, 1):
        names: dict[str, Any] = {
            "mapping": mapping, "lap": (0, 7, 2 * room), "quiet_until": 2 * room, "last_seq": 0, "end": 0,
            "store_payload": _mapped_ring.store_payload,
        }  # fmt: skip
        put = build(PUT, "put", [line for _, line in PUT_STEPS[:count]] + ["return True"], names)
        ring = NoRing()
        publish, finish = publishing(ring)
        ring.put = put  # type: ignore[method-assign]

        def end(names: dict[str, Any] = names, finish: Callable[[], object] = finish) -> None:
            finish()
            names["end"] = 0

        found.append((name, recording(publish), end))
    return found


def time_round(record: Record | None, events: Sequence[Arguments]) -> float:
    """
    Return the nanoseconds of one call, every argument written out; of the loop alone without *record*.
    """
    started = time.perf_counter_ns()
    if record is None:
        for _event_type, _actor, _resource, _outcome, _details, _correlation_id in events:
            pass
    else:
        for event_type, actor, resource, outcome, details, correlation_id in events:
            record(
                event_type,
                actor=actor,
                resource=resource,
                outcome=outcome,
                details=details,
                correlation_id=correlation_id,
            )
    return (time.perf_counter_ns() - started) / len(events)


def measure(level: str, events: Sequence[Arguments], rounds: int) -> dict[str, float]:
    """
    Return what each step adds, in nanoseconds, and the whole.
    """
    room = sum(len(msgspec.json.encode(event)) + 128 for event in events)
    with TemporaryDirectory(dir=Path.cwd()) as folder, ExitStack() as stack:
        found = stages(level, Path(folder), room + (1 << 20), stack)
        best = [float("inf")] * (len(found) + 1)
        for _ in range(rounds):
            gc.collect(1)
            best[0] = min(best[0], time_round(None, events))
            for position, (_, record, finish) in enumerate(found, 1):
                best[position] = min(best[position], time_round(record, events))
                finish()
    steps = {
        name: after - before for (name, _, _), (before, after) in zip(found, pairwise(best), strict=True)
    }
    return {**steps, "**`record()`**": best[-1] - best[0]}


def is_usual(event: Arguments) -> bool:
    """
    Tell whether `record()` takes its short cut.
    """
    event_type, actor, resource, outcome, details, correlation_id = event
    row = (0, None, event_type, actor, resource, outcome, correlation_id, details)
    return _recorders.encode_usual(row, bytearray(), encode_into)


def main() -> None:
    """
    Measure and print the table.
    """
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--events", type=Path, help="one JSON object a line; else an invented CloudTrail event"
    )
    arguments.add_argument("--rounds", type=int, default=240)
    arguments.add_argument(
        "--without-speedups", action="store_true", help="as where the module in C could not be built"
    )
    given = arguments.parse_args()
    if given.without_speedups:
        _recorders.encode_usual = encode_usual_by_msgspec
        _mapped_ring.store_payload = store_payload_in_python
    real = [synthetic_event()] if given.events is None else read_events(given.events, 2 * ENTRIES)
    usual = [event for event in real if is_usual(event)]
    kinds = {"small": [SMALL] * ENTRIES, "real": (usual * ENTRIES)[:ENTRIES]}
    columns = {
        f"{kind}, {level}": measure(level, events, given.rounds)
        for kind, events in kinds.items()
        for level in ("memory", "process")
    }
    speedups = HAS_SPEEDUPS and not given.without_speedups
    print(f"Nanoseconds, Python {sys.version.split()[0]}, {'with' if speedups else 'without'} speedups\n")
    print(f"| step | {' | '.join(columns)} |")
    print("|---|" + "---:|" * len(columns))
    # In the order of the longest column; what a level does not do is left empty.
    names = list(dict.fromkeys([*list(columns["small, process"])[:-2], *columns["small, memory"]]))
    for name in names:
        cells = (f"{steps[name]:.0f}" if name in steps else "" for steps in columns.values())
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
