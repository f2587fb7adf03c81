"""A volume group that does not answer costs its own disks alone, and one that is only slow costs nobody."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import finish, size_bytes, synchronized
from tests.integration.migrations.hangs import copied_bytes
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Stack
from tests.lvm.groups import Suspendable, loop_device, run, suspendable_device
from tests.lvm.wrappers import Wrappers
from tests.lvm.writing import write
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]

NAME = "lvm-hangs"
GROUP_MEBIBYTES = 512
SLOW_SECONDS = 12
"""Longer than the agent waits for a storage before it goes on without it."""
SLOW_LOOKS = 3


@pytest.fixture
def hanging_device(stack: Stack, directory: Path) -> Iterator[Suspendable]:
    """That of a volume group of its own; asked for before `machines`, whose VMs have to be gone at its end."""
    with suspendable_device(directory, NAME, mebibytes=GROUP_MEBIBYTES) as device:
        run("vgcreate", "--yes", NAME, str(device.path))
        domain = Domain(NAME, "lvm", Path("/dev") / NAME)
        stack.domains[NAME] = domain
        stack.make_ready({NAME: domain})
        yield device
        stack.control_plane.kubectl("delete", "storagedomain", NAME)
        del stack.domains[NAME]
        run("vgremove", "--yes", "--force", NAME)


def shown(stack: Stack, name: str) -> tuple[bool, str]:
    """Return whether the node says that the storage domain is ready, and the reason that it gives."""
    found = stack.host_object().get("status", {}).get("storageDomains", [])
    return next((known["ready"], known.get("reason", "")) for known in found if known["name"] == name)


def test_a_group_that_does_not_answer_costs_its_own_disks_alone(
    stack: Stack, hanging_device: Suspendable, machines: Machines, probes: Probes, directory: Path
) -> None:
    hanging, other = machines(NAME), machines("lvm-a", volume_bytes=16 * MEBIBYTE)
    # Of a VM that is off: as many commands of LVM as for one that runs, and in less time.
    moving = machines("file-a", start=False)
    held = synchronized(stack, hanging, "lvm-b")
    copied = copied_bytes(held)
    # A device is new meanwhile: lvm2 by itself looks on all devices for those of a group then.
    with hanging_device.suspended(), loop_device(directory / "new", mebibytes=8):
        wait_until(lambda: "has not answered since" in shown(stack, NAME)[1], "the node says so", seconds=60)
        grows_with_its_guest(other)
        stack.migrate(moving, "lvm-b").succeed(seconds=120)
        assert shown(stack, "lvm-a") == shown(stack, "lvm-b") == (True, "")
        assert "has not answered since" in shown(stack, NAME)[1]
        assert probes.is_live(), probes.ask("livez")
        assert probes.is_ready(), probes.ask("readyz")
    wait_until(lambda: shown(stack, NAME) == (True, ""), "it answers again", seconds=60)
    finish(held, hanging)
    assert held.status()["attempts"] == 1
    assert copied_bytes(held) >= copied
    other.verify()


def test_an_agent_that_starts_while_a_group_does_not_answer_serves_the_others(
    stack: Stack, hanging_device: Suspendable, machines: Machines, probes: Probes, directory: Path
) -> None:
    other = machines("lvm-a", volume_bytes=16 * MEBIBYTE)
    wait_until(lambda: is_known(stack, other), "its volume is known", seconds=60)
    with hanging_device.suspended(), loop_device(directory / "new", mebibytes=8):
        stack.agent.kill()
        stack.agent.start()
        grows_with_its_guest(other)
        wait_until(probes.is_ready, "the agent is ready", seconds=60)
        wait_until(lambda: shown(stack, "lvm-a") == (True, ""), "the other group is ready", seconds=60)
        wait_until(lambda: "has not answered since" in shown(stack, NAME)[1], "the node says so", seconds=60)
    wait_until(lambda: shown(stack, NAME) == (True, ""), "it answers again", seconds=60)
    other.verify()


def grows_with_its_guest(machine: Machine) -> None:
    """Have the guest write, no faster than its volume grows."""
    [volume] = machine.volumes
    before = size_bytes(volume)
    write(machine, volume, mebibytes=28)
    assert size_bytes(volume) > before


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
    return disk.get("storageDomainName") == "lvm-a" and "sizeBytes" in disk
