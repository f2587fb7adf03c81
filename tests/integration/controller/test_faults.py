"""The operator killed, the API server away, an agent or its node gone."""

import json

import pytest

from diskmigration.cluster.client import Cluster
from testbed.control_plane import ControlPlane
from tests.integration.controller.conftest import Operator
from tests.integration.controller.test_queue import LIMIT, is_active, watched, work_through
from tests.integration.controller.world import World, agent_status, disk, machine
from tests.waiting import wait_until


def event_reasons(control_plane: ControlPlane, namespace: str) -> list[str]:
    found = json.loads(control_plane.kubectl("get", "events", f"--namespace={namespace}", "--output=json"))
    return [item["reason"] for item in found["items"]]


def test_killed_in_the_middle_it_goes_on_and_gives_no_place_twice(world: World, mortal: Operator) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=LIMIT)
    world.node("n1", [machine(world.name(f"vm-{n}"), disks=[disk()]) for n in range(20)])
    mortal.start()
    with watched(world) as looks:
        handles = [world.migrate(f"m{n}", world.name(f"vm-{n}")) for n in range(10)]
        wait_until(lambda: any(is_active(one) for one in world.statuses().values()), "the first is active")
        mortal.kill()
        handles += [world.migrate(f"m{n}", world.name(f"vm-{n}")) for n in range(10, 20)]
        for handle in handles[:10]:
            if is_active(handle.status()):
                handle.agent_writes(agent_status(handle.status(), "Replicating"))
        mortal.start()
        work_through(world, handles)
    assert all(handle.status()["phase"] == "Succeeded" for handle in handles)
    assert max(counts[world.name("dst")] for counts in looks) == LIMIT


def test_what_happened_while_it_was_down_is_taken_in(world: World, mortal: Operator) -> None:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(4)])
    mortal.start()
    handles = [world.migrate(f"m{n}", world.name(f"vm-{n}"), ttlSecondsAfterFinished=0) for n in range(4)]
    for handle in handles:
        handle.until_phase("Scheduled")
    mortal.kill()
    handles[0].agent_ends()
    handles[1].agent_ends()
    handles[1].delete()
    handles[2].delete()
    mortal.start()
    handles[0].until_gone()
    handles[1].until_gone()
    assert handles[2].body() is not None
    handles[2].agent_ends("Cancelled")
    handles[2].until_gone()
    assert handles[3].status()["phase"] == "Scheduled"


def test_it_ends_on_sigterm(mortal: Operator) -> None:
    mortal.start()
    assert mortal.stop() == 0


@pytest.mark.nightly
def test_with_the_api_server_away_it_waits_and_goes_on(
    world: World, mortal: Operator, control_plane: ControlPlane
) -> None:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(2)])
    mortal.start()
    world.migrate("m0", world.name("vm-0")).until_phase("Scheduled")
    control_plane.stop_api_server()
    try:
        wait_until(lambda: not mortal.is_ready(), "it says that it cannot work")
        assert mortal.is_live()
    finally:
        control_plane.start_api_server()
    world.migrate("m1", world.name("vm-1")).until_phase("Scheduled", seconds=60)
    assert mortal.is_live()
    wait_until(mortal.is_ready, "it says that it works again")


def test_an_agent_that_is_not_alive_gets_no_work_until_it_is(world: World, mortal: Operator) -> None:
    world.domain("src")
    world.domain("dst")
    node = world.node("n1", [machine(world.name("vm"))], has_agent=False)
    mortal.start("--acceptance-grace-seconds=60")
    handle = world.migrate("m", world.name("vm"))
    assert node in handle.until_accepted("False", "VirtualMachineNotFound")["message"]
    world.renew(node)
    handle.until_phase("Scheduled")


def test_a_deletion_that_waits_for_a_dead_agent_says_so_and_goes_with_the_node(
    world: World, mortal: Operator, control_plane: ControlPlane, admin: Cluster
) -> None:
    world.domain("src")
    world.domain("dst")
    node = world.node("n1", [machine(world.name("vm"))], has_object=True)
    mortal.start("--lease-stale-seconds=4", "--acceptance-grace-seconds=60")
    handle = world.migrate("m", world.name("vm"))

    def is_scheduled_while_the_agent_lives() -> bool:
        world.renew(node)
        return handle.status().get("phase") == "Scheduled"

    wait_until(is_scheduled_while_the_agent_lives, "it is scheduled")
    handle.agent_writes(agent_status(handle.status(), "Replicating"))
    handle.delete()
    wait_until(
        lambda: "WaitingForAgent" in event_reasons(control_plane, handle.namespace),
        "it says for whom it waits",
        seconds=60,
    )
    assert handle.body() is not None
    found = admin.get("nodes", node)
    assert found is not None
    control_plane.kubectl("delete", "node", node)
    handle.until_gone(seconds=60)
    wait_until(
        lambda: "ReleasedWithoutCleanUp" in event_reasons(control_plane, handle.namespace), "it says what may be left"
    )
