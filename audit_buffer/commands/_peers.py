"""
What a Python user would pick instead, each as small as it can honestly be: `record()` with the service's arguments, and rows
in the same SQLite table at the other end (WAL, synchronous=FULL).

Two settings of each: *careful*, with which nothing is lost as long as it is finished properly, and the defaults of its
authors. All encode the details with msgspec, which is ours, and the fastest that there is. QuestDB's client writes into its own buffer only, because there is no QuestDB here to send it to.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from time import time_ns
from typing import Any
from warnings import catch_warnings, simplefilter

import attrs
import msgspec

from audit_buffer.commands._goals import PEERS
from audit_buffer.schema import audit_log


__all__ = ["ADAPTERS", "Adapter", "Opened"]

# (event_type, actor, resource, outcome, details, correlation_id), as in record().
_Facts = tuple[str, str | None, str | None, str, dict[str, Any] | None, str | None]
_FACTS = ("event_type", "actor", "resource", "outcome", "details", "correlation_id")
_MOMENT = "strftime('%Y-%m-%d %H:%M:%f000', ?, 'unixepoch')"
_INSERT = (
    f"INSERT INTO {audit_log.name} (recorded_at, occurred_at, {', '.join(_FACTS)}) "  # noqa: S608  (names of ours)
    f"VALUES ({_MOMENT}, {_MOMENT}, ?, ?, ?, ?, ?, ?)"
)
_BATCH = 512


@attrs.frozen
class Opened:
    """
    A peer at work.

    Attributes:
        record: Takes the arguments of `AuditService.record()`.
        finish: Returns when all that was recorded has arrived.
        close: Ends it properly.
    """

    record: Callable[..., object]
    finish: Callable[[], object]
    close: Callable[[], object]


@attrs.frozen(kw_only=True)
class Adapter:
    """
    How to open a peer.

    Attributes:
        module: What has to be importable; None for the standard library.
        install: The name of its distribution.
        open: Called with the path of the SQLite file, and whether to be careful.
        commits_each: Whether it commits each entry by itself, and so takes as long as the disk for each.
        arrives: Whether its entries arrive in the database at all.
    """

    name: str
    open: Callable[[str, bool], Opened]
    module: str | None = None
    install: str | None = None
    commits_each: bool = False
    arrives: bool = True

    @property
    def is_installed(self) -> bool:
        """
        Tell whether it can be opened here.
        """
        try:
            return self.module is None or find_spec(self.module) is not None
        except ModuleNotFoundError:  # its parent package is not there
            return False


class _Rows:
    """
    The far end: rows into `audit_log` through one connection of the driver, made by the thread that first inserts.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def insert(self, entries: Sequence[tuple[float, _Facts]]) -> None:
        """
        Insert and COMMIT; the details become JSON here, off the caller's thread.
        """
        if self._connection is None:
            # close() comes from another thread.
            self._connection = sqlite3.connect(
                self._path, isolation_level=None, timeout=60, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
        rows = [
            (moment, moment, *facts[:4], msgspec.json.encode(facts[4]).decode(), facts[5])
            for moment, facts in entries
        ]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_INSERT, rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """
        Give the connection up.
        """
        if self._connection is not None:
            self._connection.close()


def _recorder(pass_on: Callable[[_Facts], object]) -> Callable[..., object]:
    """
    Return a `record()` with the service's signature that passes the facts on.
    """

    def record(
        event_type: str,
        *,
        actor: str | None = None,
        resource: str | None = None,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        pass_on((event_type, actor, resource, outcome, details, correlation_id))

    return record


def _queue_listener(path: str, careful: bool) -> Opened:
    """
    The standard library's QueueHandler in front, its QueueListener behind; its queue has no bound. Careful: stop() is called.
    """
    rows = _Rows(path)

    class Insert(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            rows.insert([(record.created, record.__dict__["facts"])])

    waiting: queue.Queue[Any] = queue.Queue()
    logger = logging.Logger("audit", logging.INFO)  # noqa: LOG001  (nobody else is to find it)
    logger.addHandler(logging.handlers.QueueHandler(waiting))
    listener = logging.handlers.QueueListener(waiting, Insert())
    listener.start()

    def close() -> None:
        listener.stop()
        rows.close()

    record = _recorder(lambda facts: logger.info(facts[0], extra={"facts": facts}))
    return Opened(record, waiting.join, close)


def _loguru(path: str, careful: bool) -> Opened:
    """
    loguru with ``enqueue=True``: pickles each record into a pipe. Careful: complete() is called.
    """
    rows, logger = _Rows(path), import_module("loguru").logger

    def insert(message: Any) -> None:
        record = message.record
        rows.insert([(record["time"].timestamp(), record["extra"]["facts"])])

    logger.remove()
    handler = logger.add(insert, enqueue=True, format="{message}")

    def close() -> None:
        logger.remove(handler)
        rows.close()

    record = _recorder(lambda facts: logger.bind(facts=facts).info(facts[0]))
    return Opened(record, logger.complete, close)


def _opentelemetry(path: str, careful: bool) -> Opened:
    """
    OpenTelemetry's logger with its batch processor. Careful: a queue with room for all, because it drops when that is full.
    """
    rows = _Rows(path)
    log_record = import_module("opentelemetry._logs").LogRecord
    sdk = import_module("opentelemetry.sdk._logs")
    export = import_module("opentelemetry.sdk._logs.export")

    class Insert(export.LogRecordExporter):  # type: ignore[misc, name-defined]
        def export(self, batch: Sequence[Any]) -> Any:
            rows.insert([(each.log_record.timestamp / 1e9, _facts(each.log_record)) for each in batch])
            return export.LogRecordExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    def _facts(record: Any) -> _Facts:
        texts = dict(record.attributes)
        return (
            record.event_name,
            texts.get("actor"),
            texts.get("resource"),
            texts["outcome"],
            record.body,
            texts.get("correlation_id"),
        )

    settings = {"max_queue_size": 1_000_000} if careful else {}
    provider = sdk.LoggerProvider()
    provider.add_log_record_processor(export.BatchLogRecordProcessor(Insert(), **settings))
    logger = provider.get_logger("audit")

    def emit(facts: _Facts) -> None:
        event_type, actor, resource, outcome, details, correlation_id = facts
        texts = {"actor": actor, "resource": resource, "outcome": outcome, "correlation_id": correlation_id}
        given = {name: text for name, text in texts.items() if text is not None}
        logger.emit(log_record(timestamp=time_ns(), event_name=event_type, body=details, attributes=given))

    def close() -> None:
        provider.shutdown()
        rows.close()

    return Opened(_recorder(emit), provider.force_flush, close)


def _thread_queue(most: int) -> Callable[[str, bool], Opened]:
    """
    Return what opens the application's own queue and thread, which takes up to *most* entries into one transaction.
    """

    def opened(path: str, careful: bool) -> Opened:
        rows = _Rows(path)
        waiting: queue.Queue[tuple[float, _Facts] | None] = queue.Queue()

        def work() -> None:
            while (entry := waiting.get()) is not None:
                batch, ended = [entry], False
                while len(batch) < most and not ended and not waiting.empty():
                    more = waiting.get()
                    ended = more is None
                    batch += [] if more is None else [more]
                rows.insert(batch)
                for _ in batch:
                    waiting.task_done()
                if ended:
                    return

        thread = threading.Thread(target=work, name="peer", daemon=True)
        thread.start()

        def close() -> None:
            waiting.put(None)
            thread.join()
            rows.close()

        record = _recorder(lambda facts: waiting.put((time_ns() / 1e9, facts)))
        return Opened(record, waiting.join, close)

    return opened


def _questdb(path: str, careful: bool) -> Opened:
    """
    QuestDB's client: a row of its line protocol, in its own buffer.
    """
    with catch_warnings():
        simplefilter(
            "ignore", DeprecationWarning
        )  # where its buffer stands by itself is the older of its two interfaces
        ingress = import_module("questdb.ingress")
    buffer = ingress.Buffer(protocol_version=2)
    now, encode, row = ingress.TimestampNanos.now, msgspec.json.encode, buffer.row

    table = str(audit_log.name)

    # Not by way of _recorder(): what it costs would be seen here.
    def record(
        event_type: str,
        *,
        actor: str | None = None,
        resource: str | None = None,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        row(
            table,
            symbols={"event_type": event_type, "outcome": outcome},
            columns={
                "actor": actor,
                "resource": resource,
                "correlation_id": correlation_id,
                "details": encode(details).decode(),
            },
            at=now(),
        )

    return Opened(record, buffer.clear, buffer.clear)


_OPEN: tuple[dict[str, Any], ...] = (
    {"open": _queue_listener, "commits_each": True},
    {"open": _loguru, "module": "loguru", "install": "loguru", "commits_each": True},
    {"open": _opentelemetry, "module": "opentelemetry.sdk._logs", "install": "opentelemetry-sdk"},
    {"open": _thread_queue(1), "commits_each": True},
    {"open": _thread_queue(_BATCH)},
    {"open": _questdb, "module": "questdb", "install": "questdb", "arrives": False},
)
ADAPTERS = {name: Adapter(name=name, **settings) for name, settings in zip(PEERS, _OPEN, strict=True)}
