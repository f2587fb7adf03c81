"""Devices that QEMU's user may open, or not, where libvirt leaves the owners of volumes alone (dynamic_ownership=0)."""

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.libvirt_host import STOCK
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

pytestmark = [pytest.mark.lvm, pytest.mark.nightly]

Machines = Callable[..., Machine]
Lvs = Callable[[str], dict[str, int]]

_RULE = (
    'ACTION!="remove", SUBSYSTEM=="block", ENV{DM_VG_NAME}=="lvm-b", OWNER="libvirt-qemu", GROUP="kvm", MODE="0660"\n'
)


@pytest.fixture
def fixed_owners(stack: Stack) -> Iterator[None]:
    stack.host.set_qemu(replace(STOCK, changes_owners=False))
    yield
    stack.host.set_qemu(STOCK)


@contextmanager
def udev_rule() -> Iterator[None]:
    """The one of docs/how-to/install.md."""
    rules = Path("/run/udev/rules.d")
    rules.mkdir(parents=True, exist_ok=True)
    rule = rules / "90-diskmigration.rules"
    rule.write_text(_RULE)
    subprocess.run(["udevadm", "control", "--reload"], check=True)
    try:
        yield
    finally:
        rule.unlink()
        subprocess.run(["udevadm", "control", "--reload"], check=True)


@pytest.mark.parametrize("is_told", [True, False], ids=["seen-at-another-vm", "unseen"])
def test_where_libvirt_gives_devices_away_another_vm_tells_so(
    stack: Stack, machines: Machines, *, is_told: bool
) -> None:
    """QEMU's user can open the old volume as it is, so that this alone tells nothing."""
    machine = shut_off(machines)
    if is_told:
        machines("lvm-a")

    migration = stack.migrate(machine, "lvm-b")

    if is_told:
        migration.succeed(seconds=120)
    else:
        failure = migration.wait_for_phase("Failed")["failure"]
        assert failure["reason"] == "VolumeNotAccessible", failure
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()


def shut_off(machines: Machines) -> Machine:
    machine = machines("file-a", chain=2, start=False)
    user = pwd.getpwnam("libvirt-qemu")
    for volume in machine.volumes:
        os.chown(volume, user.pw_uid, user.pw_gid)
    return machine


def test_a_shut_off_vms_disk_stays_where_its_qemu_can_open_it(
    stack: Stack, fixed_owners: None, machines: Machines, lvs: Lvs
) -> None:
    machine = shut_off(machines)
    files = stack.domains["file-a"].files()

    failure = stack.migrate(machine, "lvm-b").wait_for_phase("Failed")["failure"]

    assert failure["reason"] == "VolumeNotAccessible", failure
    assert "udev rule" in failure["message"]
    assert lvs("after") == {}
    assert stack.domains["file-a"].files() == files
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()


def test_it_moves_where_a_udev_rule_gives_the_devices_to_qemus_user(
    stack: Stack, fixed_owners: None, machines: Machines
) -> None:
    machine = shut_off(machines)
    with udev_rule():
        migration = stack.migrate(machine, "lvm-b")
        migration.succeed(seconds=120)
        machine.host.virsh("start", machine.name, "--paused")
        assert_moved(stack, machine, "file-a", "lvm-b", migration.uid, length=2)
        machine.verify()
