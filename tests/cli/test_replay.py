"""
`audit-buffer replay`: every line that can be an entry is one, and the others are named.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest

from audit_buffer import AuditService, BufferFull, FlushTimeout
from audit_buffer.commands._fields import Fields
from audit_buffer.commands._lines import LineReader
from audit_buffer.commands._progress import ReplayProgress
from audit_buffer.commands.replay import Replay
from tests.cli.conftest import Run, entries


URL = "sqlite:///audit.db"


def ndjson(*documents: object) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


def summary(run: Run, *arguments: object, stdin: str | bytes, exit_code: int = 0) -> dict:
    ended = run("replay", "-", "--json", *arguments, stdin=stdin)
    assert ended.exit_code == exit_code, ended.output
    return json.loads(ended.stdout)


def test_lines_become_entries_in_their_order(run: Run):
    """
    One object a line, one entry each, numbered as the lines are; the whole object is the details.
    """
    documents = [
        {"event_type": f"e{n}", "n": n, "actor": "a", "occurred_at": 1688990400 + n} for n in range(1200)
    ]

    found = summary(run, stdin=ndjson(*documents))

    assert (found["lines"], found["entries"], found["committed"], found["rows_in_database"]) == (1200,) * 4
    stored = entries(URL)
    assert [entry.details for entry in stored] == documents
    assert [entry.seq for entry in stored] == list(range(1, 1201))
    assert stored[7].occurred_at == datetime(2023, 7, 10, 12, 0, 7, tzinfo=UTC)


def test_the_summary_counts_the_rows_of_this_replay(run: Run):
    """
    Rows are counted under the buffer_id that the summary names, so that a second replay of a file shows the same; `tail` finds them.
    """
    first, second = (summary(run, stdin='{"event_type": "a"}\n') for _ in range(2))

    assert first["rows_in_database"] == second["rows_in_database"] == 1
    (found,) = run("tail", "--json", "--buffer-id", second["buffer_id"]).stdout.splitlines()
    assert json.loads(found)["buffer_id"] == second["buffer_id"]


def test_options_choose_the_fields(run: Run):
    """
    Each field can be taken from anywhere in the object.
    """
    line = ndjson(
        {"k": {"e": "made"}, "who": ["x", "y"], "what": 7, "res": "no", "when": 1688990400000, "id": "c"}
    )
    options = ["--event-type", "k.e", "--actor", "who.1", "--resource", "what"]
    options += ["--outcome", "res", "--time", "when", "--correlation-id", "id"]

    summary(run, *options, stdin=line)

    (entry,) = entries(URL)
    assert (entry.event_type, entry.actor, entry.resource, entry.outcome) == ("made", "y", "7", "no")
    assert (entry.correlation_id, entry.occurred_at) == ("c", datetime(2023, 7, 10, 12, tzinfo=UTC))


def test_a_bad_line_is_named_and_the_others_are_stored(run: Run):
    """
    Exit code 1; standard error says which line and why; what can be stored is.
    """
    ended = run("replay", "-", stdin='{"event_type": "a"}\nnonsense\n\n{"event_type": "b"}\n{"x": 1}')

    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[0].startswith("line 2: is not JSON")
    assert ended.stderr.splitlines()[1].startswith("line 5: has no event type")
    assert [entry.event_type for entry in entries(URL)] == ["a", "b"]
    assert "bad lines                        2" in ended.stdout


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"event_type": "a", "n": 1e400}', "is not JSON"),
        ('{"event_type": "' + "x" * 300 + '"}', "event_type has 300 characters, more than 255"),
        ('{"event_type": "a\\u0000"}', "holds a NUL"),
        ('{"event_type": ""}', "event_type is empty"),
        ('{"event_type": "a", "x": "' + "x" * 2000 + '"}', "more than max_entry_bytes = 1000"),
        ('{"event_type": "a", "x": "' + "x" * 9000 + '"}', "longer than any entry may be"),
    ],
)
def test_what_the_buffer_refuses_is_a_bad_line(run: Run, line: str, reason: str):
    """
    An entry that could not come back equal is refused with the library's own reason.
    """
    found = summary(run, "--max-entry-bytes", 1000, stdin=line, exit_code=1)

    assert found["bad_lines"] == 1
    assert reason in found["bad"][0]["reason"]


def test_what_never_fits_into_the_queue_is_a_bad_line(run: Run):
    """
    Waiting for room would be for ever.
    """
    line = ndjson({"event_type": "a", "x": "x" * 2000}, {"event_type": "b"})
    found = summary(run, "--queue-max-bytes", 1024, stdin=line, exit_code=1)

    assert (found["committed"], found["bad_lines"]) == (1, 1)


def test_many_bad_lines_are_counted_without_flooding_the_terminal(run: Run):
    """
    The first twenty are explained.
    """
    ended = run("replay", "-", stdin="bad\n" * 50)

    assert len(ended.stderr.splitlines()) == 21
    assert "More lines are bad" in ended.stderr
    assert "bad lines                       50" in ended.stdout


def test_strict_stops_at_the_first_bad_line(run: Run):
    """
    With --strict what comes before the bad line is stored, and nothing behind it.
    """
    found = summary(run, "--strict", stdin='{"event_type": "a"}\nbad\n{"event_type": "b"}\n', exit_code=1)

    assert found["lines"] == 2
    assert [entry.event_type for entry in entries(URL)] == ["a"]


def test_complaints_cannot_command_the_terminal(run: Run):
    """
    What a bad line holds is printed as escapes.
    """
    ended = run("replay", "-", stdin='{"event_type": "a", "time": "\\u001b[2J\\u202e"}\n')

    assert "\x1b" not in ended.stderr
    assert "\\x1b[2J\\u202e" in ended.stderr


def test_an_empty_input_is_no_mistake(run: Run):
    """
    No line, no entry, exit code 0.
    """
    assert summary(run, stdin="\n  \n")["entries"] == 0


def test_a_file_is_read_as_a_pipe_is(run: Run, tmp_path):
    """
    The same entries from a file by its name; Windows line ends and a byte order mark are no part of them.
    """
    (tmp_path / "events").write_bytes(b'\xef\xbb\xbf{"event_type": "a"}\r\n{"event_type": "b"}\r\n')

    assert run("replay", "events").exit_code == 0
    assert [entry.event_type for entry in entries(URL)] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nosuch"], "No such file"),
        (["."], "Is a directory"),
        ([], "Missing argument 'FILE'"),
        (["-", "--event-type", "a..b"], "is no dotted path"),
        (["-", "--batch-size", "0"], "0 is not in the range"),
        (["-", "--config", "nosuch.toml"], "does not exist"),
        (["-", "--config", "bad.toml"], "did you mean batch_size?"),
        (["-", "--config", "broken.toml"], "must be a readable TOML file"),
    ],
)
def test_bad_usage_exits_2_with_the_reason(run: Run, tmp_path, arguments: list[str], problem: str):
    """
    Nothing is read or written before the options make sense.
    """
    (tmp_path / "bad.toml").write_text("batch_siz = 1")
    (tmp_path / "broken.toml").write_text("= =")

    ended = run("replay", *arguments, stdin="")

    assert ended.exit_code == 2
    assert problem in ended.stderr
    assert not (tmp_path / "audit.db").exists()


def test_a_closed_standard_input_is_bad_usage(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    `audit-buffer replay - <&-` gets a message.
    """
    monkeypatch.setattr(
        "click.utils.open_stream", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no stdin"))
    )
    monkeypatch.setattr(
        "click.types.open_stream", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no stdin"))
    )

    ended = run("replay", "-")

    assert ended.exit_code == 2
    assert "standard input is closed" in ended.stderr


