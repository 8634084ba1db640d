"""
The recipe for Celery in docs/how-to/servers.md, and what happens without the half of it that closes the buffer.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.crash.programs import environment
from tests.recipes.serving import (
    Recipe,
    Server,
    all_have_answered,
    assert_nothing_left,
    assert_only_in_rings,
    fullest,
    recipe,
    require,
    restart,
    send_until,
    serving,
    written,
)
from tests.servers import ServerMissing, redis_url


pytestmark = pytest.mark.recipes
CLOSING = """\


@worker_process_shutdown.connect
def drain(**_):
    audit.close()
"""
CLIENT = """
import json, sys
from celery import Celery

app = Celery()
for line in sys.stdin:
    print(json.dumps([app.send_task("tasks.pay", [order]).id for order in json.loads(line)]), flush=True)
"""


def right() -> Recipe:
    return recipe("Celery, prefork")


def wrong() -> Recipe:
    return right().with_instead(CLOSING)


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    """
    Where tasks and their results go: an empty Redis database that is ours alone until the test has ended.
    """
    require("redis")
    from redis import Redis

    try:
        server = redis_url()
    except ServerMissing as reason:
        pytest.skip(str(reason))
    for number in reversed(range(16)):
        url = server.set(database=str(number)).render_as_string(hide_password=False)
        with Redis.from_url(url) as database:
            token = f"audit_test_{secrets.token_hex(6)}"
            if not database.set("audit_test", token, nx=True, ex=600):
                continue
            if database.dbsize() > 1:
                database.delete("audit_test")
                continue
            try:
                yield {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
            finally:
                database.flushdb()
            return
    raise RuntimeError(f"no database of {server} is empty")


def send_tasks(
    server: Server, settings: dict[str, str], until: Callable[[], bool] = lambda: True, prefix: str = "order"
) -> list[str]:
    """
    Send a hundred tasks, and more until *until* says so. Return the orders of all; each task was done.
    """
    from redis import Redis

    def send(numbers: Iterable[int]) -> list[str]:
        orders = [f"{prefix} {number}" for number in numbers]
        assert client.stdin is not None
        assert client.stdout is not None
        print(json.dumps(orders), file=client.stdin, flush=True)
        keys = [f"celery-task-meta-{task}" for task in json.loads(client.stdout.readline())]
        server.wait_until("all tasks are done", lambda: None not in database.mget(keys))
        assert {json.loads(result)["status"] for result in database.mget(keys)} == {"SUCCESS"}
        return orders

    # The client is a process of its own: it does not always close what it opens. It does not wait for the results either: with Celery 5.5
    # it now and then misses one that has come.
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        env={**environment(), **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with client, Redis.from_url(settings["CELERY_RESULT_BACKEND"]) as database:
        try:
            return send_until(server, until, send)
        finally:
            client.kill()


def test_a_stopped_worker_has_written_everything(tmp_path: Path, settings: dict[str, str]) -> None:
    """
    SIGTERM: when it has gone, each task that was done is in the table once, and no ring is left.
    """
    with serving(tmp_path, right(), **settings) as server:
        done = send_tasks(server, settings, all_have_answered(server))
        assert_only_in_rings(tmp_path, done)
        server.stop()
    assert_nothing_left(tmp_path, done)


def test_a_stopped_worker_has_written_everything_without_rings_too(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """
    As above, at "memory".
    """
    with serving(tmp_path, right(), AUDIT_DURABILITY="memory", **settings) as server:
        done = send_tasks(server, settings)
        assert written(tmp_path) == []
        server.stop()
    assert_nothing_left(tmp_path, done)


@pytest.mark.parametrize("ways", [right, wrong], ids=["closing", "not closing"])
def test_a_killed_worker_delivers_at_its_next_start(tmp_path: Path, ways, settings: dict[str, str]) -> None:
    """
    SIGKILL to all its processes: nothing is lost, and the next start writes each task that was done once.
    """
    with serving(tmp_path, ways(), **settings) as server:
        done = send_tasks(server, settings, all_have_answered(server))
        server.kill()
    assert_only_in_rings(tmp_path, done)
    restart(tmp_path, ways(), done, **settings)


def test_a_killed_pool_process_is_delivered_when_its_replacement_records(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """
    The replacement has inherited its buffer, and looks for what others left when it records its first entry.
    """
    with serving(tmp_path, right(), **settings) as server:
        done = send_tasks(server, settings, all_have_answered(server))
        victim, lost, ring = fullest(tmp_path)
        os.kill(victim, signal.SIGKILL)
        done += send_tasks(server, settings, lambda: not ring.exists(), "late order")
        assert len(written(tmp_path)) == lost
        server.stop()
    assert_nothing_left(tmp_path, done)


def test_without_closing_a_stop_leaves_all_to_the_next_start(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """
    SIGTERM writes nothing then; it is late, not lost.
    """
    with serving(tmp_path, wrong(), **settings) as server:
        done = send_tasks(server, settings, all_have_answered(server))
        server.stop()
    assert_only_in_rings(tmp_path, done)
    restart(tmp_path, wrong(), done, **settings)


def test_without_closing_a_stop_loses_what_is_in_memory(tmp_path: Path, settings: dict[str, str]) -> None:
    """
    At "memory" the same mistake costs the entries.
    """
    with serving(tmp_path, wrong(), AUDIT_DURABILITY="memory", **settings) as server:
        send_tasks(server, settings)
        server.stop()
    assert_nothing_left(tmp_path, [])
