"""
Recipe R1 as a program: record, be killed, start again, deliver, and compare with what was promised.

    python -m tests.crash.random_kills --url sqlite:////tmp/x/audit.db --level process --trials 40 --seed 1

Each trial forks a child in which threads record and write what `record()` returned into a pipe (the ack log). It dies by
SIGKILL after 5 to 300 ms. In half of the trials the next child then adopts what was left beside its own entries; in the
others a child only delivers, and is itself killed and repeated now and then. After that the ring directory must be
empty, and table and ack log are compared. This process never opens a database connection that a child could inherit.

With --signal TERM the signal is handled (`handle_signals`) instead, and the main thread records, too, so that the way out
begins inside record(): the child must end by itself, with everything written.

The last line of the output is the tally as JSON. The seed fixes threads, settings and the moments of the kills.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import itertools
import json
import os
import random
import select
import signal
import struct
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import attrs
import sqlalchemy
from sqlalchemy import Column, Engine, Integer, NullPool, String, Table, Text

from audit_buffer import AuditBuffer, AuditService, BufferClosed, TableSink
from audit_buffer.schema import audit_log, position_table


ACK = struct.Struct(
    "<16sBIq"
)  # buffer_id, thread, number of the call in its thread, seq that record() returned
facts = Table(
    "facts",
    sqlalchemy.MetaData(),
    Column("id", Integer, primary_key=True),
    Column("buffer", String(32), nullable=False),
    Column("thread", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("pad", Text, nullable=False),
)
Row = tuple[str, int, int, str, int]  # buffer, thread, number, pad, seq (0 where the table has none)


@attrs.define
class Tally:
    """
    What came of the trials.
    """

    level: str
    target: str
    database: str
    seed: str
    signal: str = "KILL"
    trials: int = 0
    recovery_kills: int = 0
    acknowledged: int = 0
    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    inverted: int = 0
    phantom: int = 0
    leftovers: int = 0
    ended_badly: int = 0
    seconds: float = 0.0


def pad(thread: int, number: int) -> str:
    """
    Return the filling of an entry: small mostly, and now and then a tenth of the ring.
    """
    return "x" * (6000 if number % 97 == 0 else (thread * 31 + number * 17) % 400)


class ServiceWorld:
    """
    The service's own table.
    """

    name = "service"

    def __init__(self, engine: Engine) -> None:
        self.target = AuditService(engine)
        self.target.create_schema()

    def record(self, buffer: AuditBuffer, thread: int, number: int) -> int:
        return buffer.record(
            "k", actor=str(thread), resource=str(number), details={"pad": pad(thread, number)}
        )

    def rows(self, engine: Engine) -> list[Row]:
        query = sqlalchemy.select(
            audit_log.c.buffer_id,
            audit_log.c.seq,
            audit_log.c.actor,
            audit_log.c.resource,
            audit_log.c.details,
        ).order_by(audit_log.c.id)
        with engine.connect() as connection:
            found = connection.execute(query).all()
        return [
            (buffer.hex, int(thread), int(number), details["pad"], seq)
            for buffer, seq, thread, number, details in found
        ]

    def forget(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(audit_log.delete())


class TableWorld:
    """
    A table of the application's own.
    """

    name = "table"

    def __init__(self, engine: Engine) -> None:
        facts.metadata.create_all(engine)
        self.target = TableSink(engine, facts)
        self.target.create_schema()

    def record(self, buffer: AuditBuffer, thread: int, number: int) -> int:
        # The property `buffer_id` would do; a child has only one buffer.
        return buffer.record(
            buffer=buffer.buffer_id.hex, thread=thread, number=number, pad=pad(thread, number)
        )

    def rows(self, engine: Engine) -> list[Row]:
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.select(facts).order_by(facts.c.id)).all()
        return [(buffer, thread, number, filling, 0) for _, buffer, thread, number, filling in found]

    def forget(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(facts.delete())
            connection.execute(position_table.delete())


class Kills:
    """
    The trials of one run.
    """

    def __init__(self, url: str, ring_dir: Path, tally: Tally) -> None:
        self.engine = sqlalchemy.create_engine(url, poolclass=NullPool)
        self.world: Any = {"service": ServiceWorld, "table": TableWorld}[tally.target](self.engine)
        self.ring_dir = ring_dir
        self.tally = tally
        self.acks = b""

    def run(self, trials: int) -> None:
        started = time.monotonic()
        for number in range(trials):
            chance = random.Random(f"{self.tally.seed}/{number}")
            self.record_and_kill(chance)
            if chance.random() < 0.5 or number == trials - 1:
                self.recover(chance)
                self.compare()
        self.tally.seconds = round(time.monotonic() - started, 1)

    def open(self, chance: random.Random) -> AuditBuffer:
        return AuditBuffer(
            self.world.target,
            durability=self.tally.level,
            ring_dir=self.ring_dir,
            ring_bytes=1 << 16,
            max_entry_bytes=1 << 14,
            # In memory thousands of entries wait, and `exit_timeout` is too short for a COMMIT each.
            batch_size=chance.choice([200, 512] if self.tally.level == "memory" else [1, 7, 50, 512]),
            flush_interval=chance.choice([0.001, 0.01, 0.1]),
            sync_interval=0.02,
            block_timeout=30,
            exit_timeout=30,
            handle_signals=[] if self.tally.signal == "KILL" else ["SIGTERM"],
            # A kill is no reason for a batch to fail: what is in the database already is not tried again. (A server may
            # be at the killed process's last COMMIT still; then the fence makes one attempt fail.)
            on_error=fail if self.tally.database == "sqlite" else None,
        )

    # One child records and is killed ------------------------------------------------------------------------------

    def record_and_kill(self, chance: random.Random) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            threading.excepthook = fail_in_thread
            run_child(lambda: self.record_for_ever(chance, write))
        os.close(write)
        self.acks += listen(read, chance.uniform(0.005, 0.3))
        os.kill(pid, signal.Signals[f"SIG{self.tally.signal}"])
        # The pipe ends with the child.
        self.acks += listen(read, 60)
        if not select.select([read], [], [], 0)[0]:
            os.kill(pid, signal.SIGABRT)  # it hangs; faulthandler shows where
        os.close(read)
        self.check_end(os.waitpid(pid, 0)[1])
        self.tally.trials += 1

    def check_end(self, status: int) -> None:
        # Before the handler was there, the signal ended the child on the spot.
        expected = {signal.Signals[f"SIG{self.tally.signal}"].value}
        if self.tally.signal == "TERM":
            expected.add((128 + signal.SIGTERM) << 8)
        if status not in expected:
            print(f"trial {self.tally.trials}: the recording child ended with {status}", file=sys.stderr)
            self.tally.ended_badly += 1

    def record_for_ever(self, chance: random.Random, write: int) -> None:
        threads = chance.randint(2, 8)
        buffer = self.open(chance)
        own = buffer.buffer_id.bytes
        os.write(write, ACK.pack(own, 255, 0, 0))

        def record(thread: int) -> None:
            number = 0
            while True:
                number += 1
                try:
                    seq = self.world.record(buffer, thread, number)
                except BufferClosed:
                    return  # the exit hook was here
                os.write(write, ACK.pack(own, thread, number, seq))

        for thread in range(1, threads):
            threading.Thread(target=record, args=(thread,), daemon=True).start()
        record(0)

    # Others deliver what it left ------------------------------------------------------------------------------------

    def recover(self, chance: random.Random) -> None:
        while True:
            patience = chance.uniform(0.001, 0.06) if chance.random() < 0.3 else 60
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(read)
                run_child(lambda: self.deliver(chance))
            os.close(write)
            done = not select.select([read], [], [], patience)[0]
            if done:
                os.kill(pid, signal.SIGKILL)
                self.tally.recovery_kills += 1
            os.close(read)
            status = os.waitpid(pid, 0)[1]
            if status == 0:
                return
            if not os.WIFSIGNALED(status) or patience == 60:
                raise SystemExit(f"trial {self.tally.trials}: recovery ended with status {status}")

    def deliver(self, chance: random.Random) -> None:
        with self.open(chance) as buffer:
            buffer.flush(timeout=50)
        os._exit(0)

    # And the books are compared -------------------------------------------------------------------------------------

    def compare(self) -> None:
        tally = self.tally
        promised: dict[tuple[str, int, int], int] = {}
        last: dict[tuple[str, int], int] = {}
        buffers = set()
        for own, thread, number, seq in ACK.iter_unpack(self.acks):
            buffer = uuid.UUID(bytes=own).hex
            buffers.add(buffer)
            if thread < 255:
                promised[buffer, thread, number] = seq
                last[buffer, thread] = number
        rows = self.world.rows(self.engine)
        keys = [row[:3] for row in rows]
        tally.acknowledged += len(promised)
        tally.delivered += len(rows)
        tally.lost += len(promised.keys() - set(keys))
        tally.doubled += len(keys) - len(set(keys))
        for buffer, thread, number, filling, _ in rows:
            # A call that was in the middle may have stored its entry; no second one can have.
            tried = number <= last.get((buffer, thread), 0) + 1
            tally.phantom += not (buffer in buffers and tried and filling == pad(thread, number))
        tally.inverted += sum(inversions(rows, buffer, promised) for buffer in buffers)
        leftovers = [path.name for path in self.ring_dir.glob("*")]
        if leftovers:
            print("left behind:", *leftovers, file=sys.stderr)
        tally.leftovers += len(leftovers)
        self.world.forget(self.engine)
        self.acks = b""


def inversions(rows: list[Row], buffer: str, promised: dict[tuple[str, int, int], int]) -> int:
    """
    Return how often the order in the table differs from the order of the calls.
    """
    own = [row for row in rows if row[0] == buffer]
    promises = [promised[row[:3]] for row in own if row[:3] in promised]
    wrong = sum(later <= earlier for earlier, later in itertools.pairwise(promises))
    if any(row[4] for row in own):
        wrong += sum(row[4] != seq for seq, row in enumerate(own, start=1))
        wrong += sum(promised.get(row[:3], row[4]) != row[4] for row in own)
    for thread in {row[1] for row in own}:
        numbers = [row[2] for row in own if row[1] == thread]
        wrong += sum(number != place for place, number in enumerate(numbers, start=1))
    return wrong


def listen(read: int, seconds: float) -> bytes:
    """
    Return what comes through the pipe in that time, or until its other end is closed.
    """
    heard = []
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
        part = os.read(read, 1 << 16)
        if not part:
            break
        heard.append(part)
    return b"".join(heard)


def fail(error: BaseException) -> None:
    """
    End a child in which the writer met an error.
    """
    sys.excepthook(type(error), error, error.__traceback__)
    os._exit(4)


def fail_in_thread(arguments: threading.ExceptHookArgs) -> None:
    fail(arguments.exc_value or RuntimeError())


def run_child(work: Any) -> None:
    """
    Run *work* in a forked child, which never returns into the parent's code.
    """
    try:
        work()
    except SystemExit as end:
        # As the interpreter would, without the time it takes to clear its modules away.
        atexit._run_exitfuncs()
        os._exit(end.code if isinstance(end.code, int) else 3)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--ring-dir", type=Path, required=True)
    parser.add_argument("--level", default="process")
    parser.add_argument("--target", default="service")
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM"])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", default=str(random.randrange(1 << 32)))
    given = parser.parse_args()
    faulthandler.enable()
    tally = Tally(
        given.level, given.target, sqlalchemy.make_url(given.url).get_backend_name(), given.seed, given.signal
    )
    print(f"seed {tally.seed}", file=sys.stderr)
    kills = Kills(given.url, given.ring_dir, tally)
    kills.run(given.trials)
    print(json.dumps(attrs.asdict(tally)))


if __name__ == "__main__":
    main()
