"""Storage that two nodes have: what a VM of the other one needs, or may need, stays."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diskmigration.api.names import LIBVIRT_HOSTS, SYSTEM_NAMESPACE
from diskmigration.cluster.leases import list_leases
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost, running_libvirt
from testbed.programs import Program, running_agent
from tests.integration.migrations.machines import CAPACITY_BYTES, Machine
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]

OTHER_NODE = "node-b"


@dataclass
class OtherNode:
    """A second node with a libvirt and an agent of its own, which has the same directories."""

    stack: Stack
    host: LibvirtHost
    agent: Program

    def define(self, volume: Path) -> str:
        """A VM there that is off, and has this volume, once its agent has published what it needs."""
        name = f"other-{uuid.uuid4().hex[:8]}"
        before = self._published()
        path = self.host.log.parent / f"{name}.xml"
        path.write_text(
            f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>
            <driver name='qemu' type='qcow2'/><source file='{volume}'/><target dev='vda' bus='virtio'/></disk></devices>
            </domain>"""
        )
        self.host.virsh("define", str(path))
        wait_until(lambda: self._published() != before, "the agent has published what the VM needs", seconds=90)
        return name

    def undefine(self, name: str) -> None:
        before = self._published()
        self.host.virsh("undefine", name)
        wait_until(lambda: self._published() != before, "the agent has published that it is needed no more", seconds=90)

    def wait_until_known(self) -> None:
        """Until its agent has published what its VMs need of every storage domain."""
        wait_until(lambda: None not in self._published()[0] and self._published()[0], "it is known", seconds=90)

    def _published(self) -> tuple[list[object], object]:
        status = (self.stack.cluster.get(LIBVIRT_HOSTS, OTHER_NODE) or {}).get("status", {})
        domains = status.get("storageDomains", [])
        return [domain.get("usedVolumes") for domain in domains], status.get("unseenVolumes")


@pytest.fixture(scope="module")
def other_node(stack: Stack, own_control_plane: ControlPlane, directory: Path) -> Iterator[OtherNode]:
    own_control_plane.create_node(OTHER_NODE, {})
    with (
        running_libvirt(directory / "other-libvirt") as host,
        running_agent(own_control_plane, host, OTHER_NODE, directory) as agent,
    ):
        node = OtherNode(stack, host, agent)
        node.wait_until_known()
        yield node
    own_control_plane.kubectl("delete", "node", OTHER_NODE)
    own_control_plane.kubectl("delete", "libvirthost", OTHER_NODE, "--ignore-not-found")
    own_control_plane.kubectl("delete", "lease", OTHER_NODE, f"--namespace={SYSTEM_NAMESPACE}")


def reasons(stack: Stack, machine: Machine, *, waits_for: str = "") -> dict[str, str]:
    """Moves the machine's disk, which says on its way what it waits for; why each volume of the source was kept."""
    migration = stack.migrate(machine, "file-b")
    if waits_for:
        migration.wait_for_phase("CleaningUp")
        wait_until(lambda: waits_for in migration.condition("Reconciling")["message"], "it says so", seconds=60)
    status = migration.succeed(seconds=120)
    machine.verify()
    return {volume["name"]: volume["reason"] for volume in status["source"]["retained"]}


def lease_has_ended(stack: Stack) -> bool:
    lease = list_leases(stack.cluster, SYSTEM_NAMESPACE)[OTHER_NODE]
    return datetime.now(UTC) > lease.renew_time + timedelta(seconds=lease.duration_seconds)


def overlay_of(base: Path, folder: Path) -> Path:
    """An image outside of every storage domain that stands on the base."""
    path = folder / f"overlay-{uuid.uuid4().hex[:8]}"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", str(base), "-F", "qcow2"]
    subprocess.run([*command, str(path), str(CAPACITY_BYTES)], check=True)
    return path


@pytest.mark.parametrize("needs", ["what stands on the base", pytest.param("the base", marks=pytest.mark.nightly)])
def test_what_a_vm_of_another_node_needs_is_kept(
    stack: Stack, other_node: OtherNode, machines: Machines, scratch: Path, needs: str
) -> None:
    machine = machines("file-a", chain=2)
    base = machine.volumes[0]
    name = other_node.define(base if needs == "the base" else overlay_of(base, scratch))
    kept = reasons(stack, machine)
    assert kept.keys() == {base.name}
    assert OTHER_NODE in kept[base.name]
    assert base.exists()
    other_node.undefine(name)


def test_what_no_node_needs_goes(stack: Stack, other_node: OtherNode, machines: Machines) -> None:
    machine = machines("file-a", chain=2)
    assert reasons(stack, machine) == {}
    assert stack.domains["file-a"].files() == []


def test_what_a_vm_of_another_node_may_need_is_kept(
    stack: Stack, other_node: OtherNode, machines: Machines, scratch: Path
) -> None:
    machine = machines("file-a", chain=2)
    name = other_node.define(scratch / "away")
    kept = reasons(stack, machine)
    assert kept.keys() == {machine.volumes[0].name}
    [reason] = kept.values()
    assert all(word in reason for word in (OTHER_NODE, name, str(scratch / "away")))
    other_node.undefine(name)


@pytest.mark.nightly
def test_a_node_whose_agent_does_not_live_keeps_what_it_may_need(
    stack: Stack, other_node: OtherNode, machines: Machines
) -> None:
    machine = machines("file-a", chain=2)
    with other_node.agent.frozen():
        wait_until(lambda: lease_has_ended(stack), "its Lease has ended", seconds=60)
        kept = reasons(stack, machine, waits_for=f"Waiting for the agent on {OTHER_NODE} to tell whether it needs /")
    assert kept.keys() == {machine.volumes[0].name}
    assert f"{OTHER_NODE}: its agent or its libvirtd does not answer" in kept[machine.volumes[0].name]


@pytest.mark.nightly
def test_while_no_other_node_can_be_asked_a_lower_layer_stays(
    stack: Stack, other_node: OtherNode, machines: Machines, own_control_plane: ControlPlane
) -> None:
    machine = machines("file-a", chain=2)
    base, top = machine.volumes
    # Nobody has to tell the agent of the cutover when it comes.
    not_before = datetime.now(UTC) + timedelta(seconds=25)
    migration = stack.migrate(machine, "file-b", cutover={"notBefore": not_before.isoformat(timespec="seconds")})
    migration.wait_for_phase("Synchronized")
    own_control_plane.stop_api_server()
    wait_until(lambda: not top.exists(), "the top is removed", seconds=90)
    assert base.exists()
    own_control_plane.start_api_server()
    status = migration.succeed(seconds=120)
    # The other agent has renewed its Lease by then, and needs nothing.
    assert status["source"]["retained"] == []
    assert not base.exists()
    machine.verify()
