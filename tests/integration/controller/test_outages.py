"""What was accepted once outlives an outage: it waits, says for what, and goes on in its order."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from diskmigration.api import names
from testbed.control_plane import ControlPlane
from tests.integration.controller.conftest import Operator
from tests.integration.controller.outages import GRACE_SECONDS, OPTIONS, STALE_SECONDS, Heartbeats
from tests.integration.controller.test_queue import is_active
from tests.integration.controller.world import GIB, Handle, World, machine, ready
from tests.variants import first_by_day
from tests.waiting import wait_until

FIRST = 8
"""Of so many the order is looked at in which they are handed over."""


@contextmanager
def agent_away(world: World, heartbeats: Heartbeats, node: str) -> Iterator[str]:
    """As while its pod is replaced, or the node reboots."""
    assert world.machines[node]
    heartbeats.stop(node)
    yield "VirtualMachineNotFound"
    heartbeats.begin(node)


@contextmanager
def mount_away(world: World, heartbeats: Heartbeats, node: str) -> Iterator[str]:
    """As while an NFS server is away."""
    assert heartbeats
    before = world.reports[node]
    world.report(node, world.machines[node], [ready("src"), ready("dst", is_ready=False, reason="NotMounted")])
    yield "StorageDomainNotReady"
    world.report(node, world.machines[node], before)


@contextmanager
def libvirtd_away(world: World, heartbeats: Heartbeats, node: str) -> Iterator[str]:
    """As while libvirtd hangs: the agent renews its Lease and reports what it knew."""
    assert heartbeats
    world.report(node, world.machines[node], world.reports[node], complaint="libvirtd does not answer.")
    yield "HypervisorUnavailable"
    world.report(node, world.machines[node], world.reports[node])


@contextmanager
def inventory_empty(world: World, heartbeats: Heartbeats, node: str) -> Iterator[str]:
    """As of an agent that has begun to survey its node."""
    assert heartbeats
    before = world.machines[node]
    world.report(node, [], world.reports[node])
    yield "VirtualMachineNotFound"
    world.report(node, before, world.reports[node])


@contextmanager
def destination_full(world: World, heartbeats: Heartbeats, node: str) -> Iterator[str]:
    """As until somebody frees some room."""
    assert heartbeats
    before = world.reports[node]
    world.report(node, world.machines[node], [ready("src"), ready("dst", available=GIB - 1)])
    yield "DestinationFull"
    world.report(node, world.machines[node], before)


Outage = Callable[[World, Heartbeats, str], Any]


@pytest.mark.parametrize(
    ("outage", "count"),
    first_by_day(
        [
            (agent_away, 60),
            (libvirtd_away, 30),
            (mount_away, 30),
            (inventory_empty, 30),
            (destination_full, 30),
            (agent_away, 500),
        ],
        2,
    ),
)
def test_nobody_in_the_queue_fails_and_the_order_stays(
    world: World, mortal: Operator, heartbeats: Heartbeats, outage: Outage, count: int
) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    node = world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(count)])
    heartbeats.begin(node)
    mortal.start(*OPTIONS)
    first = world.migrate("first", world.name("vm-0"))
    first.until_phase("Scheduled")
    waiting = create(world, range(1, count))
    wait_until(lambda: accepted(world) == {("True", "Queued"): count - 1}, "all are queued", seconds=120)
    order = by_age(world, waiting)

    with outage(world, heartbeats, node) as reason:
        wait_until(lambda: accepted(world) == {("False", reason): count - 1}, "all say what they wait for", seconds=120)
        refused_at = time.monotonic()
        told = waiting[0].condition("Accepted")
        assert told["message"].endswith("It keeps its turn, and goes on by itself when this has passed.")
        first.agent_ends()
        wait_until(lambda: not active(world), "the place is free")
        wait_until(lambda: time.monotonic() - refused_at > GRACE_SECONDS + 1, "the grace would be over for all of them")
        assert accepted(world) == {("False", reason): count - 1}
        assert "startTime" in waiting[0].status()

    served: list[str] = []

    def step() -> bool:
        for handle in active(world):
            served.append(handle.name)
            handle.agent_ends()
        return len(served) >= min(FIRST, count - 1)

    wait_until(step, "the first of them run", seconds=120)
    assert served[:FIRST] == [handle.name for handle in order[: len(served[:FIRST])]]
    phases = {status.get("phase") for status in world.statuses().values()}
    assert phases <= {"Succeeded", "Pending", "Scheduled"}


def two_vms_and_one_place(world: World, mortal: Operator, heartbeats: Heartbeats) -> str:
    """Start the operator over a node with two VMs, of which one may move at a time; return the node's name."""
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    node = world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(2)])
    heartbeats.begin(node)
    mortal.start(*OPTIONS)
    return node


def test_only_its_deadline_ends_one_that_waits_and_it_says_for_what(
    world: World, mortal: Operator, heartbeats: Heartbeats
) -> None:
    node = two_vms_and_one_place(world, mortal, heartbeats)
    world.migrate("first", world.name("vm-0")).until_phase("Scheduled")
    second = world.migrate("second", world.name("vm-1"), activeDeadlineSeconds=10)
    second.until_accepted("True", "Queued")
    with mount_away(world, heartbeats, node) as reason:
        second.until_accepted("False", reason)
        failure = second.until_phase("Failed")["failure"]
    assert failure["reason"] == "DeadlineExceeded"
    assert "NotMounted" in failure["message"]


