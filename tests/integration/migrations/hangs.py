"""What hangs, and what the node says and does meanwhile."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from testbed import processes
from testbed.libvirt_host import LibvirtHost
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.monitor import Relay
from tests.integration.migrations.stack import Migration, Stack

Hang = Callable[[LibvirtHost, list[Machine]], AbstractContextManager[Callable[[], AbstractContextManager[None]]]]
"""Prepares the VMs for the block; each block of what it yields has their QEMUs hang."""

_LOOKS = 40


@contextmanager
def stopped_qemus(host: LibvirtHost, machines: list[Machine]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """SIGSTOP: neither the guest nor the monitor goes on."""

    @contextmanager
    def hang() -> Iterator[None]:
        for machine in machines:
            host.signal_qemu(machine.name, "STOP")
        try:
            yield
        finally:
            for machine in machines:
                host.signal_qemu(machine.name, "CONT")

    yield hang


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
    machines = stack.host_object().get("status", {}).get("virtualMachines", [])
    return {machine["uuid"] for machine in machines if "notAnsweringSince" in machine}


def synchronized(stack: Stack, machine: Machine) -> Migration:
    """Return a migration that waits for its cutover, and asks for its block job every second."""
    return stack.migrate(machine, "file-b", cutover={"policy": "Manual"})


def told(migration: Migration) -> str:
    """Return what the status says that it waits for."""
    return " ".join(condition["message"] for condition in migration.status().get("conditions", []))


def copied_bytes(migration: Migration) -> int:
    """Return how much the status says that was copied."""
    return int(migration.status()["progress"]["copiedBytes"])


def most_workers_taken(host: LibvirtHost) -> int:
    """Return how many workers of libvirtd wait at most for a QEMU, over some seconds."""
    uri = f"libvirtd:///system?socket={host.socket_directory / 'libvirt-admin-sock'}"
    return max(
        _taken(processes.run(["virt-admin", "-c", uri, "srv-threadpool-info", "libvirtd"])) for _ in range(_LOOKS)
    )


def _taken(pool: str) -> int:
    figures = dict(re.findall(r"(\w+)\s*: (\d+)", pool))
    return int(figures["nWorkers"]) - int(figures["freeWorkers"])
