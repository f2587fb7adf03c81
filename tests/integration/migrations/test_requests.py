"""What one migration costs the API server: its requests, counted by kind."""

import time
from collections import Counter
from collections.abc import Callable

import pytest

from diskmigration.agent.inventory_pacing import FACTS_SECONDS
from diskmigration.agent.status_pacing import APART_SECONDS
from tests.integration.audit import Audit
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import NODE, Stack
from tests.waiting import wait_until

KINDS = {
    "operator patch diskmigrations",
    "operator patch diskmigrations/status",
    "operator create events",
    "agent patch diskmigrations/status",
    "agent create events",
}
"""Nothing is read of a migration: the watches tell of it."""


@pytest.mark.parametrize(
    "spec",
    [{"strategy": "Snapshot"}, pytest.param({"strategy": "Direct"}, marks=pytest.mark.nightly)],
    ids=["snapshot", "direct"],
)
def test_a_move_of_seconds_takes_few_requests(
    stack: Stack, machines: Callable[..., Machine], audit: Audit, spec: dict[str, object]
) -> None:
    machine = machines("file-a")
    since = audit.end()
    began_at = time.monotonic()

    migration = stack.migrate(machine, "file-b", **spec)
    migration.succeed()
    seconds = time.monotonic() - began_at
    wait_until(lambda: not migration.get()["metadata"].get("finalizers"), "the operator is done with it")
    wait_until(lambda: not machine.has_journal(), "the agent is done with it")
    # Events are recorded behind everything else.
    wait_until(lambda: events(audit.requests(since, name=migration.name)) >= 3, "the Events are there")

    counted = audit.requests(since, name=migration.name)
    assert counted.keys() <= KINDS, counted
    # Ten of a move of two seconds; on a busy machine it takes longer, and its phases last.
    assert counted.total() <= 8 + seconds / APART_SECONDS, counted
    assert events(counted) == 3, counted
    inventories = audit.requests(since, name=NODE)["agent patch libvirthosts/status"]
    assert inventories <= 1 + (time.monotonic() - began_at) / FACTS_SECONDS


def events(counted: Counter[str]) -> int:
    return sum(count for what, count in counted.items() if what.endswith(" create events"))
