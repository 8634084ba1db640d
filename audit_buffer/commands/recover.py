"""
`audit-buffer recover`: deliver the rings of ended processes without starting their application.

Guarantees:
    * Each entry gets into the table once, also when this is killed and repeated, or when the application adopts the same
      ring at the same time: a ring is locked while it is delivered, and the position is read from the table.
    * A ring with a living owner is left alone, and so is one whose entries only its application can write.
    * A ring file is removed only after all it held is in the table, or in quarantine: what the table refuses for good is narrowed
      as the buffer does it. A violated foreign key is given the same time to pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import attrs
import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from audit_buffer._adoption import Adoption, Orphan
from audit_buffer._restoring import AdoptedRing, Loss
from audit_buffer._ring_recovery import RingReport, RingState, is_for, orphans
from audit_buffer._timing import retry_delays
from audit_buffer.commands._database import database, require_audit_log, require_sqlite_file
from audit_buffer.commands._interrupt import Interrupt
from audit_buffer.commands._rings import SERVICE_LABEL, described, file_name, ring_directory, rings_in
from audit_buffer.commands._shared import errors
from audit_buffer.commands._text import json_line, visible
from audit_buffer.config import BufferConfig
from audit_buffer.errors import EntryQuarantined, IntegrityAlarm, RingError
from audit_buffer.sinks._entries import EntrySink
from audit_buffer.sinks._faults import classify
from audit_buffer.sinks._protocol import Batch


__all__ = ["recover"]

_CONFIG = BufferConfig()


@click.command()
@ring_directory
@click.option(
    "--db", "url", metavar="URL", required=True, help="Database of the application, as a SQLAlchemy URL."
)
@click.option(
    "--force",
    is_flag=True,
    help="Deliver although this database lacks entries that the ring knows to be committed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def recover(directory: Path, url: str, force: bool, as_json: bool) -> None:
    """
    Write what ended processes left in the rings of RING_DIR into the audit log, each entry once.

    \b
      audit-buffer inspect /var/lib/app/ring
      audit-buffer recover /var/lib/app/ring --db postgresql+psycopg://me@host/app

    The application does the same by itself when it starts; this is for one that will not start again. It can be interrupted and
    repeated. Ends with 1 when a ring was not delivered in full: a living process owns it, it is damaged (its
    intact part is delivered and the file set aside), or it holds entries of another kind of target, which only their
    application can deliver.
    """
    require_sqlite_file(url)
    with database(url) as engine, Interrupt() as interrupt:
        require_audit_log(engine)
        found = rings_in(directory)
        run = Recovery(EntrySink(engine), force=force)
        run.leave(found)
        with run, _progress(found) as progress:
            run.deliver(directory, interrupt, progress)
    click.echo(json_line(run.summary()) if as_json else _as_text(run.summary()))
    if interrupt.signum is not None:
        raise click.exceptions.Exit(128 + interrupt.signum)
    if run.left:
        raise click.exceptions.Exit(1)


def _progress(found: list[RingReport]) -> Progress:
    console = errors()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task("recover", total=sum(report.entries for report in found if _is_ours(report)))
    return progress


def _is_ours(report: RingReport) -> bool:
    return (
        is_for(report.label or "", SERVICE_LABEL)
        and not report.alive
        and report.state is not RingState.SET_ASIDE
    )


@attrs.define
class Recovery:
    """
    One pass over the orphans of a directory.

    Attributes:
        rings: Rings that were delivered.
        entries: Entries that they offered.
        written: Rows that the table has gained; the others were there already.
        left: What was not delivered in full: file and reason.
    """

    _sink: EntrySink
    _force: bool = attrs.field(kw_only=True)
    _there: int = attrs.field(
        default=0, init=False
    )  # last seq of the ring in hand that the table had already
    _pauses: Iterator[float] | None = attrs.field(default=None, init=False)
    rings: int = 0
    entries: int = 0
    written: int = 0
    left: list[dict[str, str]] = attrs.Factory(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.close()

    def leave(self, found: list[RingReport]) -> None:
        """
        Note the rings that are not touched.
        """
        for report in found:
            if report.state is RingState.SET_ASIDE:
                continue  # That was said when it was set aside.
            if report.alive:
                self._leave(file_name(report), f"{described(report)}, which delivers it itself")
            elif report.label is not None and not is_for(report.label, SERVICE_LABEL):
                self._leave(
                    file_name(report),
                    f"holds entries for {report.label!r}, which only its application can deliver: start it",
                )

    def deliver(self, directory: Path, interrupt: Interrupt, progress: Progress) -> None:
        """
        Deliver every orphan, batch by batch, until there is none left or a signal comes.
        """
        rings = orphans(directory, SERVICE_LABEL, on_refused=self._refused)
        adoption = Adoption(self._accepted(rings), self._sink, _CONFIG, self._refused, self._quarantined)
        adoption.on_lost = self._lost
        try:
            while not interrupt.requested():
                found = adoption.next_batch()
                if found is None:
                    return
                orphan, batch = found
                if not self._wrote(orphan, batch):
                    continue
                orphan.committed(batch)
                self.entries += len(batch.stored)
                self.written += sum(seq > self._there for seq, _ in batch.stored)
                progress.advance(progress.task_ids[0], len(batch.stored))
        finally:
            adoption.close()

    def _wrote(self, orphan: Orphan, batch: Batch) -> bool:
        """
        Write *batch* or a piece of it, and tell whether all of it is in the table.
        """
        try:
            orphan.write(batch)
        except IntegrityAlarm as alarm:
            self._leave(batch.buffer_id.hex, visible(str(alarm)))
            orphan.go_on_as(alarm)
        except Exception as error:
            if not classify(error).may_pass:
                raise
            # The narrowing counts how often, and ends it by quarantine.
            self._pauses = self._pauses or retry_delays(_CONFIG.retry_backoff, _CONFIG.retry_backoff_max)
            time.sleep(next(self._pauses))
            return False
        self._pauses = None
        return orphan.has(batch)

    def _accepted(self, rings: Iterator[Any]) -> Iterator[AdoptedRing]:
        for ring in rings:
            self._there = self._sink.position(ring.buffer_id)
            if self._there < ring.committed_seq and not self._force:
                self._leave(
                    visible(ring.path.name),
                    f"says that its entries through {ring.committed_seq} are committed, but this database has them only "
                    f"through {self._there}: is it another one? If rows were deleted since, use --force",
                )
                ring.close()
                continue
            self.rings += 1
            yield ring

    def _quarantined(self, error: EntryQuarantined) -> None:
        self._leave(error.buffer_id.hex, visible(str(error)))

    def _lost(self, loss: Loss) -> None:
        there = f"the database has lost seq {loss.first_seq} to {loss.last_seq}"
        if loss.kept_after >= loss.first_seq:
            self._leave(
                loss.buffer_id.hex, f"{there}; the ring does not hold those up to {loss.kept_after} any more"
            )
        else:
            errors().print(f"{loss.buffer_id.hex}: {there}; they are written again", soft_wrap=True)

    def _refused(self, error: RingError) -> None:
        self._leave(visible(error.path.name), visible(str(error)))

    def _leave(self, name: str, reason: str) -> None:
        self.left.append({"file": name, "reason": reason})
        errors().print(f"{name}: {reason}", soft_wrap=True)

    def summary(self) -> dict[str, Any]:
        """
        Return what happened, for people and programs.
        """
        return {
            "rings": self.rings,
            "entries": self.entries,
            "written": self.written,
            "already_there": self.entries - self.written,
            "left": self.left,
        }


def _as_text(summary: dict[str, Any]) -> str:
    shown = {
        "rings delivered": summary["rings"],
        "entries": summary["entries"],
        "  written": summary["written"],
        "  already there": summary["already_there"],
        "files left": len(summary["left"]),
    }
    return "\n".join(f"{name:<22}{value:>12,}" for name, value in shown.items())