def test_settings_come_from_a_file_and_options_win(run: Run, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """
    --config names the application's own settings; what an option says goes; a policy that drops does not apply.
    """
    (tmp_path / "app.toml").write_text(
        '[audit_buffer]\nbatch_size = 7\nflush_interval = 9.0\non_full = "drop_newest"\nretry_backoff = 0.25\n'
    )
    seen = []

    def remember(service: object, config: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("audit_buffer.commands.replay.AuditBuffer", remember)

    run("replay", "-", "--config", "app.toml", "--batch-size", 8, stdin="")

    (config,) = seen
    assert (config.batch_size, config.flush_interval, config.retry_backoff) == (8, 9.0, 0.25)
    assert (config.on_full, config.durability, config.delivery_timeout) == ("block", "memory", 30.0)


def refuse_inserts(tmp_path, event_type: str, *, for_good: bool = False) -> None:
    """
    Make the database refuse every entry of *event_type*; and the row that would stand in its place, unless *for_good*.
    """
    others = "" if for_good else "OR NEW.outcome = 'quarantined'"
    service = AuditService(f"sqlite:///{tmp_path / 'audit.db'}")
    service.create_schema()
    service.engine.dispose()
    connection = sqlite3.connect(tmp_path / "audit.db")
    connection.execute(
        f"CREATE TRIGGER refuse BEFORE INSERT ON audit_log WHEN NEW.event_type = '{event_type}' {others} "
        "BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    connection.close()


@pytest.mark.parametrize("room", [1, 100])
def test_a_database_that_stops_taking_entries_ends_the_replay_with_where_to_go_on(
    run: Run, tmp_path, room: int
):
    """
    Exit code 2, the driver's reason, and the last line that is in the database, so that the rest can be replayed later.
    """
    refuse_inserts(tmp_path, "poison")
    lines = ndjson(*({"event_type": name} for name in ("a", "b", "poison", *"cdefgh")))
    lines = lines.replace('{"event_type": "b"}', 'bad\n{"event_type": "b"}')

    ended = run(
        *("replay", "-", "--json", "--batch-size", 1, "--queue-maxsize", room, "--delivery-timeout", 0.01),
        stdin=lines,
    )

    assert ended.exit_code == 2
    assert "the database stopped taking entries" in ended.stderr
    assert "no room" in ended.stderr
    assert "through line 3;" in ended.stderr
    assert json.loads(ended.stdout)["committed"] == 2
    assert [entry.event_type for entry in entries(URL)] == ["a", "b"]


def test_an_entry_that_the_database_refuses_for_good_is_counted(run: Run, tmp_path):
    """
    It is in quarantine, the others are where they belong, and exit code 1 says that something wants to be looked at.
    """
    refuse_inserts(tmp_path, "poison", for_good=True)
    ended = run(
        "replay", "-", "--json", stdin=ndjson(*({"event_type": name} for name in ("a", "poison", "b")))
    )
    assert ended.exit_code == 1
    found = json.loads(ended.stdout)
    assert (found["committed"], found["quarantined"], found["bad_lines"]) == (3, 1, 0)
    assert [entry.event_type for entry in entries(URL)] == ["a", "audit_buffer.quarantined", "b"]


def test_rows_that_cannot_be_counted_do_not_spoil_the_summary(run: Run, monkeypatch: pytest.MonkeyPatch):
    """
    The entries are committed; that the database does not answer afterwards is said, and no failure.
    """

    def count(_: object, **__: object) -> int:
        raise OSError("gone")

    monkeypatch.setattr(AuditService, "count", count)
    ended = run("replay", "-", stdin='{"event_type": "a"}\n')

    assert ended.exit_code == 0
    assert "The rows were not counted: gone" in ended.stderr
    assert "rows in the database       unknown" in ended.stdout


class ScriptedBuffer:
    """
    Stands in for the buffer: each call ends in the next of what the script says.
    """

    def __init__(self, record: list[Exception | None], close: list[BaseException | None]) -> None:
        self.buffer_id = UUID(int=1)
        self._record, self._close = deque(record), deque(close)
        self.recorded: list[str] = []
        self.committed = 0

    def record(self, event_type: str, **_: object) -> None:
        if self._record and (error := self._record.popleft()):
            raise error
        self.recorded.append(event_type)

    def close(self, timeout: float) -> None:
        if error := self._close.popleft():
            raise error
        self.committed = len(self.recorded)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(
            committed=self.committed, pending=len(self.recorded) - self.committed, quarantined=0
        )


def replayed(audit: ScriptedBuffer, tmp_path, text: str) -> Replay:
    (tmp_path / "in").write_text(text)
    with (tmp_path / "in").open("rb") as source, ReplayProgress(None) as progress:
        replay = Replay(audit, Fields({}), progress)
        replay.run(LineReader(source, 1000, lambda: False))
    return replay


def test_a_slow_database_is_waited_for(tmp_path):
    """
    A full queue is no reason to lose a line, and a close that takes long is no reason to leave.
    """
    full = BufferFull("full", depth=10, pending_bytes=10, oldest_age=1.0, last_error=None)
    audit = ScriptedBuffer([None, full, full, None], [FlushTimeout(2, 0.5, None), None])

    replay = replayed(audit, tmp_path, ndjson({"event_type": "a"}, {"event_type": "b"}))

    assert audit.recorded == ["a", "b"]
    assert (replay.entries, replay.committed_line, replay.failure) == (2, 2, None)


def test_a_second_interruption_leaves_what_is_not_committed(tmp_path):
    """
    Who presses Ctrl-C twice does not wait for the database.
    """
    audit = ScriptedBuffer([], [KeyboardInterrupt()])

    replay = replayed(audit, tmp_path, ndjson({"event_type": "a"}))

    assert (replay.entries, replay.committed_line, replay.gave_up) == (1, 0, True)
    assert replay.summary(rows=0)["committed"] == 0
