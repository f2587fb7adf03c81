"""Who is passed over for a while, and who goes next after that."""

from typing import Any

import pytest

from diskmigration.controller.liveness import Liveness
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.state import ControllerState, Wake
from tests.unit.controller.builders import disk, domain_body, host_body, machine, migration_body, report

SIDES = {
    "source": {"storageDomainName": "a", "type": "File"},
    "destination": {"storageDomainName": "b", "type": "File"},
}
COUNT = 500


def state_with(machines: dict[str, list[str]], *, limit: int = 1, woken: set[str] | None = None) -> ControllerState:
    """ControllerState of these VMs by node, all of which are alive, that were opened before any migration came."""
    wake = (set() if woken is None else woken).add
    state = ControllerState(system_namespace="system", wake=Wake(migration=wake, domain=lambda _name: None))
    for name in "abc":
        state.observe_domain(domain_body(name, limit=limit))
    for node, vms in machines.items():
        state.observe_host(host_body(node, [machine(vm) for vm in vms], [report(each) for each in "abc"]))
    state.set_liveness(Liveness(frozenset(machines)))
    state.scheduler.open()
    return state


def step(state: ControllerState, key: str) -> str:
    """What the reconciler does with one that was accepted: what came of it."""
    migration = state.migrations.active[key]
    match state.scheduler.judge(migration):
        case Refusal() as refusal:
            state.scheduler.set_aside(migration, refusal)
            return refusal.reason.value
        case Placement() as placement:
            return "granted" if state.scheduler.ask_for_place(migration, placement) else "queued"


def queue(
    state: ControllerState, name: str, vm: str, *, created: float, status: dict[str, Any] | None = None, to: str = "b"
) -> str:
    """A migration that was accepted before."""
    state.observe_migration(migration_body(name, vm=vm, to=to, created=created, status=status or SIDES))
    step(state, f"vms/{name}")
    return f"vms/{name}"


@pytest.mark.parametrize("away", ["agent", "libvirtd", "mount", "virtual machine", "storage domain"])
def test_whoever_comes_back_from_an_outage_goes_in_the_order_of_age(away: str) -> None:
    vms = [f"vm-{number}" for number in range(COUNT)]
    woken: set[str] = set()
    state = state_with({"n1": vms, "n2": []}, woken=woken)
    keys = [queue(state, f"m{number}", vm, created=number) for number, vm in enumerate(vms)]
    assert [step(state, key) for key in keys] == ["granted"] + ["queued"] * (COUNT - 1)

    if away == "agent":
        state.set_liveness(Liveness(frozenset({"n2"})))
    elif away == "storage domain":
        state.forget_domain("b")
    else:
        found = [] if away == "virtual machine" else [machine(vm) for vm in vms]
        reports = [report("a"), report("b", ready=away != "mount")]
        complaint = "no answer" if away == "libvirtd" else ""
        state.observe_host(host_body("n1", found, reports, complaint=complaint))
    assert woken.issuperset(keys)
    assert {step(state, key) for key in reversed(keys)} <= {
        "VirtualMachineNotFound",
        "HypervisorUnavailable",
        "StorageDomainNotReady",
        "StorageDomainNotFound",
    }
    assert (state.scheduler.queue_length, state.scheduler.set_aside_count) == (0, COUNT)
    assert state.scheduler.active_on("a") == 0, "nobody holds a place meanwhile"

    woken.clear()
    if away == "agent":
        state.set_liveness(Liveness(frozenset({"n1", "n2"})))
    elif away == "storage domain":
        state.observe_domain({**domain_body("b", limit=1), "metadata": {**domain_body("b")["metadata"], "uid": "new"}})
    else:
        state.observe_host(host_body("n1", [machine(vm) for vm in vms]))
    assert woken.issuperset(keys)
    served = []
    while woken:
        # The workers come to them in any order.
        for key in sorted(woken, reverse=True):
            woken.discard(key)
            if key in state.migrations.active and step(state, key) == "granted":
                served.append(key)
                state.forget_migration(key, f"uid-vms-{key.removeprefix('vms/')}")
    assert served == [f"vms/m{number}" for number in range(COUNT)]


def test_a_place_that_one_cannot_use_goes_to_the_next() -> None:
    state = state_with({"n1": ["vm-0"], "n2": ["vm-1"]})
    sick = queue(state, "m0", "vm-0", created=0)
    healthy = queue(state, "m1", "vm-1", created=1)
    assert (step(state, sick), step(state, healthy)) == ("granted", "queued")
    state.set_liveness(Liveness(frozenset({"n2"})))
    assert step(state, sick) == "VirtualMachineNotFound"
    assert step(state, healthy) == "granted"


