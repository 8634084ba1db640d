"""
`audit-buffer demo`: the main job, to be seen by a newcomer.
"""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from sqlalchemy import Engine

from audit_buffer import AuditService
from audit_buffer.commands import demo as module
from audit_buffer.commands._domain import domain_events
from audit_buffer.commands.demo import Phase
from tests.cli.conftest import Run, entries


def row(output: str, name: str) -> list[str]:
    """
    Return the cells of a line of the table.
    """
    (line,) = (line for line in output.splitlines() if name in line)
    return [cell.strip() for cell in re.split(r"[│|]", line)[2:-1]]


def test_both_loops_are_measured_and_all_rows_are_there(run: Run):
    """
    The table has latency percentiles, throughput, rows and their ratio; the buffered loop waits less.
    """
    ended = run("demo", "--events", 300)

    assert ended.exit_code == 0, ended.output
    assert row(ended.stdout, "operations  ") == ["300", "300", ""]
    assert row(ended.stdout, "rows in the database") == ["300", "300", ""]
    assert row(ended.stdout, "complete and in order") == ["yes", "yes", ""]
    for name in ("p50", "p99,", "p99.9", "max", "operations per second"):
        assert all(row(ended.stdout, name)[:2])
    synchronous, buffered, ratio = row(ended.stdout, "p50")
    assert float(buffered.replace(",", "")) < float(synchronous.replace(",", ""))
    assert ratio.endswith("x")


def test_without_a_terminal_it_is_plain_lines(run: Run):
    """
    A log of CI shows what runs, without control sequences.
    """
    ended = run("demo", "--events", 10)

    assert "\x1b" not in ended.stdout
    assert "synchronous service: up to 10 domain operations …\nAuditBuffer: up to 10" in ended.stdout


def test_on_a_terminal_the_table_grows(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    The live view is redrawn in place while the loops run.
    """
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(module, "_BETWEEN_VIEWS", 0.0)

    ended = run("demo", "--events", 10)

    assert ended.stdout.count("What one domain operation waits for") > 10


def test_the_temporary_folder_goes_or_is_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """
    --keep says how to look into the database; otherwise nothing is left behind.
    """
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("demo", "--events", 5)
    assert list(tmp_path.iterdir()) == []

    kept = run("demo", "--events", 5, "--keep").stdout
    (url,) = re.findall(r"audit-buffer tail --db (sqlite:\S+)", kept)
    stored = entries(url)
    assert [entry.seq for entry in stored] == [None] * 5 + [1, 2, 3, 4, 5]
    assert stored[0].event_type == stored[5].event_type == next(domain_events()).event_type


def test_a_slow_database_does_not_take_the_demo_past_its_time(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    Without --events the synchronous loop stops after a few seconds, and the table says so.
    """
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(module, "_EVENTS", 50)

    ended = run("demo")

    assert row(ended.stdout, "operations  ") == ["1", "50", ""]
    assert "The synchronous loop was stopped after" in ended.stdout


def test_entries_that_do_not_arrive_fail_the_demo(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    A demo that shows a loss says NO, and ends with 1.
    """
    monkeypatch.setattr(AuditService, "latest", lambda *_: [])

    ended = run("demo", "--events", 5)

    assert ended.exit_code == 1
    assert row(ended.stdout, "complete and in order") == ["NO", "NO", ""]


def test_a_gap_in_the_numbers_fails_the_demo(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    The buffer's rows must be numbered 1, 2, 3, … besides being the events in their order.
    """
    usual = AuditService.latest

    def gapped(service: AuditService, limit: int) -> list:
        return [attrs.evolve(entry, seq=entry.seq and entry.seq + 1) for entry in usual(service, limit)]

    monkeypatch.setattr(AuditService, "latest", gapped)

    assert row(run("demo", "--events", 5).stdout, "complete and in order") == ["yes", "NO", ""]


def test_any_database_will_do(run: Run, any_engine: Engine):
    """
    --db runs it against a server; the entries stay there.
    """
    ended = run("demo", "--events", 20, "--db", any_engine.url.render_as_string(hide_password=False))

    assert ended.exit_code == 0, ended.output
    assert AuditService(any_engine).count() == 40


def test_percentiles_are_of_what_was_measured():
    """
    p50 of one to a hundred microseconds is 51, the maximum 100; of nothing there is none.
    """
    phase = Phase(title="t", planned=100)
    assert (phase.percentile(0.5), phase.rate()) == (0.0, 0.0)
    phase.latencies = [number * 1e-6 for number in range(100, 0, -1)]

    assert phase.percentile(0.5) == pytest.approx(51)
    assert phase.percentile(1.0) == pytest.approx(100)
