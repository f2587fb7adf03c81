"""What may break, each as what happens while a migration is held at a moment, and what mends it after that."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from diskmigration.agent.storage.kept_domains import FILE_NAME
from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError
from testbed.programs import Program
from tests.integration.faults.holds import Holds
from tests.integration.faults.link import Link
from tests.integration.hosts import QEMU_SETTINGS
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import NODE, Migration, Stack
from tests.waiting import wait_until

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
    """`strike` ends with the migration let go, as far as there is an agent that could go on; `mend` comes after it.

    What befalls a VM, and what its user does to the migration, are faults as any other. `keeps_base` tells that the
    chain's base stays at the source while it lasts, and `end` ends what lasts longer than the migration.
    """

    strike: Callable[[World, Migration], None]
    mend: Callable[[World], None] | None = None
    of_running_vm: bool = False
    gives_up: bool = False
    deletes: bool = False
    keeps_base: bool = False
    end: Callable[[World], None] | None = None


def _kill_agent(world: World, _: Migration) -> None:
    world.stack.agent.kill()
    world.holds.release()
    world.stack.agent.start()


def _start_agent_without_api_server(world: World, _: Migration) -> None:
    world.stack.agent.kill()
    world.control_plane.stop_api_server()
    world.holds.release()
    world.stack.agent.start()


def _delete_domains_and_kill_agent(world: World, _: Migration) -> None:
    for name in world.stack.domains:
        world.control_plane.kubectl("delete", "storagedomain", name)
    kept = world.stack.agent.log.parent / f"agent-{NODE}" / FILE_NAME
    wait_until(
        lambda: json.loads(kept.read_text())["deleted"] == sorted(world.stack.domains),
        "the agent keeps them as deleted",
    )
    _kill_agent(world, _)


def _make_domains(world: World) -> None:
    world.stack.make_ready(world.stack.domains)


def _kill_operator(world: World, _: Migration) -> None:
    world.operator.kill()
    world.holds.release()
    world.operator.start()


def _restart_libvirtd(world: World, _: Migration) -> None:
    world.stack.host.restart_daemon()
    world.holds.release()


def _kill_libvirtd(world: World, _: Migration) -> None:
    world.stack.host.kill_daemon()
    world.holds.release()
    world.stack.host.start_daemon()


def _stop_api_server(world: World, _: Migration) -> None:
    world.control_plane.stop_api_server()
    world.holds.release()


def _kill_etcd(world: World, _: Migration) -> None:
    world.control_plane.kill_etcd()
    world.holds.release()


def _cut_node_off(world: World, _: Migration) -> None:
    world.link.cut()
    world.holds.release()
    wait_until(lambda: not _node_is_ready(world), "the operator takes the node for dead", seconds=60)


def _node_is_ready(world: World) -> bool:
    return all(domain.get("status", {}).get("readyNodes") == 1 for domain in world.stack.cluster.list("storagedomains"))


def _destroy(world: World, _: Migration) -> None:
    world.stack.host.virsh("destroy", world.machine.name)
    world.holds.release()


def _rename(world: World, _: Migration) -> None:
    name = f"{world.machine.name}-renamed"
    world.stack.host.virsh("domrename", world.machine.name, name)
    world.machine.name = name
    world.holds.release()


def _destroy_and_rename(world: World, migration: Migration) -> None:
    world.stack.host.virsh("destroy", world.machine.name)
    _rename(world, migration)


def _quit_inside(world: World, _: Migration) -> None:
    # QEMU ends by itself, as when a guest powers off; this one has no operating system to do it.
    world.stack.host.end_qemu(world.machine.name)
    wait_until(lambda: world.machine.state() == "shut off", "the VM is off")
    world.holds.release()


def _start(world: World, _: Migration) -> None:
    _starts(world)
    world.holds.release()


def _start_and_end(world: World, _: Migration) -> None:
    if _starts(world):
        world.machine.write(offset=64 * MEBIBYTE, length=MEBIBYTE, pattern=64)
        world.stack.host.virsh("destroy", world.machine.name)
    world.holds.release()


def _starts(world: World) -> bool:
    """Starts the VM. Its QEMU is refused what is being copied, where it sees the lock."""
    try:
        world.stack.host.virsh("start", world.machine.name, "--paused")
    except TestbedError as error:
        assert "lock" in str(error), error  # noqa: PT017 - any other answer is a failure of the test
        assert not (is_on_block(world) and QEMU_SETTINGS.has_own_dev), error  # noqa: PT017 - as above
        return False
    return True


def is_on_block(world: World) -> bool:
    """Whether the VM's persistent XML has its disk on block storage."""
    return "<disk type='block'" in world.machine.xml(inactive=True)


