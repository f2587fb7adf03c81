"""What the agent knows of its node: it asks libvirtd little, and a QEMU that hangs costs its own VM alone."""

import itertools
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diskmigration.api import names
from diskmigration.cluster import client
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import Program, running_agent
from tests.integration.agent.probes import Probes, free_port
from tests.waiting import wait_until

NODE = "node-of-the-cache"
VMS = 10
WINDOWS = 3
MOST_CALLS = 10
"""One poll of all VMs, one VM read a second, and something of what else goes on."""


@dataclass(frozen=True)
class Vm:
    """A paused VM with one qcow2 file, in no storage domain."""

    host: LibvirtHost
    name: str
    uuid: str

    @contextmanager
    def stopped_qemu(self) -> Iterator[None]:
        """SIGSTOP its QEMU for the block: its monitor takes commands and answers none."""
        self._signal("STOP")
        try:
            yield
        finally:
            self._signal("CONT")

    def _signal(self, name: str) -> None:
        number = (self.host.socket_directory / "qemu" / f"{self.name}.pid").read_text().strip()
        subprocess.run(self.host.inside(["kill", "-s", name, number]), check=True)


MakeVm = Callable[..., Vm]


@pytest.fixture
def make_vm(libvirt_host: LibvirtHost, scratch: Path) -> Iterator[MakeVm]:
    made: list[Vm] = []
    scratch.chmod(0o755)

    def make(*, below: Path | None = None) -> Vm:
        """A VM that runs; one whose disk stands on something is defined only."""
        vm = Vm(libvirt_host, f"vm-{uuid.uuid4().hex[:8]}", str(uuid.uuid4()))
        disk, definition = scratch / f"{vm.name}.qcow2", scratch / f"{vm.name}.xml"
        backing = ["-u", "-b", str(below), "-F", "qcow2"] if below is not None else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, disk, "64M"], check=True)
        definition.write_text(
            f"""<domain type='qemu'><name>{vm.name}</name><uuid>{vm.uuid}</uuid><memory unit='MiB'>32</memory>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>
            <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
            </devices></domain>"""
        )
        libvirt_host.virsh("define", str(definition))
        made.append(vm)
        if below is None:
            libvirt_host.virsh("start", vm.uuid, "--paused")
        return vm

    yield make
    for vm in made:
        if libvirt_host.virsh("domstate", vm.uuid).strip() != "shut off":
            libvirt_host.virsh("destroy", vm.uuid)
        libvirt_host.virsh("undefine", vm.uuid)


@pytest.fixture
def probes() -> Probes:
    return Probes(free_port())


class Node:
    """The node as its agent tells of it."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._cluster = client.connect(control_plane.admin_kubeconfig)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = (self._cluster.get(names.LIBVIRT_HOSTS, NODE) or {}).get("status", {})
        return status

    def is_ready(self) -> bool:
        ready = [each["status"] for each in self.status().get("conditions", []) if each["type"] == "Ready"]
        return ready == ["True"]

    def is_observed(self) -> bool:
        """Whether the status is of the object as it is, which kstatus asks."""
        body = self._cluster.get(names.LIBVIRT_HOSTS, NODE) or {}
        return bool(body["status"]["observedGeneration"] == body["metadata"]["generation"])

    def vm(self, vm: Vm) -> dict[str, Any]:
        return next((each for each in self.status().get("virtualMachines", []) if each["uuid"] == vm.uuid), {})

    def has(self, vm: Vm, state: str) -> bool:
        return bool(self.vm(vm).get("state") == state)

    def is_silent(self, vm: Vm) -> bool:
        return "notAnsweringSince" in self.vm(vm)

    def has_answer(self, vm: Vm) -> bool:
        return bool(self.vm(vm)) and not self.is_silent(vm)


@pytest.fixture
def agent(control_plane: ControlPlane, libvirt_host: LibvirtHost, probes: Probes, scratch: Path) -> Iterator[Program]:
    with running_agent(control_plane, libvirt_host, NODE, scratch, f"--http-port={probes.port}") as program:
        yield program


@pytest.fixture
def node(control_plane: ControlPlane, agent: Program) -> Node:
    assert agent.pid
    node = Node(control_plane)
    wait_until(node.is_ready, "the node is ready", seconds=60)
    return node


def test_an_idle_node_asks_libvirtd_little(make_vm: MakeVm, node: Node, probes: Probes) -> None:
    vms = [make_vm() for _ in range(VMS)]
    for vm in vms:
        wait_until(partial(node.has, vm, "Paused"), "it is in the inventory")
    assert node.is_observed()
    rates = [probes.calls_in_two_seconds() for _ in range(WINDOWS)]
    # Who needs which volumes is read at once of all VMs, twice a minute, so not in each of the windows.
    assert min(rate.total() for rate in rates) <= MOST_CALLS, rates


def test_a_qemu_that_hangs_costs_its_own_vm_alone(make_vm: MakeVm, node: Node, probes: Probes) -> None:
    hanging, other = make_vm(), make_vm()
    for vm in (hanging, other):
        wait_until(partial(node.has, vm, "Paused"), "it is in the inventory")
    with hanging.stopped_qemu():
        wait_until(partial(node.is_silent, hanging), "the inventory says so", seconds=60)
        assert node.has(hanging, "Paused")
        assert node.vm(hanging)["disks"]
        new = make_vm()
        wait_until(lambda: node.has(new, "Paused"), "a new VM is in the inventory", seconds=5)
        other.host.virsh("resume", other.uuid)
        wait_until(lambda: node.has(other, "Running"), "the other VM's state is known", seconds=5)
        assert node.has_answer(other)
        assert node.is_ready()
        assert probes.is_ready(), probes.ask("readyz")
        assert probes.is_live(), probes.ask("livez")
    wait_until(partial(node.has_answer, hanging), "it answers again")


def opened_for_writing(fifo: Path) -> int | None:
    """A descriptor, if somebody reads the FIFO."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@contextmanager
