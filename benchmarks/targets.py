"""
The targets of `audit-buffer bench` over commits: the same code measures them, so that a curve here is a column there.

Ratios within one run, which is what can be compared from one day to another.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from audit_buffer import AuditService
from audit_buffer.commands._bench_events import SMALL, synthetic_event
from audit_buffer.commands._bench_run import Run, full_synchronous
from audit_buffer.commands._goals import GOALS, judge
from audit_buffer.commands.bench import SCENARIOS

from .common import service_on


TRACKED = ("record", "loop", "drain", "threads", "processes", "idle", "import")
SERVERS = ("postgresql", "mariadb")


def name_of(name: str, event: str, where: str) -> str:
    return ", ".join(filter(None, (name, event, where)))


class Targets:
    """
    Each ratio for which `audit-buffer bench` has a goal, from one run of its scenarios.
    """

    params = (
        [name_of(goal.name, *place) for goal in GOALS if goal.scenario in TRACKED for place in goal.wanted],
    )
    param_names = ("target",)
    timeout = 600
    unit = "ratio"

    def setup_cache(self) -> dict[str, float]:
        with ExitStack() as stack:
            # On a disk; see OnSqlite.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-asv-", dir=Path.cwd()))
            service = AuditService(f"sqlite:///{folder}/audit.db")
            stack.callback(service.engine.dispose)
            full_synchronous(service.engine)
            service.create_schema()
            run = Run(
                kinds={"small": [SMALL], "real": [synthetic_event()]},
                service=service,
                others=[found for name in SERVERS if (found := server(name, stack)) is not None],
                folder=Path(folder),
                records=2000,
                repeat=3,
                quick=True,
                steps=lambda name, total: lambda: None,
            )
            figures = [figure for name in TRACKED for figure in SCENARIOS[name](run)]
        return {name_of(each.name, each.event, each.where): each.value for each in judge(figures)}

    def track_ratio(self, measured: dict[str, float], target: str) -> float:
        return measured.get(target, float("nan"))  # its database is not there


def server(name: str, stack: ExitStack) -> AuditService | None:
    """
    Return a service on a new database of this kind, None where there is no server.
    """
    try:
        return service_on(name, stack)
    except NotImplementedError:  # how asv is told to skip
        return None
