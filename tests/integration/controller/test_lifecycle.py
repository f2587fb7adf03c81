"""A migration from its first second to its deletion, as far as the operator goes."""

import json
import time
from typing import Any

import pytest

from diskmigration.api import names
from tests.integration.controller.world import Handle, World, agent_status, disk, machine, ready
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def handle(world: World) -> Handle:
    """A migration that can be handed over at once."""
    prepare(world)
    return world.migrate("m", world.name("vm"))


def prepare(world: World, *, limit: int = 4, vms: int = 1) -> None:
    world.domain("src", maxConcurrentMigrations=limit)
    world.domain("dst", maxConcurrentMigrations=limit)
    machines = [machine(world.name("vm") if n == 0 else world.name(f"vm{n}")) for n in range(vms)]
    world.node("n1", machines)


def said(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def events(world: World, handle: Handle) -> list[str]:
    found = world.control_plane.kubectl(
        "get",
        "events",
        f"--namespace={handle.namespace}",
        "--output=json",
        f"--field-selector=involvedObject.name={handle.name}",
    )
    return [item["reason"] for item in json.loads(found)["items"]]


def test_it_is_handed_to_the_agent_of_its_node(world: World, handle: Handle) -> None:
    status = handle.until_phase("Scheduled")
    assert status["nodeName"] == world.name("n1")
    assert status["observedGeneration"] == 1
    assert status["startTime"]
    assert status["source"] == {"storageDomainName": world.name("src"), "type": "File"}
    assert status["destination"] == {"storageDomainName": world.name("dst"), "type": "File"}
    assert said(status) == {
        "Accepted": ("True", "Scheduled"),
        "Succeeded": ("Unknown", "Scheduled"),
        "Ready": ("False", "Scheduled"),
        "Reconciling": ("True", "Scheduled"),
        "Stalled": ("False", "Scheduled"),
    }
    body = handle.body()
    assert body is not None
    assert body["metadata"]["finalizers"] == [names.FINALIZER]
    assert "annotations" not in body["metadata"]
    wait_until(lambda: "Scheduled" in events(world, handle), "the event")


def test_the_agent_takes_the_status_over_and_the_operator_does_not_fight(world: World, handle: Handle) -> None:
    scheduled = handle.until_phase("Scheduled")
    handle.agent_writes(agent_status(scheduled, "Replicating"))
    handle.patch(bandwidth="100Mi")
    wait_until(lambda: handle.condition("Accepted").get("observedGeneration") == 2, "Accepted is of the new generation")
    status = handle.status()
    assert status["phase"] == "Replicating"
    assert status["attempts"] == 1
    assert (status["startTime"], status["nodeName"]) == (scheduled["startTime"], scheduled["nodeName"])
    assert said(status)["Reconciling"] == ("True", "Replicating")
    handle.agent_writes({**agent_status(status, "Merging"), "attempts": 2})
    handle.patch(bandwidth="200Mi")
    wait_until(
        lambda: handle.condition("Accepted").get("observedGeneration") == 3, "Accepted is of the newest generation"
    )
    status = handle.status()
    assert (status["phase"], status["attempts"]) == ("Merging", 2)
    assert len(status["conditions"]) == 6


def test_a_change_before_the_agent_takes_over_loses_nothing(handle: Handle) -> None:
    before = handle.until_phase("Scheduled")
    handle.patch(bandwidth="100Mi")
    wait_until(lambda: handle.status().get("observedGeneration") == 2, "the new generation is observed")
    status = handle.status()
    assert {name: status[name] for name in ("phase", "nodeName", "startTime", "source")} == {
        name: before[name] for name in ("phase", "nodeName", "startTime", "source")
    }
    assert all(one["observedGeneration"] == 2 for one in status["conditions"])


def test_the_agents_end_frees_the_object(handle: Handle) -> None:
    handle.until_phase("Scheduled")
    handle.agent_ends()

    def is_free() -> bool:
        body = handle.body()
        return body is not None and not body["metadata"].get("finalizers")

    wait_until(is_free, "the finalizer is gone")
    assert handle.status()["phase"] == "Succeeded"


def test_suspended_it_waits_and_its_time_does_not_run(world: World) -> None:
    prepare(world)
    handle = world.migrate("m", world.name("vm"), suspend=True, activeDeadlineSeconds=1)
    handle.until_accepted("Unknown", "Suspended")
    status = handle.status()
    assert status["phase"] == "Pending"
    assert "startTime" not in status
    assert "nodeName" not in status
    handle.patch(suspend=False)
    assert handle.until_phase("Scheduled", "Failed")["phase"] == "Scheduled"


def test_one_that_waits_can_be_suspended_and_let_go_again(world: World) -> None:
    prepare(world, limit=1, vms=2)
    first = world.migrate("first", world.name("vm"))
    first.until_phase("Scheduled")
    second = world.migrate("second", world.name("vm1"))
    second.until_accepted("True", "Queued")
    second.patch(suspend=True)
    second.until_accepted("Unknown", "Suspended")
    assert {"startTime", "queuePosition"}.isdisjoint(second.status())
    first.agent_ends()
    second.patch(suspend=False)
    second.until_phase("Scheduled")


def test_cancelled_before_it_starts_nothing_is_touched(world: World) -> None:
    prepare(world)
    handle = world.migrate("m", world.name("vm"), suspend=True)
    handle.until_accepted("Unknown", "Suspended")
    handle.patch(cancel=True)
    status = handle.until_phase("Cancelled")
    assert "nodeName" not in status
    assert status["completionTime"]
    assert said(status)["Succeeded"] == ("False", "Cancelled")
    assert said(status)["Stalled"] == ("True", "Cancelled")


def test_cancelled_in_the_queue_it_lets_the_next_one_go(world: World) -> None:
    prepare(world, limit=1, vms=3)
    first = world.migrate("first", world.name("vm"))
    first.until_phase("Scheduled")
    second = world.migrate("second", world.name("vm1"))
    second.until_accepted("True", "Queued")
    third = world.migrate("third", world.name("vm2"))
    third.until_accepted("True", "Queued")
    second.patch(cancel=True)
    second.until_phase("Cancelled")
    first.agent_ends()
    third.until_phase("Scheduled")


def test_a_deadline_that_passes_in_the_queue_fails_it(world: World) -> None:
    prepare(world, limit=1, vms=2)
    world.migrate("first", world.name("vm")).until_phase("Scheduled")
    second = world.migrate("second", world.name("vm1"), activeDeadlineSeconds=2)
    second.until_accepted("True", "Queued")
    status = second.until_phase("Failed")
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert said(status)["Accepted"][0] == "True"
    assert "queuePosition" not in status


def test_a_ttl_deletes_it_when_it_is_due(world: World) -> None:
    prepare(world)
    handle = world.migrate("m", world.name("vm"), ttlSecondsAfterFinished=2)
    handle.until_phase("Scheduled")
    handle.agent_ends("Failed")
    ended = time.monotonic()
    handle.until_gone()
    assert time.monotonic() - ended > 1


def test_a_ttl_given_after_the_end_counts(handle: Handle) -> None:
    handle.until_phase("Scheduled")
    handle.agent_ends()
    handle.until_phase("Succeeded")
    handle.patch(ttlSecondsAfterFinished=0)
    handle.until_gone()


def test_a_change_after_the_end_is_observed(handle: Handle) -> None:
    handle.until_phase("Scheduled")
    handle.agent_ends()
    handle.until_phase("Succeeded")
    handle.patch(ttlSecondsAfterFinished=3600)
    handle.patch(cancel=True)
    wait_until(lambda: handle.status()["observedGeneration"] == 3, "the change is observed")
    assert handle.status()["phase"] == "Succeeded"


def test_a_running_vms_disk_that_seems_to_be_there_is_looked_at_by_its_agent(world: World) -> None:
    world.domain("dst", maxConcurrentMigrations=1)
    world.node("n1", [machine(world.name("vm"), disks=[disk(domain="dst")])])
    for name in ("m", "again"):
        handle = world.migrate(name, world.name("vm"))
        assert handle.until_phase("Scheduled")["nodeName"] == world.name("n1")
        handle.agent_ends()
        handle.until_phase("Succeeded")


def test_deleted_before_it_is_handed_over_it_goes_at_once(world: World) -> None:
    prepare(world, limit=1, vms=2)
    world.migrate("first", world.name("vm")).until_phase("Scheduled")
    second = world.migrate("second", world.name("vm1"))
    second.until_accepted("True", "Queued")
    second.delete()
    second.until_gone(seconds=5)


def test_deleted_while_it_runs_it_waits_for_its_agent(handle: Handle) -> None:
    handle.agent_writes(agent_status(handle.until_phase("Scheduled"), "Replicating"))
    handle.delete()
    wait_until(lambda: (handle.body() or {"metadata": {}})["metadata"].get("deletionTimestamp"), "it is to go")
    handle.agent_writes(agent_status(handle.status(), "CleaningUp"))
    wait_until(lambda: handle.status()["phase"] == "CleaningUp", "the agent cleans up")
    assert handle.body() is not None
    handle.agent_ends("Cancelled")
    handle.until_gone()


def test_an_object_made_anew_under_its_name_is_a_migration_of_its_own(world: World, handle: Handle) -> None:
    handle.until_phase("Scheduled")
    handle.agent_ends()
    handle.until_phase("Succeeded")
    handle.delete()
    handle.until_gone()
    again = world.migrate("m", world.name("vm"))
    again.until_phase("Scheduled")


def test_a_storage_domains_status_tells_where_it_is_ready(world: World) -> None:
    name = world.domain("dst", kind="loop")

    def status() -> dict[str, Any]:
        body = world.admin.get(names.STORAGE_DOMAINS, name)
        assert body is not None
        found: dict[str, Any] = body.get("status", {})
        return found

    def is_said(ready_status: str, nodes: int) -> bool:
        conditions = status().get("conditions", [])
        return bool(conditions) and (conditions[0]["status"], status().get("readyNodes", 0)) == (ready_status, nodes)

    wait_until(lambda: is_said("False", 0), "no node has it")
    assert status()["type"] == "Block"
    node = world.node("n1", [], [ready("dst")])
    world.node("n2", [], [ready("dst", is_ready=False, reason="NotMounted")])
    wait_until(
        lambda: is_said("True", 1) and "NotMounted" in status()["conditions"][0]["message"], "one of two is ready"
    )
    world.report(node, [], [ready("dst", is_ready=False, reason="Lost")])
    wait_until(lambda: is_said("False", 0), "none is ready any more")


def test_kubectl_wait_returns_when_it_is_done(world: World, handle: Handle) -> None:
    handle.until_phase("Scheduled")
    handle.agent_ends()
    world.control_plane.kubectl(
        "wait", "--for=condition=Ready", f"dm/{handle.name}", f"--namespace={handle.namespace}", "--timeout=10s"
    )
