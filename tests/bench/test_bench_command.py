"""
`audit-buffer bench` as a command: what it prints, what it leaves behind, how it ends. How fast anything is, is not tested here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, inspect

from audit_buffer import AuditService
from audit_buffer.cli import main
from audit_buffer.commands import _idle, _peer_runs, _processes
from audit_buffer.commands import bench as bench_module
from audit_buffer.commands._bench_events import read_events, synthetic_event
from audit_buffer.commands._peers import ADAPTERS
from audit_buffer.commands.bench import SCENARIOS, bench
from tests.bench.test_goals import figure


REAL_EVENTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cloudtrail-1900.ndjson"
SHORT = ["--records", "20", "--repeat", "1"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(bench, [*SHORT, *arguments])


@pytest.fixture
def measured(monkeypatch):
    """
    A run that measures nothing: synchronous and buffered take what the test says, in microseconds.
    """

    def set_figures(synchronous, buffered):
        figures = [
            figure("synchronous", synchronous),
            figure("buffered", buffered),
            figure("floor", buffered),
        ]
        nothing = {name: lambda run: [] for name in SCENARIOS}
        monkeypatch.setattr(bench_module, "SCENARIOS", {**nothing, "record": lambda run: figures})

    return set_figures


def found_by(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def candidates(found):
    return {(each["candidate"], each["event"], each["where"]) for each in found["figures"]}


def of_both(*candidates):
    return {(name, event, where) for name, where in candidates for event in ("small", "real")}


def test_record_is_measured_beside_the_service_and_the_floor(run):
    """
    `--json` prints one object with p50, p99 and p99.9 of each candidate for both events, and the ratios between them.
    """
    found = found_by(run("--only", "record", "--json"))

    assert set(found) == {
        "version", "machine", "settings", "figures", "targets", "not_measured", "passed",
    }  # fmt: skip
    levels = [("buffered", "memory"), ("floor", "memory"), ("buffered", "process"), ("floor", "process")]
    assert candidates(found) == of_both(("synchronous", ""), *levels)
    for each in found["figures"]:
        assert 0 < each["values"]["p50"] <= each["values"]["p99"] <= each["values"]["p999"]
    names = {each["name"] for each in found["targets"]}
    assert {"synchronous p50 / buffered p50", "buffered p50 / floor p50"} <= names


def test_a_domain_loop_is_measured_with_and_without_audit(run):
    """
    Both loops have a rate, of the same operations.
    """
    found = found_by(run("--only", "loop", "--json"))

    assert candidates(found) == of_both(("alone", ""), ("audited", "process"))
    assert all(each["values"]["rate"] > 0 for each in found["figures"])


def test_a_drain_is_measured_beside_executemany_idle_and_busy(run):
    """
    On SQLite the comparison is raw sqlite3, with nothing else to do and beside a thread that computes.
    """
    found = found_by(run("--only", "drain", "--json"))

    usual = [
        (name, place) for name in ("drain", "sqlite3.executemany") for place in ("sqlite", "sqlite, busy")
    ]
    assert candidates(found) == of_both(("synchronous", "sqlite"), *usual)
    assert {each["where"] for each in found["targets"]} == {"sqlite", "sqlite, busy"}


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        pytest.param("postgresql_engine", "postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb_engine", "mariadb", marks=pytest.mark.mariadb),
    ],
)
def test_a_server_is_measured_beside_sqlalchemy_core(run, request, url, kind):
    """
    A database that `--db` names is drained into as well, and compared with SQLAlchemy's own executemany.
    """
    engine = request.getfixturevalue(url)
    found = found_by(
        run("--only", "drain", "--json", "--db", engine.url.render_as_string(hide_password=False))
    )

    expected = [(name, place) for name in ("drain", "Core executemany") for place in (kind, f"{kind}, busy")]
    assert of_both(*expected) <= candidates(found)
    assert inspect(engine).get_table_names() == []


def test_threads_are_measured_together(run):
    """
    Eight threads and one, at both levels.
    """
    found = found_by(run("--only", "threads", "--json"))

    levels = [(name, level) for name in ("1 thread", "8 threads") for level in ("memory", "process")]
    assert candidates(found) == of_both(*levels)


def test_processes_are_measured_and_their_errors_counted(run, tmp_path):
    """
    Four processes write to the file of one, and no entry meets a locked database. They get all of the events, however many.
    """
    (tmp_path / "events.ndjson").write_text(f'{{"text": "{"x" * 1000}"}}\n' * 200)

    found = found_by(run("--only", "processes", "--json", "--events", "events.ndjson"))

    assert candidates(found) == of_both(("1 process", "process"), ("4 processes", "process"))
    assert all(each["values"]["locked"] == 0 for each in found["figures"])


def test_backlogs_are_measured_by_their_size(run):
    """
    Each size has its cost per entry, and the growth from the smallest to the others is a target.
    """
    found = found_by(run("--only", "backlog", "--quick", "--json"))

    sizes = [
        (name, level) for name in ("20 entries", "200 entries", "growth") for level in ("memory", "process")
    ]
    assert candidates(found) == {(name, "small", level) for name, level in sizes}
    assert len(found["targets"]) == 4


def test_an_idle_buffer_sleeps(run):
    """
    The writer of a buffer that has nothing to write is not woken up, and takes no time at all.
    """
    found = found_by(run("--only", "idle", "--quick", "--json"))

    assert candidates(found) == {("writer", "", "memory"), ("writer", "", "process")}
    assert all(each["values"] == {"wakeups": 0, "cpu": 0} for each in found["figures"])


def test_imports_are_measured_in_fresh_interpreters(run):
    """
    Nothing has been imported before, so that both packages take time; ours takes it when its names are used.
    """
    found = found_by(run("--only", "import", "--quick", "--json"))

    took = {each["candidate"]: each["values"]["ms"] for each in found["figures"]}
    assert took.keys() == {"audit_buffer", "AuditBuffer", "sqlalchemy"}
    assert took["AuditBuffer"] > took["sqlalchemy"] > took["audit_buffer"] > 0


def test_peers_are_measured_and_missing_ones_named(run):
    """
    What every peer recorded carefully has arrived, what is lost by default is shown, and a peer that is not installed
    is named instead of left out in silence. The buffer loses nothing, though nobody closes it.
    """
    found = found_by(run("--only", "peers", "--json"))

    measured = {each["candidate"] for each in found["figures"]}
    for adapter in ADAPTERS.values():
        named = any(adapter.name in note and "audit-buffer[bench]" in note for note in found["not_measured"])
        assert named != (adapter.name in measured)
    lost = {
        each["candidate"]: each["values"]["lost by default"]
        for each in found["figures"]
        if "lost by default" in each["values"]
    }
    assert lost["buffered"] == 0
    assert "queue.Queue + thread, batched" in lost


def test_a_peer_that_is_not_installed_is_named(run, monkeypatch):
    """
    The message has the remedy.
    """
    monkeypatch.setitem(sys.modules, "loguru", None)
    monkeypatch.setattr(_peer_runs, "_lost_by_default", lambda *_: 0.0)

    found = found_by(run("--only", "peers", "--json"))

    assert found["not_measured"][0] == (
        "peer loguru enqueue=True: loguru is not installed; pip install 'audit-buffer[bench]'"
    )


def test_a_peer_that_loses_entries_is_an_error_and_no_rate(run, monkeypatch):
    """
    Rates are compared at zero loss: where something that was recorded carefully did not arrive, the run ends with 2.
    """
    monkeypatch.setattr(_peer_runs, "_lost_by_default", lambda *_: 0.0)
    monkeypatch.setattr(_peer_runs, "_rows", lambda service: 0)

    result = run("--only", "peers")

    assert result.exit_code == 2
    assert "but 0 arrived" in result.output


def test_without_proc_the_idle_rows_are_left_out_and_said(run, monkeypatch):
    """
    What an operating system does not tell is named as not measured.
    """
    monkeypatch.setattr(_idle, "_TASKS", Path("/nowhere"))

    found = found_by(run("--only", "idle", "--json"))

    assert found["figures"] == []
    assert "only Linux" in found["not_measured"][0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["record", "loop", "drain"]),
        (["--quick"], ["record", "loop", "drain", "threads", "idle", "import"]),
        (["--peers"], ["record", "loop", "drain", "peers"]),
        (["--full"], list(SCENARIOS)),
        (["--full", "--only", "idle"], ["idle"]),
    ],
)
def test_options_choose_the_scenarios(run, monkeypatch, options, expected):
    """
    The usual ones take a minute, --quick and --full more or less of everything, and --only what it names.
    """
    monkeypatch.setattr(bench_module, "SCENARIOS", {name: lambda run: [] for name in SCENARIOS})

    assert found_by(run("--json", *options))["settings"]["scenarios"] == expected


def test_a_child_that_dies_is_a_sentence(run, monkeypatch):
    """
    A process of the benchmark that ends early ends the run with 2, not with a traceback or a wait for ever.
    """
    monkeypatch.setattr(_processes, "average_size", lambda events: "no number")

    result = run("--only", "processes")

    assert result.exit_code == 2
    assert "ended early" in result.output


def test_markdown_is_printed_for_a_page(run, measured):
    """
    `--markdown` prints what the documentation shows.
    """
    measured(synchronous=1000.0, buffered=1.0)

    result = run("--markdown")

    assert result.exit_code == 0
    assert "| synchronous p50 / buffered p50 | small | memory | 1,000.00 | ≥ 80 | pass |" in result.stdout


def test_plots_are_drawn_and_named(run, tmp_path):
    """
    `--plot` leaves pictures in the folder, and says on standard error which.
    """
    result = run("--only", "record", "--plot", "plots")

    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        f"latency-record-{event}.{kind}" for event in ("real", "small") for kind in ("png", "svg")
    ]
    assert "latency-record-small.svg" in result.stderr


def test_missing_matplotlib_is_said_before_anything_is_measured(run, monkeypatch):
    """
    Nobody waits minutes to hear that the pictures cannot be drawn.
    """
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench_module, "SCENARIOS", {})

    result = CliRunner().invoke(main, ["bench", "--plot", "plots"])

    assert result.exit_code == 2
    assert "pip install 'audit-buffer[bench]'" in result.output


def test_the_table_shows_every_candidate(run):
    """
    Without `--json` tables say the same.
    """
    result = run("--only", "record")

    assert result.exit_code == 0, result.output
    for word in ("synchronous", "buffered", "floor", "memory", "p99.9"):
        assert word in result.stdout


def test_nothing_is_left_in_the_current_folder(run, tmp_path):
    """
    The SQLite file of the run, and whatever lay beside it, are gone.
    """
    assert run("--only", "record", "--json").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_check_ends_with_0_when_the_ratios_are_met(run, measured):
    """
    A healthy run ends with 0, checked or not.
    """
    measured(synchronous=1000.0, buffered=1.0)

    assert run("--check").exit_code == 0


def test_check_ends_with_1_when_a_ratio_is_far_off(run, measured):
    """
    A buffer no faster than the service ends `--check` with 1 and names the ratio; without `--check` it is only shown.
    """
    measured(synchronous=1.0, buffered=1.0)

    checked = run("--check")
    assert checked.exit_code == 1
    assert "failed" in checked.stdout
    assert run().exit_code == 0


def test_a_database_of_ones_own_is_left_as_it_was(run, tmp_path):
    """
    With `--db` the table is made in that database and dropped at the end.
    """
    url = f"sqlite:///{tmp_path / 'mine.db'}"

    assert run("--only", "drain", "--json", "--db", url).exit_code == 0
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_an_existing_audit_log_is_never_touched(run, tmp_path):
    """
    A database that has an audit log already is refused with exit code 2: entries of a benchmark are no audit entries.
    """
    service = AuditService(f"sqlite:///{tmp_path / 'mine.db'}")
    service.create_schema()
    service.record("kept")

    result = run("--db", str(service.engine.url))

    assert result.exit_code == 2
    assert "has a table audit_log already" in result.output
    assert service.count() == 1
    service.engine.dispose()


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x/y", "sqlite:////nowhere/at/all.db"])
def test_a_bad_url_is_explained(run, url):
    """
    A database that cannot be used is exit code 2 and a sentence, never a traceback.
    """
    result = run("--db", url)

    assert result.exit_code == 2
    assert "--db" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", "holds no event"), ('{"eventName": "a"}\n[1]\n', "line 2: not a JSON object"), ("{", "line 1")],
)
def test_a_bad_events_file_names_the_line(run, tmp_path, text, complaint):
    """
    A file that is no NDJSON is exit code 2 and says which line.
    """
    (tmp_path / "events.ndjson").write_text(text)

    result = run("--events", "events.ndjson")

    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_real_events_are_recorded_with_what_they_say(tmp_path):
    """
    A CloudTrail record becomes an entry with its name, actor, source and request; the details are the whole record.
    """
    if not REAL_EVENTS.exists():
        pytest.skip("../shared/data/cloudtrail-1900.ndjson is not there")
    first = read_events(REAL_EVENTS, most=1)[0]

    assert first[0] == first[4]["eventName"]
    assert first[1] == first[4]["userIdentity"]["arn"]
    assert first[3] == "success"
    assert first[5] == first[4]["requestID"]


def test_the_synthetic_event_has_the_size_of_a_real_one():
    """
    The invented CloudTrail record takes about 1.2 kB, the median of the real ones.
    """
    assert 1100 <= len(json.dumps(synthetic_event()[4], separators=(",", ":"))) <= 1400


def test_an_unknown_kind_of_event_is_recorded_as_event(tmp_path):
    """
    A JSON object without any known name is recorded all the same.
    """
    path = tmp_path / "events.ndjson"
    path.write_text('{"errorCode": "AccessDenied", "userIdentity": "text"}\n')

    assert read_events(path) == [
        ("event", None, None, "failure", {"errorCode": "AccessDenied", "userIdentity": "text"}, None)
    ]
