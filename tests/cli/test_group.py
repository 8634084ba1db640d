"""
The entry point: help, versions, exit codes, and what happens without the extra.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest
import structlog
from click.testing import CliRunner

import audit_buffer
from audit_buffer import ConfigError
from audit_buffer.cli import COMMANDS, main
from audit_buffer.commands._group import LazyGroup
from tests.cli.conftest import COMMAND, Run, environment


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment(), capture_output=True, text=True
    )


def test_help_teaches_by_examples_and_names_every_command(run: Run):
    """
    Who asks for help gets examples, the exit codes, and a line for each command.
    """
    shown = run("--help")

    assert shown.exit_code == 0
    assert "audit-buffer replay events.ndjson --db sqlite:///audit.db" in shown.stdout
    assert "Exit codes: 0 done" in shown.stdout
    assert all(f"\n  {name} " in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_loads_and_explains_itself(run: Run, name: str):
    """
    What --help lists can be asked for its own help.
    """
    shown = run(name, "--help")

    assert shown.exit_code == 0
    assert f"Usage: main {name}" in shown.stdout


def test_help_loads_no_command():
    """
    `audit-buffer --help` is fast: no command is imported for it.
    """
    code = """
import sys
from audit_buffer.cli import main
main(["--help"], standalone_mode=False)
print([name for name in sys.modules if name.startswith("audit_buffer.commands.")])
"""
    assert python(code).stdout.splitlines()[-1] == "['audit_buffer.commands._group']"


def test_the_package_imports_neither_click_nor_rich():
    """
    An application that only records needs none of the command line's libraries. (structlog takes rich if it is there.)
    """
    code = "import sys; sys.modules.update(click=None, rich=None)\nimport audit_buffer; print('imported')"

    assert python(code).stdout == "imported\n"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_entry_point_names_it_and_exits_2(missing: str):
    """
    A missing library of the extra is one line that can be pasted, not a traceback.
    """
    ended = python(f"import sys; sys.modules['{missing}'] = None\nfrom audit_buffer.cli import main; main()")

    assert ended.returncode == 2
    assert "pip install 'audit-buffer[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_missing_module_is_not_mistaken_for_the_extra():
    """
    A broken installation is not blamed on the extra.
    """
    ended = python("import sys; sys.modules['audit_buffer.commands'] = None\nimport audit_buffer.cli")

    assert "audit-buffer[cli]" not in ended.stderr
    assert "ModuleNotFoundError" in ended.stderr


def test_version_is_the_packages(run: Run):
    """
    --version prints the version that the library says it has.
    """
    assert audit_buffer.__version__ in run("--version").stdout


def test_unknown_command_is_bad_usage(run: Run):
    """
    A command that does not exist ends with 2 and points to the help.
    """
    ended = run("nosuch")

    assert ended.exit_code == 2
    assert "No such command 'nosuch'" in ended.stderr


def test_runs_as_a_module():
    """
    `python -m audit_buffer.cli` is the same program.
    """
    ended = subprocess.run(
        [*COMMAND, "--version"], check=False, env=environment(), capture_output=True, text=True
    )

    assert ended.returncode == 0
    assert ended.stdout.startswith("audit-buffer, version ")


def failing_group(error: BaseException) -> LazyGroup:
    class Group(LazyGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            @click.command()
            def fail() -> None:
                raise error

            return fail

    return Group(table={"fail": "Fails."})


@pytest.mark.parametrize(
    "error", [ConfigError("batch_size", 0, "must be more"), PermissionError("not yours")]
)
def test_what_a_user_can_mend_is_a_message_and_exit_code_2(error: Exception):
    """
    The library's own errors and the operating system's come out as a sentence.
    """
    ended = CliRunner().invoke(failing_group(error), ["fail"])

    assert ended.exit_code == 2
    assert ended.stderr == f"Error: {error}\n"


def test_interruption_exits_130():
    """
    Ctrl-C ends with the exit code that shells expect.
    """
    assert CliRunner().invoke(failing_group(KeyboardInterrupt()), ["fail"]).exit_code == 130


def test_a_closed_pipe_is_no_trouble():
    """
    When `| head` has seen enough, nothing is complained about.
    """
    ended = CliRunner().invoke(failing_group(BrokenPipeError(32, "Broken pipe")), ["fail"])

    assert "Error" not in ended.stderr


def test_a_bug_is_not_disguised():
    """
    What nobody foresaw keeps its traceback.
    """
    ended = CliRunner().invoke(failing_group(ZeroDivisionError()), ["fail"])

    assert isinstance(ended.exception, ZeroDivisionError)


def test_verbose_logs_to_standard_error_only(run: Run, tmp_path):
    """
    --verbose says what the buffer does, and leaves standard output to the results.
    """
    ended = run("-v", "replay", "-", "--json", stdin='{"event_type": "a"}\n')

    assert "audit_buffer.batch_committed" in ended.stderr
    assert "audit_buffer." not in ended.stdout
    assert structlog.is_configured()


def test_an_encoding_that_lacks_a_character_gets_an_escape(tmp_path):
    """
    A terminal that cannot show a character gets an escape, not an error.
    """
    (tmp_path / "in").write_text('{"event_type": "caf\u00e9"}\n', encoding="utf-8")
    code = "from audit_buffer.cli import main; main()"
    for arguments in (["replay", "in"], ["tail"]):
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            check=False,
            env=environment(PYTHONIOENCODING="ascii"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
    assert "caf\\xe9" in ended.stdout


def test_the_table_is_true():
    """
    Each name of the table is a module with a command of that name.
    """
    for name in COMMANDS:
        module = import_module(f"audit_buffer.commands.{name}")
        assert getattr(module, name).name == name
    assert list(main.list_commands(click.Context(main))) == list(COMMANDS)