def start_that_hangs(vm: Vm, fifo: Path) -> Iterator[None]:
    """Have libvirtd start the VM for the block, and wait for what the FIFO below its disk has; it holds its lock."""
    command = ["virsh", "--quiet", "--keepalive-interval=0", "-c", vm.host.uri, "start", vm.uuid, "--paused"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starting:
        writer = wait_until(partial(opened_for_writing, fifo), "libvirtd reads the FIFO")
        try:
            yield
        finally:
            os.close(writer)
            wait_until(partial(ends_when_fed, starting, fifo), "libvirtd gives up", seconds=60)


def ends_when_fed(starting: "subprocess.Popen[bytes]", fifo: Path) -> bool:
    """Whether the start has ended; QEMU opens the FIFO too, and finds it as empty as libvirtd did."""
    if (writer := opened_for_writing(fifo)) is not None:
        os.close(writer)
    return starting.poll() is not None


@pytest.mark.nightly
def test_a_vm_whose_lock_libvirtd_holds_costs_itself_alone(
    make_vm: MakeVm, node: Node, probes: Probes, scratch: Path
) -> None:
    fifo = scratch / "fifo"
    os.mkfifo(fifo)
    held, other = make_vm(below=fifo), make_vm()
    wait_until(partial(node.has, held, "ShutOff"), "it is in the inventory")
    wait_until(partial(node.has, other, "Paused"), "it is in the inventory")
    with start_that_hangs(held, fifo):
        wait_until(partial(node.is_silent, held), "the inventory says so", seconds=60)
        assert node.has(held, "Unknown")
        assert node.vm(held)["disks"]
        other.host.virsh("resume", other.uuid)
        wait_until(partial(node.has, other, "Running"), "the other VM's state is known", seconds=5)
        polled = probes.calls()["virDomainListGetStats"]
        wait_until(
            lambda: probes.calls()["virDomainListGetStats"] >= polled + 3,
            "the others are polled on",
            seconds=15,
        )
        assert node.has_answer(other)
        assert node.is_ready()
        assert probes.is_ready(), probes.ask("readyz")
        assert probes.is_live(), probes.ask("livez")
    wait_until(partial(node.has_answer, held), "it answers again")
    polled = probes.calls()["virConnectGetAllDomainStats"]
    wait_until(lambda: probes.calls()["virConnectGetAllDomainStats"] > polled, "all VMs are polled in one call again")


@pytest.mark.nightly
def test_an_agent_that_starts_while_libvirtd_holds_the_lock_of_a_vm_serves_the_others(
    make_vm: MakeVm, node: Node, agent: Program, probes: Probes, scratch: Path
) -> None:
    fifo = scratch / "fifo"
    os.mkfifo(fifo)
    held, other = make_vm(below=fifo), make_vm()
    for vm, state in ((held, "ShutOff"), (other, "Paused")):
        wait_until(partial(node.has, vm, state), "it is in the inventory")
    agent.stop()
    new = make_vm()
    with start_that_hangs(held, fifo):
        agent.start()
        wait_until(probes.is_ready, "the agent is ready", seconds=60)
        wait_until(partial(node.is_silent, held), "the inventory says so", seconds=60)
        other.host.virsh("resume", other.uuid)
        wait_until(partial(node.has, other, "Running"), "the other VM's state is known", seconds=5)
        wait_until(partial(node.has, new, "Paused"), "one that was started meanwhile is in the inventory", seconds=5)
        polled = probes.calls()["virDomainListGetStats"]
        wait_until(lambda: probes.calls()["virDomainListGetStats"] >= polled + 3, "the others are polled", seconds=15)
        assert node.is_ready()
        assert probes.is_live(), probes.ask("livez")
    wait_until(partial(node.has_answer, held), "it answers again")


@pytest.mark.nightly
def test_eight_qemus_that_hang_for_minutes_cost_their_own_vms_alone(
    make_vm: MakeVm, node: Node, probes: Probes
) -> None:
    hanging, other = [make_vm() for _ in range(8)], make_vm()
    for vm in (*hanging, other):
        wait_until(partial(node.has, vm, "Paused"), "it is in the inventory")
    with ExitStack() as stopped:
        for vm in hanging:
            stopped.enter_context(vm.stopped_qemu())
        for vm in hanging:
            wait_until(partial(node.is_silent, vm), "the inventory says so", seconds=60)
        # Longer than any of the agent's loops may take.
        ends = time.monotonic() + 130
        for state, command in itertools.cycle([("Running", "resume"), ("Paused", "suspend")]):
            other.host.virsh(command, other.uuid)
            wait_until(partial(node.has, other, state), "the other VM's state is known", seconds=5)
            assert node.has_answer(other)
            assert node.is_ready()
            assert probes.is_live(), probes.ask("livez")
            if time.monotonic() > ends:
                break
    for vm in hanging:
        wait_until(partial(node.has_answer, vm), "it answers again")
