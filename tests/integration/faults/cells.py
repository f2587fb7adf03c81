"""One cell of the matrix: a fault at a moment of a migration, and what must be so after it."""

import time
from dataclasses import dataclass
from typing import Any

from tests.integration.faults.faults import FAULTS, World
from tests.integration.faults.moments import BACK, is_before_pivot
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import FINAL, Migration, wait_until

LENGTH = 2
"""Volumes of the chain."""
RECOVERY = "recovery"
"""The property under which a test keeps how its cell ended."""

_SLOW_BYTES = 512 * 1024
_SECONDS = 150
"""For a migration to end, whatever befell it: the time that the slowest of them took, three times over."""


@dataclass(frozen=True)
class Recovery:
    """How a cell ended, and how long it took from the fault's end."""

    phase: str
    reason: str
    seconds: float

    def __str__(self) -> str:
        return f"{' '.join((self.phase, self.reason)).strip()}, {self.seconds:.1f} s after it"


def play(world: World, fault_name: str, moment: str, destination: str) -> Recovery:
    """Moves the disk, breaks what the fault says at the moment, and checks that nothing was lost or left.

    Raises:
        AssertionError: something was lost, or left, or the status does not say the truth.
    """
    machine, fault = world.machine, FAULTS[fault_name]
    chain, files = machine.chain(), _files(world)
    world.holds.arm(moment)
    migration = _begin(world, moment, destination)
    world.holds.wait_until_reached(moment)
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)

    fault.strike(world)
    if fault.mend is not None:
        # An outage is as long as it is; nothing tells its end.
        time.sleep(world.outage_seconds)
        fault.mend(world)
    mended = time.monotonic()
    if moment == "AwaitSync.before":
        migration.patch({"bandwidth": None})
    status = _end(migration, moment)
    seconds = time.monotonic() - mended

    if fault.ends_vm:
        world.stack.host.virsh("start", machine.name, "--paused")
    else:
        machine.write(offset=70 * MEBIBYTE, length=MEBIBYTE, pattern=70)
    _check(world, migration, status, fault_ends_vm=fault.ends_vm, moment=moment, chain=chain, files=files)
    return Recovery(status["phase"], status.get("failure", {}).get("reason", ""), seconds)


def _begin(world: World, moment: str, destination: str) -> Migration:
    spec: dict[str, Any] = {}
    if moment in BACK or moment == "AwaitCutover.before":
        spec["cutover"] = {"policy": "Manual"}
    if moment == "AwaitSync.before":
        # So that the mirror is not in step at once.
        world.machine.write(offset=20 * MEBIBYTE, length=8 * MEBIBYTE, pattern=20)
        spec.update(bandwidth=_SLOW_BYTES, strategy="Direct")
    migration = world.stack.migrate(world.machine, destination, **spec)
    if moment in BACK:
        migration.wait_for_phase("Synchronized")
        migration.patch({"cancel": True})
    return migration


def _end(migration: Migration, moment: str) -> dict[str, Any]:
    if moment == "AwaitCutover.before":
        wait_until(lambda: migration.phase() in ("Synchronized", *FINAL), "the migration goes on", seconds=_SECONDS)
        migration.patch({"cutover": {"policy": "Automatic"}})

    def last_status() -> dict[str, Any] | None:
        status = migration.status()
        return status if status.get("phase") in FINAL else None

    return wait_until(last_status, "the migration ends", seconds=_SECONDS)


def _check(
    world: World,
    migration: Migration,
    status: dict[str, Any],
    *,
    fault_ends_vm: bool,
    moment: str,
    chain: list[tuple[str, str]],
    files: dict[str, list[str]],
) -> None:
    machine, stack = world.machine, world.stack
    source, destination = machine_domain(chain, stack.domains), migration.get()["spec"]["destination"]["storageDomain"]
    if moment in BACK:
        expected = "Failed" if fault_ends_vm and status["phase"] == "Failed" else "Cancelled"
    else:
        expected = "Failed" if fault_ends_vm and is_before_pivot(moment) else "Succeeded"
    assert status["phase"] == expected, status
    if expected == "Failed":
        assert status["failure"]["reason"] == "VirtualMachineStopped", status
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    wait_until(lambda: not migration.get()["metadata"].get("finalizers"), "the object may go")
    machine.verify()
    assert "mirror" not in machine.xml()
    if expected != "Succeeded":
        assert machine.chain() == chain
        assert _files(world) == files
        return
    made = [f"dm-{migration.uid}-{position}" for position in range(LENGTH)]
    path = stack.domains[destination].path
    assert machine.chain() == [(str(path(name)), "qcow2") for name in reversed(made)]
    assert machine.chain(inactive=True)[0] == machine.chain()[0]
    assert _files(world) == {destination: made, source: []}


def machine_domain(chain: list[tuple[str, str]], domains: dict[str, Any]) -> str:
    """The name of the storage domain that a chain of the tests' own is on: a loop device is no path of any."""
    return next((name for name, domain in domains.items() if chain[0][0].startswith(f"{domain.root}/")), "loop-b")


def _files(world: World) -> dict[str, list[str]]:
    return {name: domain.files() for name, domain in world.stack.domains.items()}


def machine_on(make: Any, source: str) -> Machine:
    """A VM whose disk has a chain of that length, as every cell has it."""
    machine: Machine = make(source, chain=LENGTH)
    machine.write(offset=50 * MEBIBYTE, length=MEBIBYTE, pattern=50)
    return machine
