"""A hang costs its own: the other VMs are extended and moved, the agent lives, and all goes on by itself after it."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testbed import exports, processes
from testbed.exports import HANG, Faults
from testbed.libvirt_host import LibvirtHost
from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import free_bytes, size_bytes, watched
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine, empty
from tests.integration.migrations.monitor import Relay
from tests.integration.migrations.stack import Migration, Stack, storage_domain
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]
Hang = Callable[[LibvirtHost, list[Machine]], AbstractContextManager[Callable[[], AbstractContextManager[None]]]]

EXTENDED_SECONDS = 5
"""Far less than the 30 s that libvirt itself lets a call wait for a VM."""


@contextmanager
def stopped_qemus(host: LibvirtHost, machines: list[Machine]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """SIGSTOP: neither the guest nor the monitor goes on."""

    @contextmanager
    def hang() -> Iterator[None]:
        for machine in machines:
            _signal(host, machine, "STOP")
        try:
            yield
        finally:
            for machine in machines:
                _signal(host, machine, "CONT")

    yield hang


def _signal(host: LibvirtHost, machine: Machine, name: str) -> None:
    number = (host.socket_directory / "qemu" / f"{machine.name}.pid").read_text().strip()
    processes.run(host.inside(["kill", "-s", name, number]))


@contextmanager
def held_monitors(host: LibvirtHost, machines: list[Machine]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """QEMU and its guest go on, and no command reaches its monitor."""
    goes_on = threading.Event()
    goes_on.set()

    def pass_on(line: bytes, is_qemu: bool) -> bytes:
        if not is_qemu:
            goes_on.wait()
        return line

    @contextmanager
    def hang() -> Iterator[None]:
        goes_on.clear()
        try:
            yield
        finally:
            goes_on.set()

    host.stop_daemon()
    relays = [Relay(host.monitor_socket(machine.name), pass_on) for machine in machines]
    host.start_daemon()
    try:
        yield hang
    finally:
        host.stop_daemon()
        for relay in relays:
            relay.close()
        host.start_daemon()


def silent(stack: Stack) -> set[str]:
    """Return the uuids of the VMs that the node says do not answer, with since when."""
    machines = stack.hypervisor().get("status", {}).get("virtualMachines", [])
    return {machine["uuid"] for machine in machines if "notAnsweringSince" in machine}


def has_grown_in_time(machine: Machine, *, start: int, length: int) -> None:
    """Write no faster than there is room, and see each extension come before a guest would have been paused for it."""
    [volume] = machine.volumes
    before = size_bytes(volume)
    with watched(volume) as grown:
        for offset in range(start, start + length, MEBIBYTE):
            wait_until(
                lambda: free_bytes(machine, str(volume)) > 2 * MEBIBYTE,
                f"there is room at {offset}",
                seconds=EXTENDED_SECONDS,
            )
            machine.write(offset=offset, length=MEBIBYTE, pattern=offset // MEBIBYTE % 250 + 1)
    assert grown
    assert size_bytes(volume) > before


@pytest.fixture
def many_at_once(stack: Stack) -> Iterator[None]:
    """Let more migrations run at once than the tests have."""
    domains = [stack.domains[name] for name in ("loop-a", "file-b")]
    for domain in domains:
        stack.apply(storage_domain(domain, maxConcurrentMigrations=16))
    yield
    for domain in domains:
        stack.apply(storage_domain(domain))


def synchronized(stack: Stack, machine: Machine) -> Migration:
    """Return a migration that waits for its cutover, and asks for its block job every second."""
    return stack.migrate(machine, "file-b", cutover={"policy": "Manual"})


VARIANTS: list[Any] = [
    pytest.param(stopped_qemus, 8, id="stopped-qemus"),
    pytest.param(held_monitors, 8, id="held-monitors"),
    pytest.param(stopped_qemus, 1, id="stopped-qemu"),
    pytest.param(held_monitors, 1, id="held-monitor"),
]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("many_at_once")
@pytest.mark.parametrize(("cause", "count"), first_by_day(VARIANTS))
def test_vms_that_do_not_answer_cost_themselves_alone(
    stack: Stack, machines: Machines, probes: Probes, cause: Hang, count: int
) -> None:
    hanging = [machines("loop-a", volume_bytes=32 * MEBIBYTE) for _ in range(count)]
    other, moving = machines("loop-a", volume_bytes=16 * MEBIBYTE), machines("file-a")
    with cause(stack.host, hanging) as hang:
        moves = [synchronized(stack, machine) for machine in hanging]
        for move in moves:
            move.wait_for_phase("Synchronized", seconds=120)
        copied = [move.status()["progress"]["copiedBytes"] for move in moves]

        with hang():
            has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            stack.migrate(moving, "file-b").succeed()
            wait_until(lambda: {vm.uuid for vm in hanging} <= silent(stack), "the node says so", seconds=60)
            assert silent(stack).isdisjoint({other.uuid, moving.uuid})
            has_grown_in_time(other, start=60 * MEBIBYTE, length=30 * MEBIBYTE)
            assert probes.is_live(), probes.ask("livez")
            assert probes.is_ready(), probes.ask("readyz")

        wait_until(lambda: not silent(stack), "they answer again", seconds=60)
        for move, before in zip(moves, copied, strict=True):
            move.patch({"cutover": {"policy": "Automatic"}})
            status = move.succeed(seconds=120)
            assert status["attempts"] == 1
            assert status["progress"]["copiedBytes"] >= before
    for machine in (*hanging, other, moving):
        machine.verify()


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_many_qemus_that_hang_keep_no_other_from_being_polled(stack: Stack, machines: Machines, probes: Probes) -> None:
    hanging = [machines("file-a") for _ in range(14)]
    other = machines("loop-a", volume_bytes=16 * MEBIBYTE)
    with stopped_qemus(stack.host, hanging) as hang:
        with hang():
            wait_until(lambda: {vm.uuid for vm in hanging} <= silent(stack), "the node says so", seconds=90)
            polled = probes.calls()["virConnectGetAllDomainStats"]
            has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            wait_until(
                lambda: probes.calls()["virConnectGetAllDomainStats"] >= polled + 3, "the others are polled", seconds=15
            )
            wait_until(lambda: other.uuid not in silent(stack), "the other one answers", seconds=15)
            assert probes.is_live(), probes.ask("livez")
            assert probes.is_ready(), probes.ask("readyz")
        wait_until(lambda: not silent(stack), "they answer again", seconds=60)
    other.verify()


@pytest.mark.parametrize("cause", first_by_day([held_monitors, stopped_qemus]))
def test_an_agent_that_starts_while_a_qemu_hangs_serves_the_others(
    stack: Stack, machines: Machines, probes: Probes, cause: Hang
) -> None:
    hanging = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    other, moving = machines("loop-a", volume_bytes=16 * MEBIBYTE), machines("file-a")
    with cause(stack.host, [hanging]) as hang:
        move = synchronized(stack, hanging)
        move.wait_for_phase("Synchronized", seconds=120)
        with hang():
            wait_until(lambda: hanging.uuid in silent(stack), "the node says so", seconds=60)
            stack.agent.kill()
            stack.agent.start()
            has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            wait_until(probes.is_ready, "the agent is ready", seconds=60)
            stack.migrate(moving, "file-b").succeed()
            wait_until(lambda: hanging.uuid in silent(stack), "the node says so again", seconds=60)
            assert silent(stack).isdisjoint({other.uuid, moving.uuid})
            assert probes.is_live(), probes.ask("livez")
        wait_until(lambda: not silent(stack), "it answers again", seconds=60)
        move.patch({"cutover": {"policy": "Automatic"}})
        assert move.succeed(seconds=120)["attempts"] == 1
    for machine in (hanging, other, moving):
        machine.verify()


@dataclass(frozen=True)
class Mount:
    """A storage domain of kind file on a mount whose server can be told to answer nothing about any file."""

    domain: Domain
    faults: Faults

    def hangs(self) -> AbstractContextManager[None]:
        """Have it hang for the time of the block."""
        return self.faults.answering("getattr", HANG)

    def reason(self, stack: Stack) -> str:
        """Why the node says that it is not ready, or nothing."""
        found = stack.hypervisor().get("status", {}).get("storageDomains", [])
        return next((known.get("reason", "") for known in found if known["name"] == self.domain.name), "")


@pytest.fixture
def mount(stack: Stack, exports_directory: Path) -> Iterator[Mount]:
    """Asked for before `machines`, whose VMs have to be gone at its end."""
    name = f"mount-{uuid.uuid4().hex[:8]}"
    source, at = exports_directory / f"{name}.source", exports_directory / name
    for directory in (source, at):
        directory.mkdir()
    source.chmod(0o777)
    domain = Domain(name, "file", at)
    with exports.faulty(source, at) as faults:
        try:
            stack.make_ready({name: domain})
            yield Mount(domain, faults)
        finally:
            stack.control_plane.kubectl("delete", "storagedomain", name)
            empty(domain)


def test_a_mount_that_does_not_answer_costs_its_own_disks_alone(
    stack: Stack, mount: Mount, machines: Machines, probes: Probes
) -> None:
    hanging, other = machines(mount.domain), machines("loop-a", volume_bytes=16 * MEBIBYTE)
    moving, off = machines("file-a"), machines("file-a", start=False)
    held = synchronized(stack, hanging)
    held.wait_for_phase("Synchronized")
    with mount.hangs():
        has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
        moves = [stack.migrate(machine, "file-b") for machine in (moving, off)]
        for move in moves:
            move.succeed(seconds=120)
        wait_until(lambda: "has not answered since" in mount.reason(stack), "the node says so", seconds=60)
        has_grown_in_time(other, start=60 * MEBIBYTE, length=30 * MEBIBYTE)
        assert probes.is_live(), probes.ask("livez")
        assert probes.is_ready(), probes.ask("readyz")
    wait_until(lambda: not mount.reason(stack), "it answers again", seconds=60)
    held.patch({"cutover": {"policy": "Automatic"}})
    assert held.succeed(seconds=120)["attempts"] == 1
    for machine in (hanging, other, moving):
        machine.verify()


def test_an_agent_that_starts_while_a_mount_hangs_serves_the_others(
    stack: Stack, mount: Mount, machines: Machines, probes: Probes
) -> None:
    hanging, other = machines(mount.domain), machines("loop-a", volume_bytes=16 * MEBIBYTE)
    moving = machines("file-a")
    stack.agent.kill()
    with mount.hangs():
        stack.agent.start()
        has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
        wait_until(probes.is_ready, "the agent is ready", seconds=60)
        stack.migrate(moving, "file-b").succeed(seconds=120)
        wait_until(lambda: "has not answered since" in mount.reason(stack), "the node says so", seconds=60)
        assert probes.is_live(), probes.ask("livez")
    wait_until(lambda: not mount.reason(stack), "it answers again", seconds=60)
    stack.migrate(hanging, "file-b").succeed(seconds=120)
    for machine in (hanging, other, moving):
        machine.verify()


def test_a_libvirtd_that_hangs_is_told_and_waited_for(stack: Stack, machines: Machines, probes: Probes) -> None:
    moved, other = machines("file-a"), machines("loop-a", volume_bytes=16 * MEBIBYTE)
    migration = synchronized(stack, moved)
    migration.wait_for_phase("Synchronized")
    stack.host.freeze_daemon()
    try:
        wait_until(partial(is_unready, stack), "the node says so", seconds=60)
        assert not probes.is_ready()
        assert probes.is_live(), probes.ask("livez")
    finally:
        stack.host.thaw_daemon()
    wait_until(probes.is_ready, "libvirtd answers again", seconds=60)
    has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
    migration.patch({"cutover": {"policy": "Automatic"}})
    assert migration.succeed()["attempts"] == 1
    for machine in (moved, other):
        machine.verify()


def is_unready(stack: Stack) -> bool:
    """Whether the node's Hypervisor says that libvirtd does not answer."""
    conditions = stack.hypervisor()["status"]["conditions"]
    return any(found["type"] == "Ready" and found["status"] == "False" for found in conditions)
