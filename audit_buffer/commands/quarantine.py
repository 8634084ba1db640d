"""
`audit-buffer quarantine`: the entries that a database refused for good: list, show, export them, and bring them back.

What is printed is safe on a terminal, whatever the entries hold; see `_text`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import click
import msgspec
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from audit_buffer._codec import EntryCodec, from_micros
from audit_buffer._values import decode_values
from audit_buffer.commands._database import database, explain, require_sqlite_file
from audit_buffer.commands._group import Trouble
from audit_buffer.commands._shared import database_option, errors
from audit_buffer.commands._text import json_line, visible
from audit_buffer.schema import audit_log
from audit_buffer.sinks._database import Database
from audit_buffer.sinks._quarantine import Quarantined, quarantined, restore_entry
from audit_buffer.sinks._table import TableSink


__all__ = ["quarantine"]

_of_buffer = click.option("--buffer-id", type=click.UUID, help="Only entries of this buffer.")
_number = click.option(
    "--seq", type=click.IntRange(min=1), help="Only the entry of this number; needs --buffer-id."
)


@click.group()
def quarantine() -> None:
    """
    Look after the entries that the database refused for good.

    \b
      audit-buffer quarantine list --db postgresql+psycopg://me@host/app
      audit-buffer quarantine show --db … --buffer-id 3f0c… --seq 17
      audit-buffer quarantine retry --db …

    Each keeps its seq and its place. Remove what refused it (a constraint, a trigger, a column that is too small), then retry.
    """


@quarantine.command("list")
@database_option
@_of_buffer
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the entry.")
def list_(url: str, buffer_id: UUID | None, as_json: bool) -> None:
    """
    Print what is in quarantine, a line each; exit code 1 when there is something.
    """
    count = 0
    require_sqlite_file(url)
    with database(url) as engine:
        for count, found in enumerate(quarantined(engine, buffer_id=buffer_id), 1):  # noqa: B007
            click.echo(json_line(described(found)) if as_json else _line(found))
    if count:
        raise click.exceptions.Exit(1)
    errors().print("nothing is in quarantine")


@quarantine.command()
@database_option
@click.option("--buffer-id", type=click.UUID, required=True, help="Whose entry.")
@click.option("--seq", type=click.IntRange(min=1), required=True, help="Its number.")
def show(url: str, buffer_id: UUID, seq: int) -> None:
    """
    Print all that is known of one entry.
    """
    require_sqlite_file(url)
    with database(url) as engine:
        found = next(quarantined(engine, buffer_id=buffer_id, seq=seq), None)
    if found is None:
        raise Trouble(f"entry {seq} of buffer {buffer_id.hex} is not in quarantine")
    for name, value in described(found).items():
        click.echo(
            f"{name:<12} {json_line(value) if isinstance(value, dict | list) else visible(str(value))}"
        )


@quarantine.command()
@database_option
@_of_buffer
def export(url: str, buffer_id: UUID | None) -> None:
    """
    Write everything in quarantine to standard output, one JSON object a line, with the entry's bytes as base64.
    """
    require_sqlite_file(url)
    with database(url) as engine:
        for found in quarantined(engine, buffer_id=buffer_id):
            click.echo(json_line({**described(found), "payload": base64.b64encode(found.payload).decode()}))


@quarantine.command()
@database_option
@_of_buffer
@_number
@click.option("--table", metavar="NAME", help="The own table that entries of a TableSink go into.")
def retry(url: str, buffer_id: UUID | None, seq: int | None, table: str | None) -> None:
    """
    Put the entries where they belong, each in a transaction of its own: in place of its quarantine row.

    What is still refused stays in quarantine, with the reason on standard error and exit code 1. Entries of an own table need
    --table, and keep their values, not the types of a mapped class; where those matter, call `TableSink.retry_quarantined()`.
    """
    if seq is not None and buffer_id is None:
        raise click.UsageError("--seq needs --buffer-id")
    require_sqlite_file(url)
    with database(url) as engine:
        waiting = list(quarantined(engine, buffer_id=buffer_id, seq=seq))
        refused = _retry_all(engine, waiting, table)
    click.echo(f"{len(waiting) - refused} of {len(waiting)} entries are where they belong")
    if refused:
        raise click.exceptions.Exit(1)


def _retry_all(engine: Engine, waiting: Iterable[Quarantined], table: str | None) -> int:
    """
    Return how many are still refused.
    """
    own = None if table is None else TableSink(engine, sa.Table(table, sa.MetaData(), autoload_with=engine))
    target = Database(engine)
    refused = 0
    try:
        for found in waiting:
            try:
                _retry(target, own, found)
            except (SQLAlchemyError, LookupError, ValueError, TypeError, msgspec.MsgspecError) as error:
                refused += 1
                errors().print(f"{found.buffer_id.hex} {found.seq}: {explain(error)}", soft_wrap=True)
    finally:
        target.close()
        if own is not None:
            own.close()
    return refused


def _retry(target: Database, own: TableSink | None, found: Quarantined) -> None:
    if found.table == audit_log.name:
        restore_entry(target, found)
    elif own is None:
        raise LookupError("belongs into an own table: name it with --table")
    else:
        own.retry_quarantined(found.buffer_id, found.seq)


def described(found: Quarantined) -> dict[str, Any]:
    """
    Return *found* for people and programs, the entry with its fields where it can be read.
    """
    return {
        "table": str(found.table),
        "buffer_id": found.buffer_id.hex,
        "seq": found.seq,
        "recorded_at": found.recorded_at.isoformat(),
        "error": found.error,
        "entry": _entry(found),
    }


def _entry(found: Quarantined) -> dict[str, Any] | None:
    try:
        if found.table != audit_log.name:
            values = decode_values(found.payload)[1]
            return {
                name: value if isinstance(value, int | float | str | None) else str(value)
                for name, value in values.items()
            }
        row = EntryCodec.decode(found.payload)
        occurred = row.recorded if row.occurred is None else row.occurred
        return {
            "recorded_at": from_micros(row.recorded).isoformat(),
            "occurred_at": from_micros(occurred).isoformat(),
            "event_type": row.event_type,
            "actor": row.actor,
            "resource": row.resource,
            "outcome": row.outcome,
            "correlation_id": row.correlation_id,
            "details": row.details_object(),
        }
    except (msgspec.MsgspecError, OverflowError, ValueError):
        return None


def _line(found: Quarantined) -> str:
    return f"{found.buffer_id.hex} {found.seq:>8} {found.recorded_at:%Y-%m-%d %H:%M:%S} {visible(found.error)[:120]}"
