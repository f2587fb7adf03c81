"""A migration whose node's agent is away says so, and is its agent's again when that is back."""

from typing import Any

import pytest

from diskmigration.agent.status_writer import StatusWriter
from diskmigration.api.disk_migration import DiskMigration
from testbed.control_plane import ControlPlane
from tests.integration.controller.conftest import Operator
from tests.integration.controller.outages import OPTIONS, Heartbeats
from tests.integration.controller.world import Handle, World, agent_status, machine
from tests.waiting import wait_until


@pytest.fixture
def handle(world: World, mortal: Operator, heartbeats: Heartbeats) -> Handle:
    """A migration that its agent works on, which then goes away."""
    return at_work(world, mortal, heartbeats)


def at_work(world: World, mortal: Operator, heartbeats: Heartbeats, **spec: Any) -> Handle:
    world.domain("src")
    world.domain("dst")
    heartbeats.begin(world.node("n1", [machine(world.name("vm"))], has_object=True))
    mortal.start(*OPTIONS)
    handle = world.migrate("m", world.name("vm"), **spec)
    handle.agent_writes(agent_status(handle.until_phase("Scheduled"), "Replicating"))
    return handle


def until_ready(handle: Handle, status: str, reason: str) -> dict[str, Any]:
    """The condition Ready once it says so."""

    def look() -> dict[str, Any] | None:
        ready = handle.condition("Ready")
        return ready if (ready["status"], ready["reason"]) == (status, reason) else None

    return wait_until(look, f"Ready is {status}/{reason}", seconds=60)


def test_it_is_told_and_the_agent_that_is_back_has_the_last_word(
    world: World, heartbeats: Heartbeats, handle: Handle
) -> None:
    writer = StatusWriter(world.agent, node_name=world.name("n1"), on_gone=lambda _uid: None, on_turn=lambda: None)
    migration = DiskMigration.from_wire(handle.body() or {})
    writer.show(migration, migration.status)
    writer.start()
    assert writer.wait_until_settled(migration.metadata.uid, timeout=30)
    heartbeats.stop(world.name("n1"))
    told = until_ready(handle, "Unknown", "AgentUnreachable")
    assert world.name("n1") in told["message"]
    assert handle.condition("Succeeded")["status"] == "Unknown"
    assert handle.condition("Reconciling")["status"] == "True"
    assert (handle.status()["phase"], handle.status()["allocatedBytes"]) == ("Replicating", 12345)

    # It is cut off for so long, and then its watch shows it what was written.
    heartbeats.begin(world.name("n1"))
    handle.patch(bandwidth="100Mi")
    wait_until(lambda: handle.condition("Accepted").get("observedGeneration") == 2, "the operator has seen it")
    assert handle.condition("Ready")["reason"] == "AgentUnreachable", "nobody has said anything else"
    writer.compare(DiskMigration.from_wire(handle.body() or {}))
    until_ready(handle, "False", "Replicating")
    handle.patch(bandwidth="200Mi")
    wait_until(lambda: handle.condition("Accepted").get("observedGeneration") == 3, "the operator has seen it")
    assert handle.condition("Ready")["reason"] == handle.condition("Succeeded")["reason"] == "Replicating"
    assert len(handle.status()["conditions"]) == 6
    handle.agent_ends()
    assert handle.until_phase("Succeeded")
    assert handle.condition("Ready")["status"] == "True"


def test_an_agent_that_writes_although_its_lease_is_old_is_not_contradicted(
    world: World, heartbeats: Heartbeats, handle: Handle
) -> None:
    heartbeats.stop(world.name("n1"))
    until_ready(handle, "Unknown", "AgentUnreachable")
    handle.agent_writes(agent_status(handle.status(), "Merging"))
    handle.patch(bandwidth="100Mi")
    wait_until(lambda: handle.condition("Accepted").get("observedGeneration") == 2, "the operator has seen it")
    assert (handle.condition("Ready")["status"], handle.condition("Ready")["reason"]) == ("False", "Merging")


def test_its_deadline_ends_the_waiting_and_not_the_migration(
    world: World, mortal: Operator, heartbeats: Heartbeats
) -> None:
    handle = at_work(world, mortal, heartbeats, activeDeadlineSeconds=15)
    heartbeats.stop(world.name("n1"))
    until_ready(handle, "Unknown", "AgentUnreachable")
    wait_until(lambda: handle.condition("Stalled")["status"] == "True", "it is Stalled", seconds=60)
    assert handle.condition("Stalled")["reason"] == "DeadlineExceeded"
    assert handle.condition("Reconciling")["status"] == "False", "kstatus: Failed"
    status = handle.status()
    assert (status["phase"], "failure" in status, "completionTime" in status) == ("Replicating", False, False)
    handle.agent_ends("Failed")
    handle.until_phase("Failed")


def test_what_a_deletion_waits_for_is_a_condition_also_where_no_event_may_be_made(
    world: World, heartbeats: Heartbeats, handle: Handle, control_plane: ControlPlane
) -> None:
    heartbeats.stop(world.name("n1"))
    control_plane.kubectl("delete", "namespace", handle.namespace, "--wait=false")
    handle.delete()

    def is_told() -> bool:
        return "The deletion waits for the agent" in handle.condition("Ready")["message"]

    wait_until(is_told, "it says what it waits for", seconds=60)
    assert world.name("n1") in handle.condition("Ready")["message"]
    control_plane.kubectl("delete", "node", world.name("n1"))
    handle.until_gone(seconds=60)
