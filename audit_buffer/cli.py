"""
`audit-buffer`: the command line, of the extra ``[cli]``.

Every command is named here and lives in a module of its own in `commands`, which is imported when the command runs:
``--help`` loads none of them. Without click and rich the entry point says what to install and ends with exit code 2.

Exit codes: 0 done; 1 done, but some of the input was bad; 2 bad usage, or a database or file that cannot be used;
130 and 143 ended by SIGINT and SIGTERM.
"""

from __future__ import annotations

import sys

from audit_buffer import __version__


__all__ = ["main"]

# Name of the command, its module below `commands` and its attribute there; the line that --help shows for it.
COMMANDS = {
    "demo": "Show what a domain operation waits for, without and with the buffer.",
    "replay": "Read NDJSON events from a file or a pipe into the audit log.",
    "tail": "Print the last entries of the audit log, and follow it.",
    "inspect": "Show the ring files of a folder: who owns each, and what it holds.",
    "recover": "Deliver what ended processes left in the ring files of a folder.",
    "quarantine": "Look after the entries that the database refused for good.",
    "doctor": "Examine a database and its ring files, and say what to do.",
    "bench": "Hold the buffer against its targets on this machine.",
}

_HELP = """
Write, read and look after an audit log.

\b
See it work, in a temporary folder, in under ten seconds:
  audit-buffer demo
Import events, one JSON object a line, and look at them:
  audit-buffer replay events.ndjson --db sqlite:///audit.db
  audit-buffer tail --db sqlite:///audit.db
Audit a machine's journal as it grows:
  journalctl -f -o json | audit-buffer replay - --db sqlite:///audit.db
Follow the audit log of a running application:
  audit-buffer tail --follow --db postgresql+psycopg://me@host/app
See what a killed application has left, and deliver it:
  audit-buffer inspect /var/lib/app/ring
  audit-buffer recover /var/lib/app/ring --db postgresql+psycopg://me@host/app
Before the first deployment, and whenever something is odd:
  audit-buffer doctor --db postgresql+psycopg://me@host/app --ring-dir /var/lib/app/ring

A database is named by its SQLAlchemy URL. Exit codes: 0 done, 1 some of the input was bad, 2 bad usage or an
unusable database or file, 130 interrupted.
"""

try:
    import click
    import rich

    from audit_buffer.commands._group import LazyGroup
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("click", "rich"):
        raise
    _missing = error.name

    def main() -> None:
        """
        Say what is missing.
        """
        sys.stderr.write(
            f"audit-buffer: the command line needs {_missing}; install it with: pip install 'audit-buffer[cli]'\n"
        )
        sys.exit(2)

else:
    del rich  # Imported to find out, early, whether it is there.

    @click.group(
        cls=LazyGroup, table=COMMANDS, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]}
    )
    @click.version_option(__version__, prog_name="audit-buffer")
    @click.option("-v", "--verbose", is_flag=True, help="Log what the buffer does, on standard error.")
    def main(verbose: bool) -> None:
        from audit_buffer.commands import _shared  # noqa: PLC0415  (not for --help)

        _shared.prepare_streams(verbose=verbose)


if __name__ == "__main__":
    main()
