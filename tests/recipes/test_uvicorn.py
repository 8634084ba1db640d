"""
The recipe for uvicorn in docs/how-to/servers.md, and what happens without the half of it that closes the buffer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.serving import (
    Recipe,
    all_have_answered,
    assert_nothing_left,
    assert_only_in_rings,
    recipe,
    require,
    restart,
    send_requests,
    serving,
    written,
)


pytestmark = pytest.mark.recipes
PORT = ("--port", "0")
CLOSING = """\
    async with AuditBuffer(service, BufferConfig.from_env()) as audit:
        app.state.audit = audit
        yield
"""
NOT_CLOSING = """\
    app.state.audit = AuditBuffer(service, BufferConfig.from_env())
    yield
"""


def right() -> Recipe:
    require("starlette")
    return recipe("uvicorn")


def wrong() -> Recipe:
    return right().with_instead(CLOSING, NOT_CLOSING)


def test_a_stopped_server_has_written_everything(tmp_path: Path) -> None:
    """
    SIGTERM: when the server has gone, each answered request is in the table once, and no ring is left.
    """
    with serving(tmp_path, right(), *PORT) as server:
        answered = send_requests(server, all_have_answered(server))
        assert_only_in_rings(tmp_path, answered)
        server.stop()
    assert_nothing_left(tmp_path, answered)


def test_a_stopped_server_has_written_everything_without_rings_too(tmp_path: Path) -> None:
    """
    As above, at "memory".
    """
    with serving(tmp_path, right(), *PORT, AUDIT_DURABILITY="memory") as server:
        answered = send_requests(server)
        assert written(tmp_path) == []
        server.stop()
    assert_nothing_left(tmp_path, answered)


@pytest.mark.parametrize("ways", [right, wrong], ids=["closing", "not closing"])
def test_a_killed_server_delivers_at_its_next_start(tmp_path: Path, ways) -> None:
    """
    SIGKILL to all its processes: nothing is lost, and the next start writes each answered request once.
    """
    with serving(tmp_path, ways(), *PORT) as server:
        answered = send_requests(server, all_have_answered(server))
        server.kill()
    assert_only_in_rings(tmp_path, answered)
    restart(tmp_path, ways(), answered, *PORT)


def test_without_closing_a_stop_leaves_all_to_the_next_start(tmp_path: Path) -> None:
    """
    SIGTERM writes nothing then; it is late, not lost.
    """
    with serving(tmp_path, wrong(), *PORT) as server:
        answered = send_requests(server, all_have_answered(server))
        server.stop()
    assert_only_in_rings(tmp_path, answered)
    restart(tmp_path, wrong(), answered, *PORT)


def test_without_closing_a_stop_loses_what_is_in_memory(tmp_path: Path) -> None:
    """
    At "memory" the same mistake costs the entries.
    """
    with serving(tmp_path, wrong(), *PORT, AUDIT_DURABILITY="memory") as server:
        send_requests(server)
        server.stop()
    assert_nothing_left(tmp_path, [])
