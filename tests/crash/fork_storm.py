"""
A process whose threads record while it forks again and again, in every way there is; then the books are compared.

    python -m tests.crash.fork_storm --url sqlite:////tmp/x/audit.db --level process --forks 40 --seed 1

The ways: os.fork (the child leaves through the exit hook, closes, or is gone by os._exit without having recorded), and
multiprocessing with all three start methods. A child records a few entries beside what it inherited. It must neither
hang nor deliver what is its parent's. (Fork called from C is not among them: in a child that Python was not told of,
CPython's own lock is broken when other threads waited for it.)

What `record()` returned goes into a file (the ack log). The last line of the output is the tally as JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import select
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy

from audit_buffer import AuditBuffer, AuditService
from audit_buffer.schema import audit_log


WAYS = ("os", "os-close", "os-silent", "mp-fork", "mp-forkserver", "mp-spawn")
# Importing everything anew takes a second, so they come once in a while.
WEIGHTS = (8, 4, 4, 8, 1, 1)
PATIENCE = 30


class AckLog:
    """
    One line for each `record()` that returned, from any process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def write(self, buffer: str, actor: str, number: int, seq: int) -> None:
        os.write(self.fd, f"{buffer} {actor} {number} {seq}\n".encode())

    def read(self) -> dict[tuple[str, str, int], int]:
        promised = {}
        for line in self.path.read_text().splitlines():
            buffer, actor, number, seq = line.split()
            promised[buffer, actor, int(number)] = int(seq)
        return promised


def open_buffer(given: argparse.Namespace) -> AuditBuffer:
    return AuditBuffer(
        AuditService(given.url),
        durability=given.level,
        ring_dir=None if given.level == "memory" else given.ring_dir,
        ring_bytes=1 << 20,
        max_entry_bytes=1 << 14,
        flush_interval=0.01,
        exit_timeout=20,
    )


def record_some(buffer: AuditBuffer, acks: AckLog, actor: str) -> None:
    for number in (1, 2, 3):
        # The id of the buffer is known for sure only after the first record(): a fork from C is noticed there.
        seq = buffer.record("child", actor=actor, resource=str(number))
        acks.write(buffer.buffer_id.hex, actor, number, seq)


def in_own_interpreter(given: argparse.Namespace, actor: str) -> None:
    """
    What a child does that multiprocessing started with nothing of the parent's in it.
    """
    buffer = open_buffer(given)
    record_some(buffer, AckLog(given.acks), actor)
    # Not closed: multiprocessing's finalizers have to do. The name keeps it alive until then.
    globals()["kept"] = buffer


def in_forked(buffer: AuditBuffer, acks: AckLog, actor: str) -> None:
    record_some(buffer, acks, actor)


