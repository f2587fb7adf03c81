"""Volumes and VMs that are shared: what somebody else uses is copied and kept, and disks of one VM move at once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine, add_disk
from tests.integration.migrations.stack import Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b")]


def clone(machines: Machines, domain: str, template: Machine, *, start: bool = True) -> Machine:
    """A VM whose one volume of its own stands on the template's."""
    made = machines(domain, below=(template.volumes[-1], "qcow2"), start=start)
    # Its own first layer hides the template's.
    made.written = {**template.written, **made.written}
    return made


def with_two_disks(stack: Stack, machines: Machines, domain: str, *, chain: int) -> tuple[Machine, Machine]:
    """A running VM with two disks, one machine each."""
    first = machines(domain, chain=chain, start=False)
    second = add_disk(first, stack.domains[domain], chain=chain)
    stack.host.virsh("start", first.name, "--paused")
    return first, second


def assert_moved_but_kept(stack: Stack, machine: Machine, source: str, to: str, kept: list[Path]) -> None:
    """The whole chain is at the destination; at the source are these volumes and no others."""
    root = str(stack.domains[to].root)
    assert all(path.startswith(root) for path, _ in machine.chain())
    machine.verify()
    names = [entry.name for entry in kept]
    assert stack.domains[source].files() == sorted(names)


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
@pytest.mark.parametrize("other_runs", first_by_day([True, False]))
def test_a_template_with_another_clone_is_copied_and_kept(
    stack: Stack, machines: Machines, source: str, destination: str, other_runs: bool
) -> None:
    template = machines(source, start=False)
    machine = clone(machines, source, template)
    other = clone(machines, source, template, start=other_runs)
    stack.host.virsh("undefine", template.name)  # from here on, only the other clone's backing chain tells of it
    files = {name: stack.domains[source].root / name for name in stack.domains[source].files()}
    kept = [files[f"{template.name}-0"], files[f"{other.name}-0"]]
    before = {path: path.read_bytes() for path in kept}

    stack.migrate(machine, destination).succeed()

    assert_moved_but_kept(stack, machine, source, destination, kept)
    assert len(machine.chain()) == 2
    assert {path: path.read_bytes() for path in kept} == before
    if not other_runs:
        stack.host.virsh("start", other.name, "--paused")
    other.verify()
    stack.host.virsh("define", str(stack.domains[source].root.parent / f"{template.uuid}.xml"))


@pytest.mark.nightly
def test_a_template_that_is_only_defined_is_kept(stack: Stack, machines: Machines) -> None:
    template = machines("file-a", start=False)
    machine = clone(machines, "file-a", template)

    stack.migrate(machine, "loop-b").succeed()

    assert_moved_but_kept(stack, machine, "file-a", "loop-b", template.volumes)


def test_a_volume_that_a_recorded_snapshot_names_is_kept(stack: Stack, machines: Machines, scratch: Path) -> None:
    other = machines("file-a", start=False)
    volume = other.volumes[0]
    overlay = scratch / "overlay"
    stack.host.virsh("snapshot-create-as", other.name, "before", "--disk-only", f"--diskspec=vda,file={overlay}")
    # Only the snapshot names the volume from here on: the definition is given another disk.
    elsewhere = machines("file-b", start=False)
    document = stack.host.virsh("dumpxml", other.name, "--inactive").replace(str(overlay), str(elsewhere.volumes[0]))
    (scratch / "other.xml").write_text(document)
    stack.host.virsh("define", str(scratch / "other.xml"))
    assert str(volume) not in stack.host.virsh("dumpxml", other.name)
    overlay.unlink()
    machine = machines("file-a", below=(volume, "qcow2"))
    machine.written = {**other.written, **machine.written}

    stack.migrate(machine, "loop-b").succeed()

    assert_moved_but_kept(stack, machine, "file-a", "loop-b", [volume])


def test_the_last_clone_takes_its_template_along(stack: Stack, machines: Machines) -> None:
    template = machines("file-a", start=False)
    first, second = (clone(machines, "file-a", template) for _ in range(2))
    stack.host.virsh("undefine", template.name)

    stack.migrate(first, "loop-b").succeed()
    stack.migrate(second, "loop-b").succeed()

    for machine in (first, second):
        assert_moved_but_kept(stack, machine, "file-a", "loop-b", [])
    stack.host.virsh("define", str(stack.domains["file-a"].root.parent / f"{template.uuid}.xml"))


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_two_clones_of_one_template_move_at_once(
    stack: Stack, machines: Machines, source: str, destination: str
) -> None:
    template = machines(source, start=False)
    clones = [clone(machines, source, template) for _ in range(2)]

    migrations = [stack.migrate(machine, destination) for machine in clones]

    for migration in migrations:
        migration.succeed()
    for machine in clones:
        assert_moved_but_kept(stack, machine, source, destination, [stack.domains[source].root / f"{template.name}-0"])


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_two_disks_of_one_vm_move_at_once(stack: Stack, machines: Machines, source: str, destination: str) -> None:
    disks = with_two_disks(stack, machines, source, chain=2)

    migrations = [stack.migrate(disk, destination, disk=disk.target, cutover={"policy": "Manual"}) for disk in disks]
    for migration in migrations:
        migration.wait_for_phase("Synchronized")
    for position, disk in enumerate(disks):
        disk.write(offset=60 * MEBIBYTE, length=2 * MEBIBYTE, pattern=60 + position)
    for migration in migrations:
        migration.patch({"cutover": {"policy": "Automatic"}})

    for migration in migrations:
        migration.succeed()
    for disk in disks:
        assert_moved_but_kept(stack, disk, source, destination, [])
        assert disk.chain(inactive=True)[0] == disk.chain()[0]
    wait_until(lambda: not disks[0].has_journal(), "no journal is left")


def test_one_disk_of_two_can_be_cancelled_while_the_other_goes_on(stack: Stack, machines: Machines) -> None:
    first, second = with_two_disks(stack, machines, "file-a", chain=1)
    before = second.chain()
    moved, cancelled = (
        stack.migrate(disk, "loop-b", disk=disk.target, cutover={"policy": "Manual"}) for disk in (first, second)
    )
    for migration in (moved, cancelled):
        migration.wait_for_phase("Synchronized")

    cancelled.patch({"cancel": True})
    cancelled.wait_for_phase("Cancelled")
    moved.patch({"cutover": {"policy": "Automatic"}})
    moved.succeed()

    assert second.chain() == before
    second.verify()
    assert_moved_but_kept(stack, first, "file-a", "loop-b", second.volumes)
