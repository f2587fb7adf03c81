"""On logical volumes too a VM can start while its disk is copied, and nothing that it writes is lost."""

from collections.abc import Callable

import pytest

from tests.integration.migrations.growth import synchronized
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.monitor import monitor_of
from tests.integration.migrations.stack import Migration, Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]


def is_copying(migration: Migration) -> bool:
    status = migration.status()
    return bool(status.get("phase") == "Replicating" and status["progress"]["copiedBytes"] > 0)


def test_what_a_vm_wrote_in_the_midst_of_its_copy_moves_too(stack: Stack, machines: Machines) -> None:
    machine = machines("lvm-a", start=False)
    # So slow that the copy is seen on a busy machine too.
    migration = stack.migrate(machine, "lvm-b", bandwidth=MEBIBYTE // 4)
    wait_until(lambda: is_copying(migration), "the copy is under way", seconds=60)
    machine.host.virsh("start", machine.name, "--paused")
    machine.write(offset=0, length=MEBIBYTE, pattern=99)
    machine.written[MEBIBYTE] = (4 * MEBIBYTE, 1)
    machine.host.virsh("destroy", machine.name)
    migration.patch({"bandwidth": None})
    migration.succeed(seconds=120)
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.nightly
def test_a_qemu_that_libvirt_has_lost_is_waited_for(stack: Stack, machines: Machines) -> None:
    machine = machines("lvm-a", chain=2)
    migration = synchronized(stack, machine, "lvm-b")
    stack.host.kill_daemon()
    stack.host.forget(machine.name)
    stack.host.start_daemon()
    migration.patch({"cutover": {"policy": "Automatic"}})
    wait_until(migration.lost_track, "it waits", seconds=60)
    with monitor_of(stack.host, machine.name) as monitor:
        monitor.write(offset=70 * MEBIBYTE, length=3 * MEBIBYTE, pattern=70)
    machine.written[70 * MEBIBYTE] = (3 * MEBIBYTE, 70)
    stack.host.end_qemu(machine.name)
    migration.succeed(seconds=120)
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()
