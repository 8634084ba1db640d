"""
What several commands use: streams and consoles, the option for the database, the options of a buffer.

Standard output is for results, standard error for progress, logs and complaints.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog
from rich.console import Console

from audit_buffer.config import BufferConfig
from audit_buffer.errors import ConfigError


__all__ = ["buffer_options", "config_from", "database_option", "errors", "output", "prepare_streams"]

DEFAULT_DATABASE = "sqlite:///audit.db"

_F = TypeVar("_F", bound=Callable[..., Any])


def prepare_streams(*, verbose: bool) -> None:
    """
    Have characters that a stream cannot encode written as escapes, and logs go to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if verbose:
        # Made for each line anew, so that a progress bar that borrows sys.stderr is not torn.
        structlog.configure(
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr), cache_logger_on_first_use=False
        )


def output() -> Console:
    """
    Return a console on standard output.
    """
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def errors() -> Console:
    """
    Return a console on standard error.
    """
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def database_option(command: _F) -> _F:
    """
    Add ``--db``.
    """
    option: Callable[[_F], _F] = click.option(
        "--db",
        "url",
        metavar="URL",
        default=DEFAULT_DATABASE,
        show_default=True,
        help="Database, as a SQLAlchemy URL such as postgresql+psycopg://user@host/database.",
    )
    return option(command)


_BUFFER_OPTIONS: tuple[Callable[[_F], _F], ...] = (
    click.option(
        "--config",
        "toml",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TOML file with the settings of the buffer, in [audit_buffer] or at its top level; options win.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), help="Entries in one transaction."),
    click.option("--batch-max-bytes", type=click.IntRange(min=1), help="Bytes in one transaction."),
    click.option("--flush-interval", type=click.FloatRange(min=0), help="Seconds an entry waits at most."),
    click.option("--queue-maxsize", type=click.IntRange(min=1), help="Entries that wait at most."),
    click.option("--queue-max-bytes", type=click.IntRange(min=1024), help="Bytes that wait at most."),
    click.option("--max-entry-bytes", type=click.IntRange(min=64), help="Largest entry in bytes."),
    click.option(
        "--durability",
        type=click.Choice(["memory", "process", "periodic", "sync"]),
        help="What survives if this process is killed.",
    ),
    click.option(
        "--ring-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder of the ring file."
    ),
    click.option(
        "--delivery-timeout",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds of failing after which to give up.",
    ),
)


def buffer_options(command: _F) -> _F:
    """
    Add the options of a buffer; the command gets them as keyword arguments for `config_from()`.
    """
    for option in reversed(_BUFFER_OPTIONS):
        command = option(command)
    return command


def config_from(toml: Path | None, *, defaults: dict[str, object], given: dict[str, object]) -> BufferConfig:
    """
    Return the settings: of the options in *given* that are not None, else of the TOML file, else *defaults*.

    Raises:
        click.UsageError: A setting cannot work.
    """
    options = {name: value for name, value in given.items() if value is not None}
    try:
        if toml is None:
            return BufferConfig(**{**defaults, **options})  # type: ignore[arg-type]
        config = BufferConfig.from_toml(toml)
        # A setting that the file leaves at the library's default takes the command's.
        unset = {name: value for name, value in defaults.items() if _is_default(config, name)}
        return config.evolve(**{**unset, **options})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _is_default(config: BufferConfig, name: str) -> bool:
    return bool(getattr(config, name) == getattr(BufferConfig(), name))
