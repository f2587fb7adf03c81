"""What may break, each as what happens while a migration is held at a moment, and what mends it after that."""

from collections.abc import Callable
from dataclasses import dataclass

from testbed.control_plane import ControlPlane
from testbed.programs import Program
from tests.integration.faults.holds import Holds
from tests.integration.faults.link import Link
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Stack, wait_until

STALE_SECONDS = 3.0
"""After how long the operator takes an agent for dead here."""


@dataclass(frozen=True)
class World:
    """All that can break."""

    stack: Stack
    control_plane: ControlPlane
    operator: Program
    link: Link
    holds: Holds
    machine: Machine
    outage_seconds: float


@dataclass(frozen=True)
class Fault:
    """`strike` ends with the migration let go, as far as there is an agent that could go on; `mend` comes after it."""

    strike: Callable[[World], None]
    mend: Callable[[World], None] | None = None
    ends_vm: bool = False


def _kill_agent(world: World) -> None:
    world.stack.agent.kill()
    world.holds.release()
    world.stack.agent.start()


def _kill_operator(world: World) -> None:
    world.operator.kill()
    world.holds.release()
    world.operator.start()


def _restart_libvirtd(world: World) -> None:
    world.stack.host.restart_daemon()
    world.holds.release()


def _kill_libvirtd(world: World) -> None:
    world.stack.host.kill_daemon()
    world.holds.release()
    world.stack.host.start_daemon()


def _stop_api_server(world: World) -> None:
    world.control_plane.stop_api_server()
    world.holds.release()


def _kill_etcd(world: World) -> None:
    world.control_plane.kill_etcd()
    world.holds.release()


def _cut_node_off(world: World) -> None:
    world.link.cut()
    world.holds.release()
    wait_until(lambda: not _node_is_ready(world), "the operator takes the node for dead", seconds=60)


def _node_is_ready(world: World) -> bool:
    return all(domain.get("status", {}).get("readyNodes") == 1 for domain in world.stack.cluster.list("storagedomains"))


def _destroy(world: World) -> None:
    world.stack.host.virsh("destroy", world.machine.name)
    world.holds.release()


def _quit_inside(world: World) -> None:
    # What a guest that powers off does to QEMU, of one that has no operating system to do it.
    world.stack.host.virsh("qemu-monitor-command", world.machine.name, "--hmp", "system_powerdown")
    world.stack.host.virsh("qemu-monitor-command", world.machine.name, "--hmp", "quit")
    wait_until(lambda: world.machine.state() == "shut off", "the VM is off")
    world.holds.release()


def _pause_and_resume(world: World) -> None:
    world.stack.host.virsh("resume", world.machine.name)
    world.stack.host.virsh("suspend", world.machine.name)
    world.holds.release()
    world.stack.host.virsh("resume", world.machine.name)


def _reboot(world: World) -> None:
    world.stack.host.virsh("resume", world.machine.name)
    world.stack.host.virsh("reset", world.machine.name)
    world.holds.release()


FAULTS = {
    "agent-killed": Fault(_kill_agent),
    "operator-killed": Fault(_kill_operator),
    "libvirtd-restarted": Fault(_restart_libvirtd),
    "libvirtd-killed": Fault(_kill_libvirtd),
    "apiserver-down": Fault(_stop_api_server, lambda world: world.control_plane.start_api_server()),
    "etcd-killed": Fault(_kill_etcd, lambda world: world.control_plane.start_etcd()),
    "node-unreachable": Fault(_cut_node_off, lambda world: world.link.restore()),
    "vm-destroyed": Fault(_destroy, ends_vm=True),
    "vm-ended-inside": Fault(_quit_inside, ends_vm=True),
    "vm-paused-and-resumed": Fault(_pause_and_resume),
    "vm-rebooted": Fault(_reboot),
}