def test_one_that_is_away_when_its_turn_comes_is_passed_over_although_nobody_has_looked_at_it() -> None:
    state = state_with({"n1": ["vm-0", "vm-1"], "n2": ["vm-2"]})
    first, away, last = (queue(state, f"m{n}", f"vm-{n}", created=n) for n in range(3))
    assert step(state, first) == "granted"
    state.set_liveness(Liveness(frozenset({"n2"})))
    state.forget_migration(first, "uid-vms-m0")
    assert step(state, last) == "granted"
    assert step(state, away) == "VirtualMachineNotFound"


def test_one_that_is_set_aside_keeps_its_disk_from_a_younger_one_also_after_a_restart() -> None:
    state = state_with({"n1": ["vm-0"]})
    old = queue(state, "old", "vm-0", created=0)
    state.forget_domain("b")
    assert step(state, old) == "StorageDomainNotFound"
    young = queue(state, "young", "vm-0", created=1, to="c")
    assert step(state, young) == "DiskBusy"

    again = ControllerState(
        system_namespace="system", wake=Wake(migration=lambda _key: None, domain=lambda _name: None)
    )
    for name in "ac":
        again.observe_domain(domain_body(name))
    again.observe_domain(domain_body("b", namespaces=("others",)))
    again.observe_host(
        host_body("n1", [machine("vm-0", disks=[disk()])], [report("a"), report("b", ready=False), report("c")])
    )
    again.set_liveness(Liveness(frozenset({"n1"})))
    for name, to, created in (("young", "c", 1), ("old", "b", 0)):
        again.observe_migration(migration_body(name, vm="vm-0", to=to, created=created, status=SIDES))
    again.observe_domain(domain_body("b"))
    again.scheduler.open()
    assert step(again, young) == "DiskBusy"
    assert step(again, old) == "StorageDomainNotReady"


def test_two_that_wait_for_one_disk_get_it_one_after_the_other() -> None:
    state = state_with({"n1": ["vm-0"]}, limit=9)
    keys = [queue(state, f"m{n}", "vm-0", created=n) for n in range(3)]
    assert [step(state, key) for key in keys] == ["granted", "DiskBusy", "DiskBusy"]
    state.forget_migration(keys[0], "uid-vms-m0")
    assert [step(state, key) for key in reversed(keys[1:])] == ["DiskBusy", "granted"]


def test_one_that_was_never_accepted_is_not_set_aside() -> None:
    state = state_with({"n1": ["vm-0"]})
    state.observe_migration(migration_body("m", vm="nobody"))
    assert step(state, "vms/m") == "VirtualMachineNotFound"
    assert state.scheduler.set_aside_count == 0


def test_one_that_moves_nothing_waits_for_no_place() -> None:
    state = state_with({"n1": ["vm-0", "vm-1"]})
    first, second = (queue(state, f"m{n}", f"vm-{n}", created=n) for n in range(2))
    assert (step(state, first), step(state, second)) == ("granted", "queued")
    body = migration_body("m2", vm="vm-1", to="b", created=2, spec={"source": {"storageDomainName": "c"}})
    state.observe_migration(body)
    assert step(state, "vms/m2") == "DiskBusy", "the older one comes first to its disk"
    state.forget_migration(second, "uid-vms-m1")
    assert step(state, "vms/m2") == "granted"


@pytest.mark.parametrize(
    ("phase", "spec", "frees"),
    [
        ("Replicating", {"cutover": {"policy": "Manual"}}, False),
        ("Synchronized", {}, False),
        ("Synchronized", {"cutover": {"policy": "Manual"}}, True),
        ("Synchronized", {"cutover": {"notBefore": "2030-01-01T00:00:00Z"}}, True),
        ("Synchronized", {"suspend": True}, True),
        ("Pivoting", {"cutover": {"policy": "Manual"}}, False),
    ],
)
@pytest.mark.parametrize("limit", [20, 0])
def test_one_that_waits_for_its_cutover_gives_its_place_to_the_next(
    phase: str, spec: dict[str, Any], limit: int, *, frees: bool
) -> None:
    state = state_with({"n1": ["vm-0", "vm-1"]})
    for name in "ab":
        body = domain_body(name, limit=1)
        body["spec"]["maxSynchronizedMigrations"] = limit
        state.observe_domain(body)
    first, second = (queue(state, f"m{n}", f"vm-{n}", created=n) for n in range(2))
    assert (step(state, first), step(state, second)) == ("granted", "queued")
    running = migration_body("m0", vm="vm-0", created=0, spec=spec, status={**SIDES, "nodeName": "n1", "phase": phase})
    state.observe_migration(running)
    assert step(state, second) == ("granted" if frees and limit else "queued")
