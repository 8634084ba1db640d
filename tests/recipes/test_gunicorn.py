"""
The recipe for gunicorn in docs/how-to/servers.md, with and without `--preload`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.recipes.serving import (
    all_have_answered,
    assert_nothing_left,
    assert_only_in_rings,
    fullest,
    recipe,
    restart,
    send_requests,
    serving,
    waiting,
    written,
)


pytestmark = pytest.mark.recipes
PORT = ("--bind", "127.0.0.1:0")
PRELOAD = (*PORT, "--preload")
WAYS = pytest.mark.parametrize("ways", [PORT, PRELOAD], ids=["plain", "preload"])


@WAYS
def test_a_stopped_server_has_written_everything(tmp_path: Path, ways: tuple[str, ...]) -> None:
    """
    SIGTERM: when the server has gone, each answered request is in the table once, and no ring is left.
    """
    with serving(tmp_path, recipe("gunicorn"), *ways) as server:
        answered = send_requests(server, all_have_answered(server))
        assert_only_in_rings(tmp_path, answered)
        server.stop()
    assert_nothing_left(tmp_path, answered)


@WAYS
def test_a_stopped_server_has_written_everything_without_rings_too(
    tmp_path: Path, ways: tuple[str, ...]
) -> None:
    """
    As above, at "memory".
    """
    with serving(tmp_path, recipe("gunicorn"), *ways, AUDIT_DURABILITY="memory") as server:
        answered = send_requests(server)
        assert written(tmp_path) == []
        server.stop()
    assert_nothing_left(tmp_path, answered)


@WAYS
def test_a_killed_server_delivers_at_its_next_start(tmp_path: Path, ways: tuple[str, ...]) -> None:
    """
    SIGKILL to all its processes: nothing is lost, and the next start writes each answered request once.
    """
    with serving(tmp_path, recipe("gunicorn"), *ways) as server:
        answered = send_requests(server, all_have_answered(server))
        server.kill()
    assert_only_in_rings(tmp_path, answered)
    restart(tmp_path, recipe("gunicorn"), answered, *ways)


def test_a_killed_worker_is_delivered_by_its_replacement(tmp_path: Path) -> None:
    """
    Without `--preload`, as soon as the replacement has made its buffer. What the others hold is not touched.
    """
    with serving(tmp_path, recipe("gunicorn"), *PORT) as server:
        answered = send_requests(server, all_have_answered(server))
        victim, lost, ring = fullest(tmp_path)
        os.kill(victim, signal.SIGKILL)
        server.wait_until("the replacement has delivered", lambda: not ring.exists())
        assert len(written(tmp_path)) == lost
        assert waiting(tmp_path).total() == len(answered) - lost
        server.stop()
    assert_nothing_left(tmp_path, answered)


def test_a_killed_worker_is_delivered_when_its_replacement_records(tmp_path: Path) -> None:
    """
    With `--preload` the replacement has inherited its buffer, and looks for what others left when it records its first entry.
    """
    with serving(tmp_path, recipe("gunicorn"), *PRELOAD) as server:
        answered = send_requests(server, all_have_answered(server))
        victim, lost, ring = fullest(tmp_path)
        os.kill(victim, signal.SIGKILL)
        server.wait_until(
            "it is replaced", lambda: server.log.count("Booting worker") > server.recipe.workers
        )
        assert_only_in_rings(tmp_path, answered)
        answered += send_requests(server, lambda: not ring.exists(), "afterwards")
        assert len(written(tmp_path)) == lost
        server.stop()
    assert_nothing_left(tmp_path, answered)