def _pause_and_resume(world: World, _: Migration) -> None:
    world.stack.host.virsh("resume", world.machine.name)
    world.stack.host.virsh("suspend", world.machine.name)
    world.holds.release()
    world.stack.host.virsh("resume", world.machine.name)


def _reboot(world: World, _: Migration) -> None:
    world.stack.host.virsh("resume", world.machine.name)
    world.stack.host.virsh("reset", world.machine.name)
    world.holds.release()


def _cancel(world: World, migration: Migration) -> None:
    migration.patch({"cancel": True})
    migration.patch({"cancel": True})
    world.holds.release()


def _delete(world: World, migration: Migration) -> None:
    migration.delete()
    migration.delete()
    world.holds.release()


def _cancel_unseen(world: World, migration: Migration) -> None:
    world.link.cut()
    _cancel(world, migration)


def _delete_unseen(world: World, migration: Migration) -> None:
    world.link.cut()
    _delete(world, migration)


def _hide_neighbour(world: World, _: Migration) -> None:
    """A VM that is off comes, with a volume whose header is cut off: it may stand on the base of the moved disk."""
    volume = world.stack.domains["file-a"].directory / f"{world.machine.name}-neighbour"
    volume.write_bytes(b"QFI\xfb")
    definition = volume.with_suffix(".xml")
    definition.write_text(
        f"""<domain type='qemu'><name>{volume.name}</name><memory unit='MiB'>32</memory>
        <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>
        <driver name='qemu' type='qcow2'/><source file='{volume}'/><target dev='vda' bus='virtio'/></disk></devices>
        </domain>"""
    )
    world.stack.host.virsh("define", str(definition))
    world.holds.release()


def _end_neighbour(world: World) -> None:
    world.stack.host.virsh("undefine", f"{world.machine.name}-neighbour")


FAULTS = {
    "agent-killed": Fault(_kill_agent),
    "agent-started-without-apiserver": Fault(
        _start_agent_without_api_server, lambda world: world.control_plane.start_api_server()
    ),
    "domains-deleted": Fault(_delete_domains_and_kill_agent, end=_make_domains),
    "operator-killed": Fault(_kill_operator),
    "libvirtd-restarted": Fault(_restart_libvirtd),
    "libvirtd-killed": Fault(_kill_libvirtd),
    "apiserver-down": Fault(_stop_api_server, lambda world: world.control_plane.start_api_server()),
    "etcd-killed": Fault(_kill_etcd, lambda world: world.control_plane.start_etcd()),
    "node-unreachable": Fault(_cut_node_off, lambda world: world.link.restore()),
    "vm-destroyed": Fault(_destroy, of_running_vm=True),
    "vm-destroyed-and-renamed": Fault(_destroy_and_rename, of_running_vm=True),
    "vm-ended-inside": Fault(_quit_inside, of_running_vm=True),
    "vm-paused-and-resumed": Fault(_pause_and_resume, of_running_vm=True),
    "vm-rebooted": Fault(_reboot, of_running_vm=True),
    "neighbour-unreadable": Fault(_hide_neighbour, keeps_base=True, end=_end_neighbour),
    "cancelled": Fault(_cancel, gives_up=True),
    "deleted": Fault(_delete, gives_up=True, deletes=True),
    "cancelled-unseen": Fault(_cancel_unseen, lambda world: world.link.restore(), gives_up=True),
    "deleted-unseen": Fault(_delete_unseen, lambda world: world.link.restore(), gives_up=True, deletes=True),
}
COLD_FAULTS = {
    **{name: fault for name, fault in FAULTS.items() if not fault.of_running_vm},
    "vm-started": Fault(_start),
    "vm-renamed": Fault(_rename),
    "vm-started-and-ended": Fault(_start_and_end),
}
"""Of a VM that is shut off."""
