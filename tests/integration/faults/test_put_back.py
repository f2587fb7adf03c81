"""A VM's old definition comes back at every moment of a migration: no write of the guest is lost, and all is named."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed import qemu_io
from testbed.processes import TestbedError
from tests.integration.faults.holds import Holds
from tests.integration.faults.moments import BACK, FORWARD
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import FINAL, Migration, Stack
from tests.variants import some_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

MOMENTS = [moment for moment in (*FORWARD, *BACK) if moment != "Finish.acted"]
DIRECTIONS = [("file-a", "loop-b"), ("loop-b", "file-a")]
_SLOW_BYTES = 512 * 1024


@dataclass(frozen=True)
class Cell:
    """A moment, whether the agent is killed there, whether the VM starts with the old definition, and which way."""

    moment: str
    restarts: bool
    starts: bool
    source: str
    destination: str

    def __str__(self) -> str:
        agent, vm = "agent-killed" if self.restarts else "agent-lives", "started" if self.starts else "off"
        return f"{self.moment}-{agent}-{vm}-{self.source}-to-{self.destination}"


COVERING = [
    Cell("TakeSnapshot.acted", True, False, *DIRECTIONS[0]),
    Cell("CopyChain.midway", False, True, *DIRECTIONS[1]),
    Cell("Pivot.acted", False, False, *DIRECTIONS[0]),
    Cell("Merge.midway", True, True, *DIRECTIONS[1]),
    Cell("Merge.acted", False, True, *DIRECTIONS[0]),
    Cell("CleanUpSource.before", True, False, *DIRECTIONS[1]),
    Cell("Pivot.before", False, True, *DIRECTIONS[0]),
    Cell("MergeBack.midway", False, False, *DIRECTIONS[0]),
    Cell("DiscardDestination.before", True, False, *DIRECTIONS[1]),
]


def every() -> list[Cell]:
    both = (False, True)
    return [
        Cell(moment, restarts, starts, *direction)
        for direction, moment, restarts, starts in itertools.product(DIRECTIONS, MOMENTS, both, both)
    ]


@pytest.mark.parametrize("cell", some_by_day(COVERING, 4), ids=str)
def test_covering(stack: Stack, holds: Holds, machines: Machines, cell: Cell) -> None:
    play(stack, holds, machines, cell)


@pytest.mark.faults
@pytest.mark.parametrize("cell", every(), ids=str)
def test_every(stack: Stack, holds: Holds, machines: Machines, cell: Cell) -> None:
    play(stack, holds, machines, cell)


def play(stack: Stack, holds: Holds, machines: Machines, cell: Cell) -> None:
    """Put the old definition back at the moment, and read every byte that was written where the status says.

    Raises:
        AssertionError: something was lost, or left without a word.
    """
    machine = machines(cell.source, chain=2)
    machine.write(offset=50 * MEBIBYTE, length=MEBIBYTE, pattern=50)
    old = stack.domains[cell.source].directory / f"{machine.uuid}-old.xml"
    old.write_text(machine.xml(inactive=True))
    holds.arm(cell.moment)
    migration = begin(stack, machine, cell)
    wait_until(lambda: holds.is_reached(cell.moment), f"the migration is at {cell.moment}", seconds=60)
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)
    qemu_io.flush(stack.host, machine.name)

    if cell.restarts:
        stack.agent.kill()
    stack.host.virsh("define", str(old))
    stack.host.virsh("destroy", machine.name)
    # What it names may be gone already.
    if cell.starts and all(map(is_there, machine.volumes)):
        stack.host.virsh("start", machine.name, "--paused")
    holds.release()
    if cell.restarts:
        stack.agent.start()
    if cell.moment not in BACK:
        migration.patch({"bandwidth": None, "cutover": {"policy": "Automatic"}})

    message = end(stack, migration)
    if machine.state() != "shut off":
        stack.host.virsh("destroy", machine.name)
    if "cannot be told" in message:
        assert cell.restarts, message
        verify_in_one_of(stack, machine, cell, migration)
        return
    attach_last_written(stack, machine, cell, message, has_moved=migration.phase() == "Succeeded")
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


def is_there(volume: Path) -> bool:
    """Return whether the file is there, or the loop device has one: its node stays when it is detached."""
    if not volume.is_block_device():
        return volume.exists()
    return Path("/sys/block", volume.name, "loop/backing_file").exists()


def begin(stack: Stack, machine: Machine, cell: Cell) -> Migration:
    """Begin the migration so that it reaches the moment, or is cancelled for that."""
    spec: dict[str, Any] = {}
    if cell.moment in BACK or cell.moment == "AwaitCutover.before":
        spec["cutover"] = {"policy": "Manual"}
    if cell.moment == "AwaitSync.before":
        # So that the mirror is not in step at once.
        machine.write(offset=20 * MEBIBYTE, length=8 * MEBIBYTE, pattern=20)
        spec.update(bandwidth=_SLOW_BYTES, strategy="Direct")
    migration = stack.migrate(machine, cell.destination, **spec)
    if cell.moment in BACK:
        migration.wait_for_phase("Synchronized")
        migration.patch({"cancel": True})
    return migration


def end(stack: Stack, migration: Migration) -> str:
    """Return the last message, which names whatever is left of a migration that has not moved the disk."""
    status = wait_until(
        lambda: migration.status() if migration.phase() in FINAL else None, "the migration has ended", seconds=90
    )
    message = str(migration.condition("Succeeded")["message"])
    if status["phase"] != "Succeeded":
        for domain in stack.domains.values():
            own = [file for file in domain.files() if file.startswith(f"dm-{migration.uid}-")]
            assert all(str(domain.path(file)) in message for file in own), (own, message)
    return message


def attach_last_written(stack: Stack, machine: Machine, cell: Cell, message: str, *, has_moved: bool) -> None:
    """Have the VM, which is off, name the volume with the guest's last writes, as its user does with the message."""
    last = re.search(r"The guest wrote last to (\S+)\.", message)
    destination = stack.domains[cell.destination]
    if last is not None:
        home = stack.domains[cell.source] if "-snapshot." in last[1] else destination
        machine.set_source(last[1], home.disk_type)
    elif has_moved:
        machine.set_source(str(destination.path(destination.files()[-1])), destination.disk_type)


def verify_in_one_of(stack: Stack, machine: Machine, cell: Cell, migration: Migration) -> None:
    """Look into each volume that is left, as the message asks for, until one has all that was written.

    The agent was killed before it had written what the status then tells.

    Raises:
        AssertionError: none has.
    """
    wrong = []
    for name in (cell.source, cell.destination):
        domain = stack.domains[name]
        for file in (file for file in domain.files() if file.startswith(f"dm-{migration.uid}-")):
            machine.set_source(str(domain.path(file)), domain.disk_type)
            try:
                stack.host.virsh("start", machine.name, "--paused")
                machine.verify()
            except TestbedError as error:
                wrong.append(str(error))
            else:
                return
            if machine.state() != "shut off":
                stack.host.virsh("destroy", machine.name)
    raise AssertionError(wrong)
