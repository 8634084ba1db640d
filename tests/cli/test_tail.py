"""
`audit-buffer tail`: the last entries, safe to look at.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from audit_buffer import AuditEntry, AuditService
from audit_buffer.commands._columns import Layout
from audit_buffer.commands.tail import follow_entries
from tests.cli.conftest import Run


NOON = datetime(2023, 7, 10, 12, tzinfo=UTC)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AuditService]:
    service = AuditService(f"sqlite:///{tmp_path / 'audit.db'}")
    service.create_schema()
    yield service
    service.engine.dispose()


def printed(run: Run, *arguments: object) -> list[str]:
    ended = run("tail", *arguments)
    assert ended.exit_code == 0, ended.output
    return ended.stdout.splitlines()


def types(run: Run, *arguments: object) -> list[str]:
    return [json.loads(line)["event_type"] for line in printed(run, "--json", *arguments)]


def test_the_last_entries_are_printed_the_newest_last(run: Run, service: AuditService):
    """
    Twenty entries, or as many as -n says.
    """
    for number in range(30):
        service.record(f"e{number}")

    assert types(run) == [f"e{number}" for number in range(10, 30)]
    assert types(run, "-n", 2) == ["e28", "e29"]
    assert types(run, "-n", 0) == []


def test_filters_choose_entries(run: Run, service: AuditService):
    """
    By event type, actor, resource and time; together they narrow.
    """
    service.record("made", actor="a", resource="r/1", occurred_at=NOON)
    service.record("seen", actor="b", resource="r/1", occurred_at=NOON + timedelta(hours=1))
    service.record("gone", actor="a", resource="r/2")

    assert types(run, "--event-type", "made") == ["made"]
    assert types(run, "--actor", "a") == ["made", "gone"]
    assert types(run, "--resource", "r/1", "--actor", "b") == ["seen"]
    assert types(run, "--since", "2023-07-10T13:00Z") == ["seen", "gone"]
    assert types(run, "--until", "2023-07-10T13:00") == ["made"]
    assert types(run, "--since", "1h") == ["gone"]


def test_a_time_that_is_none_is_bad_usage(run: Run, service: AuditService):
    """
    The message shows how to write one.
    """
    ended = run("tail", "--since", "yesterday")

    assert ended.exit_code == 2
    assert "write 2026-11-24T08:00Z, or 15m" in ended.stderr


def test_json_has_every_field(run: Run, service: AuditService):
    """
    One object a line, with what `entries()` would return.
    """
    service.record(
        "made", actor="a", outcome="denied", details={"n": [1, None]}, correlation_id="c", occurred_at=NOON
    )

    (line,) = printed(run, "--json")
    found = json.loads(line)
    assert list(found) == [field.name for field in AuditEntry.__attrs_attrs__]
    assert (found["details"], found["outcome"], found["occurred_at"]) == (
        {"n": [1, None]},
        "denied",
        "2023-07-10T12:00:00Z",
    )


def test_a_pipe_gets_whole_values_below_a_heading(run: Run, service: AuditService):
    """
    Nothing is cut where grep may look for it.
    """
    service.record("made", actor="a" * 200, occurred_at=NOON, details={"text": "x" * 500})

    heading, line = printed(run)
    assert heading.startswith("occurred (UTC)")
    assert line.startswith("2023-07-10 12:00:00.000  made")
    assert "a" * 200 in line
    assert line.endswith('{"text":"' + "x" * 500 + '"}')


def test_an_empty_log_has_a_heading_of_usual_widths(run: Run, service: AuditService):
    """
    Nothing to print yet is no trouble.
    """
    assert printed(run) == [
        "occurred (UTC)           event type"
        + " " * 16
        + "actor"
        + " " * 17
        + "resource"
        + " " * 14
        + "outcome     details"
    ]


def test_entries_cannot_command_the_terminal(run: Run, service: AuditService):
    """
    Whatever an entry holds, it is printed as escapes, in the table and in JSON: no colour, no C1, no change of direction.
    """
    evil = "\x1b]0;owned\x07\x9b2J\u202etxt.exe\u2066\r\n\u2028\x7f\u200b[red]"
    service.record(evil, actor=evil, resource=evil, outcome=evil, details={evil: evil})

    for arguments in ((), ("--json",)):
        lines = printed(run, *arguments)
        assert len(lines) == (1 if arguments else 2)
        assert all(line.isprintable() for line in lines)
        assert "[red]" in lines[-1]
    assert json.loads(lines[-1])["details"] == {evil: evil}


entry_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@given(entry_texts, st.none() | entry_texts, entry_texts, st.integers(20, 250))
def test_a_line_fits_the_terminal(event_type: str, actor: str | None, outcome: str, width: int):
    """
    On a terminal an entry is one line and no wider than it, also with wide characters.
    """
    entry = AuditEntry(
        recorded_at=NOON,
        occurred_at=NOON,
        event_type=event_type,
        actor=actor,
        outcome=outcome,
        details={"a": outcome},
    )
    layout = Layout([entry], width)

    for line in (layout.heading().plain, layout.row(entry).plain):
        assert cell_len(line) <= width
        assert line.isprintable()


def test_the_widest_column_is_cut_first_and_arns_at_their_start():
    """
    What distinguishes entries stays visible: the end of an ARN, the whole event type.
    """
    arn = "arn:aws:iam::123837392027:role/" + "x" * 60 + "/admin"
    entry = AuditEntry(
        recorded_at=NOON, occurred_at=NOON, event_type="AssumeRole", actor=arn, details={"a": "b" * 99}
    )

    line = Layout([entry], 100).row(entry).plain

    assert "  AssumeRole  " in line
    assert "/admin  " in line
    assert line.endswith("…")
    assert "arn:aws" not in line


def test_a_terminal_gets_the_table_in_its_width(
    service: AuditService, run: Run, monkeypatch: pytest.MonkeyPatch
):
    """
    The width is the terminal's; what did not succeed stands out.
    """
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    service.record("made", actor="a" * 100, outcome="denied", occurred_at=NOON)

    heading, line = printed(run)
    assert "\x1b[1m" in heading
    assert "\x1b[33m2023-07-10 12:00:00" in line
    assert len(line) < 75


def test_following_prints_what_comes_in_the_columns_of_the_first(service: AuditService):
    """
    The last entries first, then each new one once, filtered alike; one heading in all.
    """
    service.record("old", actor="a")
    found: list[list[str]] = []
    looks = iter(["new", "newer", None])

    def wait(seconds: float) -> bool:
        assert seconds == 0.25
        event_type = next(looks)
        if event_type:
            service.record(event_type, actor="a")
            service.record("other", actor="b")
        return event_type is None

    def printer(entries) -> None:
        found.append([entry.event_type for entry in entries])

    follow_entries(service, printer, wait, count=10, interval=0.25, actor="a")

    assert found == [["old"], ["new"], ["newer"]]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_follow_shows_entries_as_they_are_recorded_until_interrupted(
    start: Callable[..., subprocess.Popen[str]], service: AuditService, arguments: tuple[str, ...]
):
    """
    `tail --follow` in another process sees an entry after its COMMIT; Ctrl-C ends it with 130 and no traceback.
    """
    service.record("first")
    process = start("tail", "--follow", "--interval", 0.05, *arguments)
    lines = iter(process.stdout)
    assert any("first" in line for line in lines)

    service.record("second")
    assert "second" in next(lines)

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")


def test_head_may_close_the_pipe(start: Callable[..., subprocess.Popen[str]], service: AuditService):
    """
    `audit-buffer tail | head -1` makes no noise.
    """
    for _ in range(20):
        service.record("made", details={"text": "x" * 20_000})
    process = start("tail", "-n", 20, "--json")
    process.stdout.readline()
    process.stdout.close()

    assert process.wait(timeout=30) != 0
    assert process.stderr.read() == ""