class Storm:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.acks = AckLog(given.acks)
        self.buffer = open_buffer(given)
        self.own = self.buffer.buffer_id.hex
        self.stopping = threading.Event()
        self.hangs = 0
        self.ended_badly = 0
        self.strays = 0
        self.errors: list[str] = []

    def run(self, ways: list[str]) -> None:
        threads = [threading.Thread(target=self.record, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number, way in enumerate(ways):
                self.fork(way, f"{way}-{number}")
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join()
        self.buffer.close()

    def record(self, actor: str) -> None:
        number = 0
        # Waiting a moment each time keeps two processors for the children, and the parent inside every part of a call.
        while not self.stopping.wait(0.0005):
            number += 1
            seq = self.buffer.record("parent", actor=actor, resource=str(number))
            self.acks.write(self.own, actor, number, seq)

    def fork(self, way: str, actor: str) -> None:
        if way.startswith("mp-"):
            self.fork_by_multiprocessing(way.removeprefix("mp-"), actor)
            return
        pid = os.fork()
        if pid:
            self.reap(pid, actor)
            return
        try:
            if way == "os-silent":
                self.look_for_ring(actor)
                os._exit(0)
            record_some(self.buffer, self.acks, actor)
            if way == "os-close":
                self.buffer.close(timeout=20)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(3)
        # Through every exit hook, as a program that forked would.
        sys.exit(0)

    def look_for_ring(self, actor: str) -> None:
        """
        Complain if this child has a ring file: it never records.
        """
        name = f"{self.buffer.buffer_id.hex}.ring"
        if self.given.level != "memory" and (self.given.ring_dir / name).exists():
            os._exit(5)

    def reap(self, pid: int, actor: str) -> None:
        end = os.pidfd_open(pid)
        if not select.select([end], [], [], PATIENCE)[0]:
            self.hangs += 1
            print(f"{actor} hangs", file=sys.stderr)
            os.kill(pid, 6)  # with the stacks of its threads: faulthandler is on
        os.close(end)
        status = os.waitpid(pid, 0)[1]
        self.note(actor, status)

    def note(self, actor: str, status: int | None) -> None:
        if status:
            self.ended_badly += 1
            print(f"{actor} ended with {status}", file=sys.stderr)

    def fork_by_multiprocessing(self, method: str, actor: str) -> None:
        context: Any = multiprocessing.get_context(method)
        if method == "fork":
            process = context.Process(target=in_forked, args=(self.buffer, self.acks, actor))
        else:
            process = context.Process(target=in_own_interpreter, args=(self.given, actor))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            self.hangs += 1
            os.kill(process.pid, 6)
            process.join()
        self.note(actor, process.exitcode)


def compare(given: argparse.Namespace, storm: Storm) -> dict[str, Any]:
    left = [path.name for path in given.ring_dir.iterdir()] if given.ring_dir.exists() else []
    if left:
        print("left behind:", *left, file=sys.stderr)
    with open_buffer(given) as buffer:
        buffer.flush(timeout=60)
    promised = storm.acks.read()
    query = sqlalchemy.select(
        audit_log.c.buffer_id, audit_log.c.actor, audit_log.c.resource, audit_log.c.seq
    ).order_by(audit_log.c.id)
    with sqlalchemy.create_engine(given.url).connect() as connection:
        found = [
            (buffer.hex, actor, int(number), seq) for buffer, actor, number, seq in connection.execute(query)
        ]
    keys = Counter((actor, number) for _, actor, number, _ in found)
    order = {}
    inverted = 0
    for buffer, _, _, seq in found:
        inverted += seq != order.get(buffer, 0) + 1
        order[buffer] = seq
    return {
        "level": given.level,
        "database": sqlalchemy.make_url(given.url).get_backend_name(),
        "seed": given.seed,
        "forks": given.forks,
        "entries": len(found),
        "lost": len(promised.keys() - {row[:3] for row in found}),
        "doubled": sum(count - 1 for count in keys.values()),
        "inverted": inverted,
        "phantom": len({row[:3] for row in found} - promised.keys()),
        "hangs": storm.hangs,
        "ended_badly": storm.ended_badly,
        "left": len(left),
        # A connection that a child had harmed would make an attempt fail.
        "retries": storm.buffer.stats().retries,
    }


def main() -> None:
    import faulthandler

    faulthandler.enable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--ring-dir", type=Path, required=True)
    parser.add_argument("--acks", type=Path, required=True)
    parser.add_argument("--level", default="process")
    parser.add_argument("--forks", type=int, default=40)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seed", default=str(random.randrange(1 << 32)))
    given = parser.parse_args()
    print(f"seed {given.seed}", file=sys.stderr)
    engine = sqlalchemy.create_engine(given.url)
    AuditService(engine).create_schema()
    engine.dispose()
    weights = [weight for way, weight in zip(WAYS, WEIGHTS, strict=True) if way in given.ways.split(",")]
    ways = random.Random(given.seed).choices(given.ways.split(","), weights, k=given.forks)
    started = time.monotonic()
    storm = Storm(given)
    storm.run(ways)
    tally = compare(given, storm)
    print(json.dumps({**tally, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
