"""A volume group that does not answer costs its own disks alone, and one that is only slow costs nobody."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import finish, size_bytes, synchronized
from tests.integration.migrations.hangs import copied_bytes
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Stack
from tests.lvm.groups import run
from tests.lvm.wrappers import Wrappers
from tests.lvm.writing import write
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]

NAME = "lvm-hangs"
GROUP_BYTES = 512 * MEBIBYTE
SLOW_SECONDS = 12
"""Longer than the agent waits for a storage before it goes on without it."""
SLOW_LOOKS = 3


@dataclass(frozen=True)
class HangingGroup:
    """A volume group on a device that can be told to answer nothing."""

    domain: Domain

    @contextmanager
    def hangs(self) -> Iterator[None]:
        """Have it hang for the time of the block: requests wait in the kernel."""
        run("dmsetup", "suspend", "--nolockfs", "--noflush", NAME)
        try:
            yield
        finally:
            run("dmsetup", "resume", NAME)


@pytest.fixture
def hanging_group(stack: Stack, directory: Path) -> Iterator[HangingGroup]:
    """Asked for before `machines`, whose VMs have to be gone at its end."""
    file = directory / NAME
    with file.open("wb") as made:
        made.truncate(GROUP_BYTES)
    loop = run("losetup", "--find", "--show", str(file)).strip()
    # Not from the loop device's start: LVM would take that device for another one of the same physical volume.
    table = f"0 {(GROUP_BYTES - MEBIBYTE) // 512} linear {loop} {MEBIBYTE // 512}"
    run("dmsetup", "create", NAME, f"--table={table}")
    run("vgcreate", "--yes", NAME, f"/dev/mapper/{NAME}")
    domain = Domain(NAME, "lvm", Path("/dev") / NAME)
    stack.domains[NAME] = domain
    stack.make_ready({NAME: domain})
    yield HangingGroup(domain)
    stack.control_plane.kubectl("delete", "storagedomain", NAME)
    del stack.domains[NAME]
    run("vgremove", "--yes", "--force", NAME)
    run("dmsetup", "remove", "--retry", NAME)
    run("losetup", "--detach", loop)
    file.unlink()


def shown(stack: Stack, name: str) -> tuple[bool, str]:
    """Return whether the node says that the storage domain is ready, and the reason that it gives."""
    found = stack.hypervisor().get("status", {}).get("storageDomains", [])
    return next((known["ready"], known.get("reason", "")) for known in found if known["name"] == name)


def test_a_group_that_does_not_answer_costs_its_own_disks_alone(
    stack: Stack, hanging_group: HangingGroup, machines: Machines, probes: Probes
) -> None:
    hanging, other, moving = machines(NAME), machines("lvm-a"), machines("file-a")
    held = synchronized(stack, hanging, "lvm-b")
    copied = copied_bytes(held)
    with hanging_group.hangs():
        wait_until(lambda: "has not answered since" in shown(stack, NAME)[1], "the node says so", seconds=60)
        before = size_bytes(other.volumes[0])
        write(other, other.volumes[0], mebibytes=40)
        assert size_bytes(other.volumes[0]) > before
        stack.migrate(moving, "lvm-b").succeed(seconds=120)
        assert shown(stack, "lvm-a") == shown(stack, "lvm-b") == (True, "")
        assert "has not answered since" in shown(stack, NAME)[1]
        assert probes.is_live(), probes.ask("livez")
        assert probes.is_ready(), probes.ask("readyz")
    wait_until(lambda: shown(stack, NAME) == (True, ""), "it answers again", seconds=60)
    finish(held, hanging)
    assert held.status()["attempts"] == 1
    assert copied_bytes(held) >= copied
    for machine in (other, moving):
        machine.verify()


def test_an_lvm2_that_is_slow_leaves_its_storage_domain_ready_and_its_disks_known(
    stack: Stack, machines: Machines, wrappers: Wrappers
) -> None:
    wait_until(lambda: shown(stack, "lvm-a") == (True, ""), "it is ready", seconds=60)
    with wrappers.slow("vgs", "lvs", seconds=SLOW_SECONDS):
        machine = machines("lvm-a", start=False)
        # Nothing but its end tells the first slow one of one that hangs.
        wait_until(lambda: is_known(stack, machine), "its volume is known", seconds=120)
        wait_until(lambda: shown(stack, "lvm-a") == (True, ""), "its storage domain is ready", seconds=60)
        until = time.monotonic() + SLOW_LOOKS * SLOW_SECONDS
        while time.monotonic() < until:
            assert shown(stack, "lvm-a") == (True, "")
            assert is_known(stack, machine)
            time.sleep(0.5)  # nothing is waited for: it stays so for as long


def is_known(stack: Stack, machine: Machine) -> bool:
    """Return whether the node tells in which storage domain the VM's disk lies, and of what size it is."""
    disk = stack.shown_disks(machine).get("vda", {})
    return disk.get("storageDomain") == "lvm-a" and "sizeBytes" in disk
