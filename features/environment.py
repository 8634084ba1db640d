"""
behave's hooks: each scenario gets a `World`, and leaves nothing behind.

A scenario tagged @postgresql or @mariadb is skipped where there is no such server, and says why.
"""

from __future__ import annotations

import warnings
from typing import Any

from features.support.world import World
from tests.servers import ServerMissing, mariadb_url, postgresql_url


SERVERS = {"postgresql": postgresql_url, "mariadb": mariadb_url}


def before_all(context: Any) -> None:
    warnings.simplefilter("error")
    # behave's own JUnit reporter leaves its files to the collector.
    warnings.filterwarnings("ignore", message=r"unclosed file .*TESTS-", category=ResourceWarning)


def before_scenario(context: Any, scenario: Any) -> None:
    for tag in SERVERS.keys() & set(scenario.effective_tags):
        try:
            SERVERS[tag]()
        except ServerMissing as reason:
            scenario.skip(str(reason))
            return
    context.world = World()


def after_scenario(context: Any, scenario: Any) -> None:
    if "world" in context:
        context.world.close()
