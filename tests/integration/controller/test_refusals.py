"""Bad input: each is refused with its reason, before anything is handed to an agent."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from diskmigration.api import names
from tests.integration.controller.conftest import GRACE_SECONDS, Operator
from tests.integration.controller.world import GIB, Handle, World, disk, machine, ready
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("operator")


def plain(world: World, **spec: object) -> Handle:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"))])
    return world.migrate("m", world.name("vm"), **spec)  # type: ignore[arg-type]


def no_such_vm(world: World) -> Handle:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"))])
    return world.migrate("m", world.name("v"))


def two_vms_of_that_name(world: World) -> Handle:
    world.domain("src")
    world.domain("dst")
    for node in ("n1", "n2"):
        world.node(node, [machine(world.name("vm"))])
    return world.migrate("m", world.name("vm"))


def no_such_disk(world: World) -> Handle:
    return plain(world, disk="vdz")


def network_disk(world: World) -> Handle:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"), disks=[disk(domain="", kind="Network")], owner=world.name("vms"))])
    return world.migrate("m", world.name("vm"))


def outside_every_domain(world: World) -> Handle:
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"), disks=[disk(domain="")], owner=world.name("vms"))])
    return world.migrate("m", world.name("vm"))


def unknown_destination(world: World) -> Handle:
    world.domain("src")
    world.node("n1", [machine(world.name("vm"))])
    return world.migrate("m", world.name("vm"), to="nowhere")


def destination_not_ready(world: World) -> Handle:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"))], [ready("src"), ready("dst", is_ready=False, reason="NotMounted")])
    return world.migrate("m", world.name("vm"))


def full_destination(world: World) -> Handle:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"))], [ready("src"), ready("dst", available=GIB - 1)])
    return world.migrate("m", world.name("vm"))


def destination_closed_to_the_namespace(world: World) -> Handle:
    world.domain("src")
    world.domain("dst", allowedNamespaces=["others"])
    world.node("n1", [machine(world.name("vm"))])
    return world.migrate("m", world.name("vm"))


def source_closed_to_the_namespace(world: World) -> Handle:
    world.domain("src", allowedNamespaces=[])
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"), owner=world.name("vms"))])
    return world.migrate("m", world.name("vm"))


def unlocked_group_of_two_nodes(world: World) -> Handle:
    world.domain("src")
    world.domain("dst", kind="lvm")
    group = world.name("group")
    world.node("n1", [machine(world.name("vm"))], [ready("src"), ready("dst", group=group)])
    world.node("n2", [], [ready("dst", group=group)])
    return world.migrate("m", world.name("vm"))


def agent_that_is_not_alive(world: World) -> Handle:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"))], has_agent=False)
    return world.migrate("m", world.name("vm"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_such_vm, "VirtualMachineNotFound"),
        (two_vms_of_that_name, "VirtualMachineAmbiguous"),
        (no_such_disk, "DiskNotFound"),
        (network_disk, "DiskNotSupported"),
        (outside_every_domain, "SourceNotInStorageDomain"),
        (unknown_destination, "StorageDomainNotFound"),
        (destination_not_ready, "StorageDomainNotReady"),
        (full_destination, "DestinationFull"),
        (destination_closed_to_the_namespace, "NamespaceNotAllowed"),
        (source_closed_to_the_namespace, "NamespaceNotAllowed"),
        (unlocked_group_of_two_nodes, "SharedVolumeGroupUnlocked"),
        (agent_that_is_not_alive, "VirtualMachineNotFound"),
    ],
)
def test_it_is_refused_with_its_reason_once_the_grace_is_over(
    world: World, make: Callable[[World], Handle], reason: str
) -> None:
    handle = make(world)
    handle.until_accepted("False", reason)
    refused_at = time.monotonic()
    status = handle.until_phase("Failed", seconds=GRACE_SECONDS + 15)
    assert time.monotonic() - refused_at > GRACE_SECONDS / 2
    assert "nodeName" not in status
    assert status["failure"]["reason"] == reason
    assert status["failure"]["phase"] == "Pending"
    assert len(status["failure"]["message"]) > 30
    assert status["observedGeneration"] == 1
    assert status["completionTime"]
    said = {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}
    assert said == {
        "Accepted": ("False", reason),
        "Succeeded": ("False", reason),
        "Ready": ("False", reason),
        "Reconciling": ("False", reason),
        "Stalled": ("True", reason),
    }


def test_the_second_for_one_disk_waits_until_the_first_has_ended(world: World) -> None:
    first = plain(world)
    first.until_phase("Scheduled")
    second = world.migrate("second", world.name("vm"))
    late = world.migrate("late", world.name("vm"), activeDeadlineSeconds=GRACE_SECONDS + 2)
    for handle in (second, late):
        assert f"{first.namespace}/m" in handle.until_accepted("False", "DiskBusy")["message"]
    failure = late.until_phase("Failed")["failure"]
    assert failure["reason"] == "DeadlineExceeded"
    assert f"{first.namespace}/m" in failure["message"]
    assert (first.status()["phase"], second.status()["phase"]) == ("Scheduled", "Pending")
    first.agent_ends()
    second.until_phase("Scheduled")


def test_two_disks_of_one_vm_may_move_at_once(world: World) -> None:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"), disks=[disk("vda"), disk("vdb")])])
    for target in ("vda", "vdb"):
        world.migrate(target, world.name("vm"), disk=target).until_phase("Scheduled")


@pytest.mark.parametrize("mends", ["vm", "domain", "space"])
def test_what_mends_itself_in_time_is_accepted(world: World, operator: Operator, mends: str) -> None:
    world.domain("src")
    vm = [machine(world.name("vm"))]
    if mends != "domain":
        world.domain("dst")
    room = [ready("src"), ready("dst", available=0 if mends == "space" else 10 * GIB)]
    node = world.node("n1", [] if mends == "vm" else vm, room)
    handle = world.migrate("m", world.name("vm"))
    handle.until_accepted(
        "False",
        {"vm": "VirtualMachineNotFound", "domain": "StorageDomainNotFound", "space": "DestinationFull"}[mends],
    )
    if mends == "domain":
        world.domain("dst")
    else:
        world.report(node, vm, [ready("src"), ready("dst")])
    status = handle.until_phase("Scheduled")
    assert status["nodeName"] == node
    assert handle.condition("Accepted")["status"] == "True"


def test_an_unreadable_storage_domain_is_not_ready(world: World) -> None:
    world.domain("src")
    world.node("n1", [machine(world.name("vm"))], [ready("src")])
    world.domain("dst")
    handle = world.migrate("m", world.name("vm"))
    condition = handle.until_accepted("False", "StorageDomainNotReady")
    assert world.name("n1") in condition["message"]


def test_a_group_that_was_shared_unlocked_is_used_once_it_is_locked(world: World) -> None:
    world.domain("src")
    world.domain("dst", kind="lvm")
    group, vm = world.name("group"), machine(world.name("vm"))
    world.node("n1", [vm], [ready("src"), ready("dst", group=group)])
    world.node("n2", [], [ready("dst", group=group)])
    handle = world.migrate("m", world.name("vm"))
    handle.until_accepted("False", "SharedVolumeGroupUnlocked")
    told = handle.condition("Accepted")["message"]
    assert world.name("n1") in told
    assert world.name("n2") in told

    def domain_condition() -> dict[str, Any]:
        body = world.admin.get(names.STORAGE_DOMAINS, world.name("dst")) or {}
        found: list[dict[str, Any]] = body.get("status", {}).get("conditions", [])
        return {one["type"]: one for one in found}.get("Ready", {})

    wait_until(lambda: domain_condition().get("reason") == "SharedVolumeGroupUnlocked", "the domain tells it")
    assert domain_condition()["status"] == "False"
    for node, machines, others in (("n1", [vm], [ready("src")]), ("n2", [], [])):
        world.report(world.name(node), machines, [*others, ready("dst", group=group, lock_type="sanlock")])
    assert handle.until_phase("Scheduled")["nodeName"] == world.name("n1")
    wait_until(lambda: domain_condition().get("status") == "True", "the domain is ready")


def test_groups_of_one_name_on_two_nodes_are_two_groups(world: World) -> None:
    world.domain("src")
    world.domain("dst", kind="lvm")
    world.node("n1", [machine(world.name("vm"))], [ready("src"), ready("dst", group=world.name("one"))])
    world.node("n2", [], [ready("dst", group=world.name("two"))])
    handle = world.migrate("m", world.name("vm"))
    assert handle.until_phase("Scheduled")["nodeName"] == world.name("n1")


def test_a_floor_keeps_a_migration_away_until_it_is_lowered(world: World) -> None:
    world.domain("src")
    world.domain("dst", minAvailable="30%")
    world.node("n1", [machine(world.name("vm"))], [ready("src"), ready("dst", available=300 * GIB)])
    handle = world.migrate("m", world.name("vm"))
    refused = handle.until_accepted("False", "DestinationFull")
    assert "300.0Gi have to stay free (spec.minAvailable: 30%)" in refused["message"]
    world.domain("dst", minAvailable="10Gi")
    handle.until_phase("Scheduled")
