"""The VM runs on another host in mid-migration: nobody touches its disk here, and the status says where it is."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diskmigration.api import names
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost, running_libvirt
from testbed.programs import SYSTEM_NAMESPACE, Program, running_agent
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.integration.migrations.test_lifecycle import Held, assert_moved, hold
from tests.integration.migrations.test_put_back import assert_all_is_named, foreign_change, left_by
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

NODE_B = "node-b"


@dataclass(frozen=True)
class OtherNode:
    """Another node on the same storage, with a libvirt and an agent of its own."""

    stack: Stack
    host: LibvirtHost
    agent: Program
    directory: Path

    def has(self, machine: Machine, state: str) -> bool:
        """Whether its inventory shows the VM in that state."""
        found = self.stack.cluster.get(names.LIBVIRT_HOSTS, NODE_B) or {}
        machines = found.get("status", {}).get("virtualMachines", [])
        return any((known["uuid"], known["state"]) == (machine.uuid, state) for known in machines)

    def take(self, machine: Machine, *options: str, paused: bool = False) -> None:
        """Migrate the VM here as an administrator does, while it runs or is paused."""
        self._migrate(self.stack.host, self.host, machine, *options, paused=paused)
        wait_until(lambda: self.has(machine, "Paused"), "the inventory has it")
        # A VM that two nodes seem to run is ambiguous.
        wait_until(lambda: not self._runs_on_first(machine), "the other node's inventory has lost it")

    def _runs_on_first(self, machine: Machine) -> bool:
        shown = self.stack.shown(machine)
        return shown is not None and shown["state"] != "ShutOff"

    def give_back(self, machine: Machine, *options: str) -> None:
        """Migrate the VM to where it was."""
        self._migrate(self.host, self.stack.host, machine, *options)

    def _migrate(
        self, source: LibvirtHost, destination: LibvirtHost, machine: Machine, *options: str, paused: bool = False
    ) -> None:
        # Two hosts of the tests share no network. That they share the storage is not to be seen either.
        socket = self.directory / f"{machine.name}-{time.monotonic_ns()}.sock"
        ways = ("--live", "--unsafe", f"--migrateuri=unix://{socket}")
        # QEMU takes over the volumes of a VM that arrives paused only when it is resumed.
        if not paused:
            source.virsh("resume", machine.name)
        source.virsh("migrate", machine.name, destination.uri, *ways, *options)
        if not paused:
            destination.virsh("suspend", machine.name)

    def machine(self, machine: Machine) -> Machine:
        """The VM as this host has it; what it holds is known to both."""
        return Machine(self.host, machine.name, machine.uuid, machine.volumes, machine.written)


@pytest.fixture(scope="module")
def other_node(stack: Stack, own_control_plane: ControlPlane, directory: Path) -> Iterator[OtherNode]:
    own_control_plane.create_node(NODE_B, {})
    sockets = directory / "migrate"
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o777)
    with (
        running_libvirt(directory / "host-b") as host,
        running_agent(own_control_plane, host, NODE_B, directory) as agent,
    ):
        wait_until(lambda: stack.cluster.get(names.LIBVIRT_HOSTS, NODE_B), "the node is known", seconds=60)
        yield OtherNode(stack, host, agent, sockets)
    for kind in ("libvirthost", "node"):
        own_control_plane.kubectl("delete", kind, NODE_B)
    own_control_plane.kubectl("delete", "lease", NODE_B, f"--namespace={SYSTEM_NAMESPACE}")


@pytest.fixture
def taken(stack: Stack, other_node: OtherNode) -> Iterator[list[Machine]]:
    """VMs that were migrated to the other node, to be ended there and defined here again."""
    moved: list[Machine] = []
    yield moved
    for machine in moved:
        if machine.name in other_node.host.virsh("list", "--all", "--name").split():
            other_node.host.virsh("destroy", machine.name)
            if machine.name in other_node.host.virsh("list", "--all", "--name").split():
                other_node.host.virsh("undefine", machine.name)
        if machine.name not in stack.host.virsh("list", "--all", "--name").split():
            stack.host.virsh("define", str(stack.domains["file-a"].directory / f"{machine.uuid}.xml"))


@pytest.fixture
def away(stack: Stack, machines: Machines, other_node: OtherNode, taken: list[Machine]) -> Callable[..., Held]:
    """Holds a migration in a phase, and has its VM migrated to the other node."""

    def go(phase: str, *options: str) -> Held:
        machine = machines("file-a", chain=2)
        held = hold(stack, machine, "file-b", phase)
        other_node.take(machine, *options)
        taken.append(machine)
        other_node.machine(machine).write(offset=80 * MEBIBYTE, length=MEBIBYTE, pattern=80)
        return held

    return go


def message_of(migration: Migration, part: str) -> str:
    """Return what it says as soon as that has this part."""

    def message() -> str:
        said = str(migration.condition("Succeeded")["message"])
        return said if part in said else ""

    return wait_until(message, f"it says: {part}", seconds=60)


def test_a_vm_that_was_migrated_away_is_waited_for(
    stack: Stack, away: Callable[..., Held], other_node: OtherNode
) -> None:
    held = away("CopyingChain")
    migration = held.migration
    migration.patch({"bandwidth": None})

    message = message_of(migration, NODE_B)
    left = left_by(held)
    assert_all_is_named_by_path(held, message)
    other = other_node.machine(held.machine)
    other.verify()

    other_node.give_back(held.machine)
    migration.succeed()
    assert left["file-a"]
    assert_moved(stack, held.machine, "file-b")


def assert_all_is_named_by_path(held: Held, message: str) -> None:
    for name, files in left_by(held).items():
        assert all(str(held.migration.stack.domains[name].path(file)) in message for file in files)


@pytest.mark.nightly
def test_one_that_is_cancelled_meanwhile_leaves_all_as_it_is(
    stack: Stack, away: Callable[..., Held], other_node: OtherNode
) -> None:
    held = away("CopyingChain")
    held.migration.patch({"bandwidth": None})
    message_of(held.migration, NODE_B)
    left = left_by(held)
    held.migration.patch({"cancel": True})

    message = foreign_change(held.migration)

    assert NODE_B in message
    assert left_by(held) == left
    assert_all_is_named(held, message)
    other_node.machine(held.machine).verify()


@pytest.mark.parametrize("strategy", first_by_day(["Snapshot", "Direct"]))
@pytest.mark.parametrize("destination", ["file-b", pytest.param("loop-b", marks=pytest.mark.nightly)])
def test_a_vm_that_arrived_paused_moves_once_it_is_resumed(
    stack: Stack,
    machines: Machines,
    other_node: OtherNode,
    taken: list[Machine],
    destination: str,
    strategy: str,
) -> None:
    """QEMU 7.2 starts a mirror before that, which misses what the guest writes as soon as it runs."""
    machine = machines("file-a", chain=2)
    other_node.take(machine, "--persistent", "--undefinesource", paused=True)
    taken.append(machine)
    there = other_node.machine(machine)
    spec = {"strategy": strategy, "backoffLimit": 0, "cutover": {"policy": "Manual"}}
    migration = stack.migrate(machine.name, destination, **spec)
    wait_until(lambda: migration.is_stalled_by("VirtualMachinePaused"), "it waits for the VM to be resumed", seconds=60)
    assert "virsh resume" in migration.condition("Stalled")["message"]

    other_node.host.virsh("resume", machine.name)
    other_node.host.virsh("suspend", machine.name)
    there.write(offset=80 * MEBIBYTE, length=MEBIBYTE, pattern=80)
    migration.wait_for_phase("Synchronized")
    there.write(offset=82 * MEBIBYTE, length=MEBIBYTE, pattern=82)
    migration.patch({"cutover": {"policy": "Automatic"}})
    assert migration.succeed()["attempts"] == 1
    there.verify()
