"""
The unit file of docs/how-to/servers.md, word for word, under a running systemd (`machine` has it).

A drop-in adds settings of the buffer, and in one test a shorter patience. How the same looks from inside the process, with any supervisor, is in
`test_supervised`.
"""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_buffer import AuditService
from tests.crash.machine import Machine, booted, missing
from tests.crash.programs import ROOT, documented_unit, locked, rings


pytestmark = [pytest.mark.torture, pytest.mark.untraced]
RECORDED = [f"e{number}" for number in range(300)]
# systemd gives each start an id; the entries carry it as their resource.
APP = """
import os, signal
from audit_buffer import AuditBuffer, AuditService, BufferConfig

start = os.environ["INVOCATION_ID"]
service = AuditService("sqlite:////var/lib/app/audit.db")
service.create_schema()
with AuditBuffer(service, BufferConfig.from_env(), handle_signals=("SIGTERM",)) as audit:
    for number in range(300):
        audit.record(f"e{number}", resource=start)
    with open("/var/lib/news", "w") as news:
        print(start, file=news)
    while True:
        signal.pause()
"""


class Unit:
    """
    The documented unit on a machine; /srv/app/.venv is an environment of this interpreter's, with its packages.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.folder = machine.lib / "app"
        self.errors = machine.lib / "errors"
        self.errors.touch()
        environment = machine.srv / "app" / ".venv"
        venv.create(environment, symlinks=True)
        self._packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
        (self._packages / "tested.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")

    def install(self, *lines: str, app: str = APP, **settings: object) -> None:
        """
        Put program and unit file there, with these lines and settings of the buffer in a drop-in.
        """
        (self._packages / "app.py").write_text(app)
        settings = {"durability": "process", "flush_interval": 60, **settings}
        environment = [f"Environment=AUDIT_{name.upper()}={value}" for name, value in settings.items()]
        dropin = ["[Service]", "StandardError=append:/var/lib/errors", *environment, *lines]
        self.machine.add_unit("app.service", documented_unit(), "\n".join(dropin))

    def start(self) -> str:
        """
        Start it, and return the id of the start when everything is recorded.
        """
        self.machine.systemctl("start", "app.service")
        return self.machine.hear()

    def stop(self) -> tuple[str, str, str]:
        """
        Stop it, and return how systemd says that it ended: the result, and whether by exit (1) or by signal (2), and with which.
        """
        self.machine.systemctl("stop", "app.service")
        names = ("Result", "ExecMainCode", "ExecMainStatus")
        shown = self.machine.show("app.service", "ActiveState", *names)
        assert shown["ActiveState"] == ("inactive" if shown["Result"] == "success" else "failed")
        result, code, status = (shown[name] for name in names)
        return result, code, status

    def written(self, start: str) -> list[str]:
        """
        Return what is in the table of what this start recorded, in the order of the table.
        """
        service = AuditService(f"sqlite:///{self.folder / 'audit.db'}")
        found = service.entries(resource=start)
        service.engine.dispose()
        return [entry.event_type for entry in found]


@pytest.fixture
def unit() -> Iterator[Unit]:
    """
    The documented unit on a machine of its own; the test is skipped where there can be none.
    """
    if reason := missing():
        pytest.skip(reason)
    with booted() as machine:
        unit = Unit(machine)
        yield unit
        print(unit.errors.read_text())


def test_a_unit_that_is_stopped_has_written_everything(unit: Unit) -> None:
    """
    With a database that works it ends by itself, and status 143 is a success.
    """
    unit.install()
    start = unit.start()
    assert unit.written(start) == []
    assert unit.stop() == ("success", "1", "143")
    assert unit.written(start) == RECORDED
    assert rings(unit.folder) == []


def test_a_unit_whose_database_hangs_ends_by_itself(unit: Unit) -> None:
    """
    The buffer's timeouts are below TimeoutStopSec: no SIGKILL, a failed unit, and the next start delivers.
    """
    unit.install(close_timeout=0.3, exit_timeout=0.3)
    first = unit.start()
    with locked(unit.folder):
        assert unit.stop() == ("exit-code", "1", "1")
    assert "300 entries are kept" in unit.errors.read_text()
    assert unit.written(first) == []
    second = unit.start()
    assert unit.stop() == ("success", "1", "143")
    assert (unit.written(first), unit.written(second)) == (RECORDED, RECORDED)
    assert rings(unit.folder) == []


def test_a_unit_that_is_killed_for_its_patience_loses_nothing(unit: Unit) -> None:
    """
    TimeoutStopSec is below the buffer's timeouts: SIGKILL, and the next start delivers.
    """
    unit.install("TimeoutStopSec=1", close_timeout=60, exit_timeout=60)
    first = unit.start()
    with locked(unit.folder):
        assert unit.stop() == ("timeout", "2", "9")
    assert unit.written(first) == []
    second = unit.start()
    assert unit.stop() == ("success", "1", "143")
    assert (unit.written(first), unit.written(second)) == (RECORDED, RECORDED)
    assert rings(unit.folder) == []


def test_a_unit_without_a_handler_delivers_at_its_next_start(unit: Unit) -> None:
    """
    It ends on the spot, which systemd takes for a success; nothing is lost.
    """
    unit.install(app=APP.replace('("SIGTERM",)', "()"))
    first = unit.start()
    assert unit.stop() == ("success", "2", "15")
    assert unit.written(first) == []
    unit.install()
    second = unit.start()
    assert unit.stop() == ("success", "1", "143")
    assert (unit.written(first), unit.written(second)) == (RECORDED, RECORDED)
    assert rings(unit.folder) == []


def test_a_unit_that_is_killed_is_restarted_and_delivers(unit: Unit) -> None:
    """
    Restart=on-failure: systemd itself makes the next start, and that delivers what the killed one recorded.
    """
    unit.install()
    first = unit.start()
    unit.machine.systemctl("kill", "--signal=KILL", "app.service")
    second = unit.machine.hear()
    assert second != first
    assert unit.machine.show("app.service", "NRestarts") == {"NRestarts": "1"}
    assert unit.stop() == ("success", "1", "143")
    assert (unit.written(first), unit.written(second)) == (RECORDED, RECORDED)
    assert rings(unit.folder) == []
