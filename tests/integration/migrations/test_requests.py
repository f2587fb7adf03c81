"""What one migration costs the API server: its requests, counted by kind."""

import time
from collections.abc import Callable

import pytest

from diskmigration.agent.inventory_pacing import FACTS_SECONDS
from tests.integration.migrations.audit import Audit
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

OF_MIGRATION = (" diskmigrations", " diskmigrations/status", " events")
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
    # They are recorded behind everything else.
    wait_until(lambda: events(audit, since) >= 3, "the Events are there")

    # A list is of no single migration, and goes on without any.
    counted = {what: count for what, count in audit.requests(since).items() if " list " not in what}
    of_migration = {what: count for what, count in counted.items() if what.endswith(OF_MIGRATION)}
    assert of_migration.keys() <= KINDS, counted
    # Each second more may have phases that last and figures.
    assert sum(of_migration.values()) <= 10 + max(0.0, 3 * (seconds - 2)), counted
    assert events(audit, since) == 3, counted
    assert counted.get("agent patch hypervisors/status", 0) <= 1 + seconds / FACTS_SECONDS, counted


def events(audit: Audit, since: int) -> int:
    return sum(count for what, count in audit.requests(since).items() if what.endswith(" create events"))