def test_one_that_was_suspended_in_an_outage_still_waits_when_it_is_let_go(
    world: World, mortal: Operator, heartbeats: Heartbeats
) -> None:
    node = two_vms_and_one_place(world, mortal, heartbeats)
    first = world.migrate("first", world.name("vm-0"))
    first.until_phase("Scheduled")
    second = world.migrate("second", world.name("vm-1"))
    second.until_accepted("True", "Queued")
    with mount_away(world, heartbeats, node) as reason:
        second.until_accepted("False", reason)
        second.patch(suspend=True)
        second.until_accepted("Unknown", reason)
        mortal.kill()
        second.patch(suspend=False)
        mortal.start(*OPTIONS)
        second.until_accepted("False", reason)
        first.agent_ends()
    second.until_phase("Scheduled")


def test_a_vm_that_was_started_elsewhere_is_found_there_when_its_node_is_lost(
    world: World, mortal: Operator, heartbeats: Heartbeats
) -> None:
    world.domain("src")
    world.domain("dst")
    vm = machine(world.name("vm"))
    lost = world.node("n1", [vm])
    other = world.node("n2", [])
    heartbeats.begin(lost)
    heartbeats.begin(other)
    mortal.start(*OPTIONS[:1], "--acceptance-grace-seconds=60")
    heartbeats.stop(lost)
    # What the lost node reported last stays as it is.
    world.report(other, [vm], world.reports[other])
    handle = world.migrate("m", world.name("vm"))
    assert handle.until_phase("Scheduled")["nodeName"] == other


def test_a_node_whose_libvirtd_does_not_answer_gets_no_places(
    world: World, mortal: Operator, heartbeats: Heartbeats
) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=4)
    nodes = {
        name: world.node(name, [machine(world.name(f"{name}-{number}")) for number in range(4)])
        for name in ("sick", "well")
    }
    for node in nodes.values():
        heartbeats.begin(node)
    sick = nodes["sick"]
    mortal.start(*OPTIONS[:1], "--acceptance-grace-seconds=60")
    world.report(sick, world.machines[sick], world.reports[sick], complaint="libvirtd has not answered since noon.")
    held = [world.migrate(f"sick-{n}", world.name(f"sick-{n}")) for n in range(4)]
    for handle in held:
        assert "since noon" in handle.until_accepted("False", "HypervisorUnavailable")["message"]
    for handle in [world.migrate(f"well-{n}", world.name(f"well-{n}")) for n in range(4)]:
        assert handle.until_phase("Scheduled")["nodeName"] == nodes["well"]
        handle.agent_ends()
    world.report(sick, world.machines[sick], world.reports[sick])
    for handle in held:
        assert handle.until_phase("Scheduled")["nodeName"] == sick


@contextmanager
def accepted_meanwhile(handles: list[Handle]) -> Iterator[set[str]]:
    """Every reason for which any of the migrations was not Accepted meanwhile."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            said = [handle.condition("Accepted") for handle in handles]
            seen.update(one["reason"] for one in said if one.get("status") == "False")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_after_an_outage_of_the_api_server_a_new_leader_refuses_nobody(
    world: World, mortal: Operator, heartbeats: Heartbeats, control_plane: ControlPlane
) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    nodes = {
        name: world.node(name, [machine(world.name(name)), machine(world.name(f"{name}-other"))])
        for name in ("n1", "n2", "lost")
    }
    for node in nodes.values():
        heartbeats.begin(node)
    mortal.start(*OPTIONS)
    first = world.migrate("first", world.name("n1"))
    first.until_phase("Scheduled")
    second, lost = (world.migrate(name, world.name(name)) for name in ("n2", "lost"))
    for handle in (second, lost):
        handle.until_accepted("True", "Queued")
    mortal.kill()
    for node in nodes.values():
        heartbeats.stop(node)
    control_plane.stop_api_server()
    stopped = time.monotonic()
    try:
        wait_until(lambda: time.monotonic() - stopped > STALE_SECONDS + 1, "all Leases look old")
    finally:
        control_plane.start_api_server()
    mortal.start("--lease-stale-seconds=12", *OPTIONS[1:])
    started = time.monotonic()
    fresh = world.migrate("fresh", world.name("n1-other"))
    with accepted_meanwhile([second, fresh]) as refusals:
        # The agents find the API server again a while after the operator.
        wait_until(lambda: time.monotonic() - started > 2, "it has looked at the Leases several times")
        for name in ("n1", "n2"):
            heartbeats.begin(nodes[name])
        first.agent_ends()
        second.until_phase("Scheduled")
        fresh.until_accepted("True", "Queued")
    assert refusals == set()
    lost.until_accepted("False", "VirtualMachineNotFound")


def create(world: World, numbers: range) -> list[Handle]:
    world.namespace()
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda number: world.migrate(f"m{number}", world.name(f"vm-{number}")), numbers))


def accepted(world: World) -> dict[tuple[str, str], int]:
    """How many of those that wait have which Accepted."""
    found: dict[tuple[str, str], int] = {}
    for status in world.statuses().values():
        if status.get("phase", "Pending") == "Pending":
            conditions = {one["type"]: (one["status"], one["reason"]) for one in status.get("conditions", [])}
            said = conditions.get("Accepted", ("", ""))
            found[said] = found.get(said, 0) + 1
    return found


def active(world: World) -> list[Handle]:
    return [Handle(world, *key.split("/")) for key, status in world.statuses().items() if is_active(status)]


def by_age(world: World, handles: list[Handle]) -> list[Handle]:
    """Oldest first; of those made within one second the uid decides."""
    bodies = {
        body["metadata"]["name"]: body["metadata"]
        for body in world.admin.list(names.DISK_MIGRATIONS, namespace=world.namespace())
    }
    return sorted(handles, key=lambda one: (bodies[one.name]["creationTimestamp"], bodies[one.name]["uid"]))
