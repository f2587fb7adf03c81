"""One cell of the matrix: a fault at a moment of a migration, and what must be so after it."""

import time
from dataclasses import dataclass
from typing import Any

from tests.integration.faults.faults import COLD_FAULTS, FAULTS, Fault, World
from tests.integration.faults.moments import BACK, can_be_given_up, has_removed_source
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import FINAL, Migration
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until

LENGTH = 2
"""Volumes of the chain."""
RECOVERY = "recovery"
"""The property under which a test keeps how its cell ended."""

_SLOW_BYTES = 512 * 1024
_SECONDS = 150
"""For a migration to end, whatever befell it: the time that the slowest of them took, three times over."""


@dataclass(frozen=True)
class Cell:
    """A fault, a moment, and where the disk moves; `is_cold` where its VM is shut off from the start."""

    fault_name: str
    moment: str
    source: str
    destination: str
    is_cold: bool = False

    def __str__(self) -> str:
        way = f"{self.source}-to-{self.destination}"
        return f"{self.fault_name}-{self.moment}-{way}{'-cold' if self.is_cold else ''}"

    @property
    def fault(self) -> Fault:
        """What happens."""
        return (COLD_FAULTS if self.is_cold else FAULTS)[self.fault_name]

    @property
    def waits_for_cutover(self) -> bool:
        """Whether its pivot is to wait, so that the moment is reached, or what is wished there is seen in time."""
        wished = self.fault.gives_up and can_be_given_up(self.moment)
        return wished or self.moment in BACK or self.moment == "AwaitCutover.before"

    @property
    def stays(self) -> bool:
        """Whether the disk is to be on its source in the end."""
        return self.moment in BACK or (self.fault.gives_up and can_be_given_up(self.moment))

    @property
    def keeps_base(self) -> bool:
        """Whether the chain's base is to be at the source in the end, as somebody may need it."""
        return self.fault.keeps_base and not has_removed_source(self.moment)

    @property
    def phase(self) -> str:
        """What the status is to say in the end."""
        return "Cancelled" if self.stays else "Succeeded"


@dataclass(frozen=True)
class Recovery:
    """How a cell ended, and how long it took from the fault's end."""

    outcome: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.outcome}, {self.seconds:.1f} s after it"


def play(world: World, cell: Cell) -> Recovery:
    """Moves the disk, breaks what the fault says at the moment, and checks that nothing was lost or left.

    Raises:
        AssertionError: something was lost, or left, or the status does not say the truth.
    """
    machine, fault = world.machine, cell.fault
    chain, files = machine.chain(inactive=cell.is_cold), _files(world)
    world.holds.arm(cell.moment)
    migration = _begin(world, cell)
    uid = migration.uid
    wait_until(lambda: _is_at(world, migration, cell.moment), f"the migration is at {cell.moment}", seconds=60)
    if not cell.is_cold:
        machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)

    fault.strike(world, migration)
    if fault.mend is not None:
        # An outage is as long as it is; nothing tells its end.
        time.sleep(world.outage_seconds)
        fault.mend(world)
    mended = time.monotonic()
    try:
        outcome = _end(migration, cell)
        seconds = time.monotonic() - mended
    finally:
        if fault.end is not None:
            fault.end(world)

    if machine.state() == "shut off":
        world.stack.host.virsh("start", machine.name, "--paused")
    machine.write(offset=70 * MEBIBYTE, length=MEBIBYTE, pattern=70)
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.verify()
    assert "mirror" not in machine.xml()
    if cell.stays:
        assert machine.chain(inactive=cell.is_cold) == chain
        assert _files(world) == files
    else:
        attempt = 1 if fault.deletes else migration.status()["attempts"]
        made = [made_volume(uid, position, attempt=attempt) for position in range(LENGTH)]
        path = world.stack.domains[cell.destination].path
        assert machine.chain() == [(str(path(name)), "qcow2") for name in reversed(made)]
        assert machine.chain(inactive=True)[0] == machine.chain()[0]
        kept = [base_name(machine)] if cell.keeps_base else []
        assert _files(world) == {cell.destination: made, cell.source: kept}
        if not fault.deletes:
            assert [volume["name"] for volume in migration.status()["source"]["retained"]] == kept
    return Recovery(outcome, seconds)


def _is_at(world: World, migration: Migration, moment: str) -> bool:
    """Whether it is held there. One that has ended before says why."""
    if moment != "Finish.acted":
        status = migration.status()
        assert status.get("phase") not in FINAL, status
    return world.holds.is_reached(moment)


def _begin(world: World, cell: Cell) -> Migration:
    spec: dict[str, Any] = {}
    if cell.waits_for_cutover:
        spec["cutover"] = {"policy": "Manual"}
    if cell.moment == "AwaitSync.before":
        # So that the mirror is not in step at once.
        world.machine.write(offset=20 * MEBIBYTE, length=8 * MEBIBYTE, pattern=20)
        spec.update(bandwidth=_SLOW_BYTES, strategy="Direct")
    migration = world.stack.migrate(world.machine, cell.destination, **spec)
    if cell.moment in BACK:
        migration.wait_for_phase("Synchronized")
        migration.patch({"cancel": True})
    return migration


def _end(migration: Migration, cell: Cell) -> str:
    """Waits for the end, and has it that the status says the truth; what it says, if it is there."""
    if cell.fault.deletes:
        wait_until(migration.is_gone, "the object is gone", seconds=_SECONDS)
        return "gone"
    if not cell.fault.gives_up:
        if cell.moment == "AwaitSync.before":
            migration.patch({"bandwidth": None})
        if cell.moment == "AwaitCutover.before":
            wait_until(lambda: migration.phase() in ("Synchronized", *FINAL), "the migration goes on", seconds=_SECONDS)
            migration.patch({"cutover": {"policy": "Automatic"}})

    def last_status() -> dict[str, Any] | None:
        status = migration.status()
        return status if status.get("phase") in FINAL else None

    status = wait_until(last_status, "the migration ends", seconds=_SECONDS)
    assert status["phase"] == cell.phase, status
    if status["phase"] == "Succeeded" and cell.fault.gives_up and migration.ended_knowing_its_spec():
        assert "could not be cancelled any more" in migration.condition("Succeeded")["message"]
    wait_until(lambda: not migration.get()["metadata"].get("finalizers"), "the object may go")
    return cell.phase


def base_name(machine: Machine) -> str:
    """The base's name in its storage domain; see make_machine."""
    return f"{machine.name}-0"


def _files(world: World) -> dict[str, list[str]]:
    return {name: domain.files() for name, domain in world.stack.domains.items()}


def machine_for(make: Any, cell: Cell) -> Machine:
    """A VM whose disk has a chain of that length, as every cell has it."""
    machine: Machine = make(cell.source, chain=LENGTH, start=not cell.is_cold)
    if not cell.is_cold:
        machine.write(offset=50 * MEBIBYTE, length=MEBIBYTE, pattern=50)
    return machine
