"""
What `record()` takes from its caller: the synchronous service against the buffer, both on SQLite in WAL with FULL.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import perf_counter

from .common import EVENT_TYPE, OnSqlite, event


WAYS = ["synchronous", "buffered"]
SMALL = event()


class OneEvent(OnSqlite):
    """
    One event at a time.
    """

    params = (WAYS,)
    param_names = ("way",)

    def time_record(self, way: str) -> None:
        self.record(EVENT_TYPE, **SMALL)


class PayloadSize(OnSqlite):
    """
    One event with so many bytes of details.
    """

    params = (WAYS, [100, 1_000, 10_000, 100_000])
    param_names = ("way", "bytes")

    def setup(self, way: str, size: int) -> None:
        super().setup(way)
        self.event = event(size)

    def time_record(self, way: str, size: int) -> None:
        self.record(EVENT_TYPE, **self.event)


class Burst(OnSqlite):
    """
    So many events at once, as one domain operation emits them; the database may lag behind.
    """

    params = (WAYS, [10, 100, 1_000])
    param_names = ("way", "events")
    # One burst a sample, each on a buffer that has nothing left to write.
    number = 1

    def time_burst(self, way: str, events: int) -> None:
        record = self.record
        for _ in range(events):
            record(EVENT_TYPE, **SMALL)


class SustainedLoad(OnSqlite):
    """
    Entries a second from the first `record()` until the last one is committed.
    """

    params = (WAYS,)
    param_names = ("way",)
    unit = "entries/s"

    def track_rate(self, way: str) -> float:
        entries = 20_000 if way == "buffered" else 1_000
        started = perf_counter()
        for _ in range(entries):
            self.record(EVENT_TYPE, **SMALL)
        self.finish()
        return entries / (perf_counter() - started)


class Threads(OnSqlite):
    """
    Calls of `record()` a second, all threads together.
    """

    params = (WAYS, [1, 2, 4, 8])
    param_names = ("way", "threads")
    unit = "entries/s"

    def track_rate(self, way: str, threads: int) -> float:
        each = (40_000 if way == "buffered" else 400) // threads
        barrier = Barrier(threads + 1)

        def run() -> None:
            record = self.record
            barrier.wait()
            for _ in range(each):
                record(EVENT_TYPE, **SMALL)

        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(run) for _ in range(threads)]
            barrier.wait()
            started = perf_counter()
            for thread in running:
                thread.result()  # a call that failed is no call
        return each * threads / (perf_counter() - started)
