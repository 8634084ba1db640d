"""
`audit-buffer replay`: NDJSON from a file or a pipe into the audit log of any database.

Guarantees:
    * Every line that can be an entry is one, in the order of the lines; a line that cannot is named with the reason.
    * SIGINT and SIGTERM end the reading; every complete line read until then is committed. A second one ends the waiting.
    * When the database stops taking entries, the summary says through which line the input is in the database.

The buffer waits for room as long as the database takes entries at all: `on_full` of a settings file plays no part.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import UUID

import click

from audit_buffer.buffer import AuditBuffer
from audit_buffer.commands._database import create_audit_log, database, explain
from audit_buffer.commands._fields import DEFAULT_PATHS, BadLine, Fields
from audit_buffer.commands._group import Trouble
from audit_buffer.commands._interrupt import Interrupt
from audit_buffer.commands._lines import LineReader
from audit_buffer.commands._progress import ReplayProgress
from audit_buffer.commands._shared import buffer_options, config_from, database_option
from audit_buffer.commands._text import json_line, visible
from audit_buffer.config import BufferConfig
from audit_buffer.errors import AuditBufferError, BufferFull, EntryRejected, FlushTimeout
from audit_buffer.service import AuditService


__all__ = ["replay"]

_F = TypeVar("_F", bound=Callable[..., Any])

# What is not committed is still in the input, so the ring needs no file; give up after half a minute of failing.
_DEFAULTS: dict[str, object] = {"durability": "memory", "delivery_timeout": 30.0}
_BAD_LINES_SHOWN = 20
_LOOK = 0.5  # seconds between two looks at signals and progress while waiting for the database
# JSON that is all escapes is six times as long as what is stored.
_LINE_PER_ENTRY = 8


def _open(ctx: click.Context, param: click.Parameter, value: str) -> Any:
    try:
        return click.File("rb").convert(value, param, ctx)
    except RuntimeError as error:
        raise click.BadParameter("standard input is closed") from error


def _path_option(name: str, what: str) -> Callable[[_F], _F]:
    field = name.replace("-", "_")
    option: Callable[[_F], _F] = click.option(
        f"--{name}",
        field,
        metavar="PATH",
        multiple=True,
        help=f"{what}  [default: {', '.join(DEFAULT_PATHS[field])}]",
    )
    return option


@click.command()
@click.argument("file", callback=_open)
@database_option
@_path_option("event-type", "What happened; a line without it is bad.")
@_path_option("actor", "Who did it.")
@_path_option("resource", "What it was done to.")
@_path_option("outcome", "How it ended; success where there is nothing.")
@_path_option("time", "When it happened; now where there is nothing.")
@_path_option("correlation-id", "What ties it to other entries.")
@click.option("--strict", is_flag=True, help="Stop at the first bad line; what came before it is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@buffer_options
def replay(
    file: BinaryIO,
    url: str,
    strict: bool,
    as_json: bool,
    toml: Path | None,
    **options: Any,
) -> None:
    """
    Read events from FILE, one JSON object a line, into the audit log; - reads a pipe.

    \b
      audit-buffer replay cloudtrail.ndjson --db postgresql+psycopg://me@host/app
      journalctl -o json | audit-buffer replay -
      zcat app.log.gz | audit-buffer replay - --event-type event.action \\
          --actor user.name --time @timestamp --resource =billing

    A PATH leads through names and array positions (userIdentity.arn, resources.0.ARN); \\. is a dot in a name, and
    =TEXT is the text itself. Give an option several times to try several paths. The whole object becomes the details.

    Times are ISO 8601 (UTC if they have no zone) or numbers since 1970: seconds, milliseconds, microseconds or
    nanoseconds, told apart by their size.

    Ends with 1 when a line was bad: all others are stored, and standard error says which line and why.
    """
    try:
        fields = Fields({field: options.pop(field) for field in DEFAULT_PATHS})
    except ValueError as error:
        raise click.UsageError(f"a PATH {error}") from error
    config = _lossless(config_from(toml, defaults=_DEFAULTS, given=options))
    with database(url) as engine, Interrupt() as interrupt:
        service = AuditService(engine, config)
        create_audit_log(service)
        reader = LineReader(file, config.max_entry_bytes * _LINE_PER_ENTRY, interrupt.requested)
        with ReplayProgress(reader.size()) as progress:
            run = Replay(AuditBuffer(service, config), fields, progress, strict=strict)
            run.run(reader)
        # Whoever pressed Ctrl-C twice does not wait for a database that hangs.
        summary = run.summary(rows=None if run.gave_up else _rows(service, run.buffer_id))
    click.echo(json_line(summary) if as_json else _as_text(summary))
    _end(run, interrupt)


def _lossless(config: BufferConfig) -> BufferConfig:
    """
    Return *config* with what a replay cannot leave to choice.
    """
    room = config.queue_max_bytes or config.max_entry_bytes
    return config.evolve(
        on_full="block",
        block_timeout=_LOOK,
        exit_timeout=min(config.exit_timeout, 1.0),
        # What cannot fit into the queue is a bad line, not something to wait for.
        max_entry_bytes=min(config.max_entry_bytes, room),
    )


def _rows(service: AuditService, buffer_id: UUID) -> int | None:
    try:
        return service.count(buffer_id=buffer_id)
    except Exception as error:
        click.echo(f"The rows were not counted: {explain(error)}", err=True)
        return None


def _end(run: Replay, interrupt: Interrupt) -> None:
    """
    Leave with the exit code that fits.
    """
    if run.failure is not None:
        raise Trouble(
            f"the database stopped taking entries: {visible(str(run.failure))}\n"
            f"The input is in it through line {run.committed_line}; mend the database and go on behind that line, where "
            "any entries are that are now said to be lost."
        )
    if interrupt.signum is not None:
        raise click.exceptions.Exit(128 + interrupt.signum)
    if run.bad or run.quarantined:
        raise click.exceptions.Exit(1)


class Replay:
    """
    One pass over the input.

    Args:
        audit: An open buffer; it is closed at the end.
    """

    def __init__(
        self, audit: AuditBuffer, fields: Fields, progress: ReplayProgress, *, strict: bool = False
    ) -> None:
        self._audit = audit
        self.buffer_id = audit.buffer_id
        self._fields = fields
        self._progress = progress
        self._strict = strict
        # The lines of the entries that may not be committed yet.
        self._recent: deque[int] = deque()
        self.lines = 0
        self.entries = 0
        self.bad = 0
        self.bad_lines: list[dict[str, Any]] = []
        self.failure: AuditBufferError | None = None
        self.gave_up = False
        self.committed_line = 0
        self._started = time.perf_counter()
        self.seconds = 0.0

    def run(self, reader: LineReader) -> None:
        """
        Record every line and wait until all are committed; what ends it early is kept in *failure*.
        """
        try:
            self._record_all(reader)
            self._drain(reader)
        except KeyboardInterrupt:
            # The second signal: leave what is not committed.
            self.gave_up = True
        except AuditBufferError as error:
            self.failure = error
        self.seconds = time.perf_counter() - self._started
        self._note_committed()

    def _record_all(self, reader: LineReader) -> None:
        consumed = 0
        for line in reader:
            self.lines += 1
            # An empty line is no entry, and no mistake either.
            if line is None or (line and not line.isspace()):
                self._record(line)
                if self._strict and self.bad:
                    return
            if reader.consumed != consumed:
                consumed = reader.consumed
                self._show(consumed)

    def _record(self, line: bytes | None) -> None:
        try:
            if line is None:
                raise BadLine("is longer than any entry may be; see --max-entry-bytes")
            self._wait_and_record(self._fields.arguments(line))
        except (BadLine, EntryRejected) as error:
            self._complain(str(error))
        else:
            self.entries += 1
            self._recent.append(self.lines)

    def _wait_and_record(self, arguments: dict[str, Any]) -> None:
        while True:
            try:
                self._audit.record(**arguments)
            except BufferFull:
                # The database is slow, or away: wait on. Once it has failed for delivery_timeout, record() says so.
                continue
            return

    def _complain(self, reason: str) -> None:
        self.bad += 1
        if self.bad <= _BAD_LINES_SHOWN:
            reason = visible(reason)
            self.bad_lines.append({"line": self.lines, "reason": reason})
            self._progress.say(f"line {self.lines}: {reason}")
        elif self.bad == _BAD_LINES_SHOWN + 1:
            self._progress.say("More lines are bad; from here on they are only counted.")

    def _drain(self, reader: LineReader) -> None:
        while True:
            try:
                self._audit.close(timeout=_LOOK)
            except FlushTimeout:
                self._show(reader.consumed)
            else:
                self._show(reader.consumed)
                return

    def _note_committed(self) -> None:
        pending = self._audit.stats().pending
        while len(self._recent) > pending:
            self.committed_line = self._recent.popleft()

    def _show(self, consumed: int) -> None:
        self._note_committed()
        self._progress.update(consumed, committed=self._audit.stats().committed, bad=self.bad)

    @property
    def quarantined(self) -> int:
        """
        Return how many entries the database refused for good; they are committed, in quarantine.
        """
        return self._audit.stats().quarantined

    def summary(self, *, rows: int | None) -> dict[str, Any]:
        """
        Return what happened, for people and programs.
        """
        committed = self._audit.stats().committed
        return {
            "buffer_id": self.buffer_id,
            "lines": self.lines,
            "entries": self.entries,
            "committed": committed,
            "quarantined": self.quarantined,
            "bad_lines": self.bad,
            "bad": self.bad_lines,
            "committed_through_line": self.committed_line,
            "seconds": round(self.seconds, 3),
            "entries_per_second": round(committed / max(self.seconds, 1e-9)),
            "rows_in_database": rows,
        }


def _as_text(summary: dict[str, Any]) -> str:
    shown = {
        "lines": summary["lines"],
        "entries": summary["entries"],
        "  committed": summary["committed"],
        "  quarantined": summary["quarantined"],
        "bad lines": summary["bad_lines"],
        "seconds": summary["seconds"],
        "entries per second": summary["entries_per_second"],
        "rows in the database": summary["rows_in_database"],
    }
    counts = "\n".join(
        f"{name:<22}{'unknown' if value is None else format(value, ','):>12}" for name, value in shown.items()
    )
    return f"{counts}\nThey are under buffer_id {summary['buffer_id']}."
