"""
The click group behind `audit-buffer`: commands that load when they run, and errors that come out as a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from audit_buffer.errors import AuditBufferError


__all__ = ["INTERRUPTED", "LazyGroup", "Trouble"]

INTERRUPTED = 130


class Trouble(click.ClickException):
    """
    What keeps a command from doing its work, with the remedy; exit code 2.
    """

    exit_code = 2


class LazyGroup(click.Group):
    """
    A group that knows its commands by name and imports one only to run it.

    Args:
        table: The line of help of each command by its name. The command is the attribute of that name of the module
            `audit_buffer.commands.<name>`.
    """

    def __init__(self, *args: Any, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """
        Return the names in the order of the table.
        """
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        Import a command.
        """
        if cmd_name not in self._table:
            return None
        module = import_module(f"audit_buffer.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """
        List the commands without importing them.
        """
        with formatter.section("Commands"):
            formatter.write_dl(list(self._table.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """
        Run the command; turn what users can cause, and mend, into a message and an exit code.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            raise  # `| head` has seen enough; click ends quietly.
        except (AuditBufferError, OSError) as error:
            raise Trouble(str(error)) from error
