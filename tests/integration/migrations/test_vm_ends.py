"""A VM that ends in mid-migration: its disk is in one place, whole, and the status says where."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.monitor import Monitor, monitor_of
from tests.integration.migrations.stack import FINAL, Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b")]
# Where both are devices, nothing but the processes of the node tells of a QEMU that libvirt has lost.
LOST_PAIRS = [("loop-a", "loop-b"), *PAIRS, ("file-a", "file-b")]


def synchronize_and_write(stack: Stack, machine: Machine, to: str) -> Migration:
    """A migration in step, with data that only the active layer has."""
    migration = stack.migrate(machine, to, cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
    return migration


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_vm_that_was_shut_off_keeps_its_disk_and_its_chain_when_it_is_cancelled(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source, chain=3)
    before = machine.chain()
    files = stack.domains[source].files()
    migration = synchronize_and_write(stack, machine, destination)

    stack.host.virsh("destroy", machine.name)
    migration.patch({"cancel": True})

    migration.wait_for_phase("Cancelled")
    assert machine.chain(inactive=True)[0] == before[0]
    assert stack.domains[source].files() == files
    assert stack.domains[destination].files() == []
    stack.host.virsh("start", machine.name, "--paused")
    assert machine.chain() == before
    machine.verify()


def assert_left_whole(stack: Stack, machine: Machine, source: str, destination: str, files: list[str]) -> None:
    """The disk is where it was, and holds all: the VM starts on it when it is defined again."""
    assert stack.domains[source].files() == files
    assert stack.domains[destination].files() == []
    stack.host.virsh("define", str(stack.domains[source].root.parent / f"{machine.uuid}.xml"))
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_vm_that_is_gone_with_its_definition_leaves_its_disk_whole(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source)
    files = stack.domains[source].files()
    migration = synchronize_and_write(stack, machine, destination)

    stack.host.virsh("undefine", machine.name)
    stack.host.virsh("destroy", machine.name)

    status = migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "VirtualMachineStopped"
    assert str(machine.volumes[0]) in status["failure"]["message"]
    assert_left_whole(stack, machine, source, destination, files)


@pytest.mark.parametrize(("source", "destination"), first_by_day(LOST_PAIRS))
def test_a_vm_that_libvirt_has_lost_keeps_all_that_its_qemu_may_use(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source, chain=2)
    before = machine.chain()
    files = stack.domains[source].files()
    migration = synchronize_and_write(stack, machine, destination)
    both = [domain.files() for domain in stack.domains.values()]

    stack.host.kill_daemon()
    stack.host.forget(machine.name)
    stack.host.start_daemon()

    message = wait_until(migration.lost_track, "the migration waits")
    assert made_volume(migration.uid, "snapshot") in message
    assert [domain.files() for domain in stack.domains.values()] == both
    stack.host.end_qemu(machine.name)
    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    assert stack.domains[source].files() == files
    assert stack.domains[destination].files() == []
    stack.host.virsh("start", machine.name, "--paused")
    assert machine.chain() == before
    machine.verify()


def lose(stack: Stack, machine: Machine) -> None:
    """libvirtd is killed, and takes the VM for shut off when it is back; its QEMU goes on."""
    stack.host.kill_daemon()
    stack.host.forget(machine.name)
    stack.host.start_daemon()
    assert machine.state() == "shut off"


def write_unseen(stack: Stack, machine: Machine, *, offset: int) -> None:
    """Its QEMU writes."""
    with monitor_of(stack.host, machine.name) as monitor:
        monitor.write(offset=offset, length=3 * MEBIBYTE, pattern=offset // MEBIBYTE)
    machine.written[offset] = (3 * MEBIBYTE, offset // MEBIBYTE)


@pytest.mark.parametrize(("source", "destination"), first_by_day(LOST_PAIRS))
@pytest.mark.parametrize(
    ("wish", "phase"),
    first_by_day([({"cutover": {"policy": "Automatic"}}, "Succeeded"), ({"cancel": True}, "Cancelled")]),
    ids=["cutover", "cancel"],
)
def test_nothing_is_copied_or_merged_under_a_qemu_that_libvirt_has_lost(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str, wish: dict[str, Any], phase: str
) -> None:
    machine = machines(source, chain=2)
    migration = synchronize_and_write(stack, machine, destination)
    lose(stack, machine)
    migration.patch(wish)
    wait_until(migration.lost_track, "the migration waits")
    write_unseen(stack, machine, offset=70 * MEBIBYTE)
    wait_until(migration.is_observed, "it has heard of the wish")
    assert migration.lost_track()
    assert migration.phase() not in FINAL
    write_unseen(stack, machine, offset=80 * MEBIBYTE)
    stack.host.end_qemu(machine.name)
    migration.wait_for_phase(phase)
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(LOST_PAIRS))
def test_a_definition_that_goes_while_libvirt_has_lost_the_vm_leaves_its_disk_whole(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source)
    files = stack.domains[source].files()
    migration = synchronize_and_write(stack, machine, destination)
    lose(stack, machine)
    stack.host.virsh("undefine", machine.name)
    wait_until(lambda: "written to by" in migration.condition("Succeeded")["message"], "it waits for its end")
    write_unseen(stack, machine, offset=70 * MEBIBYTE)
    assert migration.phase() not in FINAL
    stack.host.end_qemu(machine.name)
    assert migration.wait_for_phase("Failed")["failure"]["reason"] == "VirtualMachineStopped"
    assert_left_whole(stack, machine, source, destination, files)


def pivot_unseen(
    stack: Stack, machine: Machine, to: str, *, drops_source: bool = False, is_forgotten: bool = True
) -> None:
    """The agent and libvirtd are killed in the midst of a pivot, which QEMU makes all the same.

    The guest writes on. `drops_source` tells whether QEMU has closed the old active layer by then, `is_forgotten`
    whether libvirt has lost the VM, or only the end of its job.
    """
    stack.agent.kill()
    machine.change_journal(pivotingTo=to)
    stack.host.kill_daemon()
    with monitor_of(stack.host, machine.name) as monitor:
        (job,) = monitor.execute("query-block-jobs")
        nodes = [device["inserted"]["node-name"] for device in monitor.execute("query-block")]
        monitor.execute("job-complete", id=job["device"])
        wait_until(lambda: is_concluded(monitor), "QEMU has pivoted")
        monitor.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
        monitor.execute("job-dismiss", id=job["device"])
        if drops_source:
            for node in nodes:
                monitor.execute("blockdev-del", **{"node-name": node})
                monitor.execute("blockdev-del", **{"node-name": node.replace("-format", "-storage")})
    machine.written[60 * MEBIBYTE] = (3 * MEBIBYTE, 60)
    if is_forgotten:
        stack.host.forget(machine.name)
    stack.host.start_daemon()
    stack.agent.start()


@pytest.mark.parametrize(
    "how", first_by_day([{"drops_source": True}, {"is_forgotten": False}]), ids=["lost-vm", "lost-job"]
)
@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_pivot_that_libvirt_never_saw_is_followed(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str, how: dict[str, bool]
) -> None:
    machine = machines(source)
    migration = stack.migrate(machine, destination, strategy="Direct", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")

    copy = str(stack.domains[destination].path(made_volume(migration.uid, 0)))
    pivot_unseen(stack, machine, copy, **how)

    message = wait_until(migration.lost_track, "the migration waits")
    assert copy in message
    migration.patch({"cancel": True})
    stack.host.end_qemu(machine.name)
    migration.succeed()
    assert stack.domains[source].files() == []
    assert stack.domains[destination].files() == [made_volume(migration.uid, 0)]
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(LOST_PAIRS))
def test_where_nobody_can_tell_which_side_is_right_both_are_kept(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source)
    migration = stack.migrate(machine, destination, strategy="Direct", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    active, _ = machine.chain()[0]
    copy = str(stack.domains[destination].path(made_volume(migration.uid, 0)))

    pivot_unseen(stack, machine, copy)

    message = wait_until(migration.lost_track, "the migration waits")
    assert active in message
    stack.host.end_qemu(machine.name)
    failure = migration.wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "VirtualMachineStopped"
    assert active in failure["message"]
    assert copy in failure["message"]
    assert machine.chain(inactive=True)[0][0] == active
    # A restart says which of them has them.
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.set_source(copy, stack.domains[destination].disk_type)
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


def is_concluded(monitor: Monitor) -> bool:
    """Whether the only job has nothing left to do but to be dismissed."""
    return all(job["status"] == "concluded" for job in monitor.execute("query-jobs"))
