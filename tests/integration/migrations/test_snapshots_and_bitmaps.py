"""What libvirt and backups keep of a disk beside its data: a move carries it whole, or is refused before it begins."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.migrations.backups import CHECKPOINT, back_up, back_up_since, extents, is_equal
from tests.integration.migrations.growth import synchronized
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.test_refusals import refuse
from tests.waiting import wait_until

Machines = Callable[..., Machine]

CLUSTER_BYTES = 65536
BEFORE = {"offset": 60 * MEBIBYTE, "length": 3 * MEBIBYTE, "pattern": 60}
AFTER = {"offset": 90 * MEBIBYTE, "length": 2 * MEBIBYTE, "pattern": 90}


def start(machine: Machine) -> None:
    machine.host.virsh("start", machine.name, "--paused")


def snapshot(machine: Machine, made_by: str) -> None:
    """An internal snapshot s1; the VM, which is off, runs afterwards if a running one is asked for."""
    if made_by == "virsh, live":
        start(machine)
    if made_by.startswith("virsh"):
        machine.host.virsh("snapshot-create-as", machine.name, "s1")
    else:
        volume = machine.volumes[0 if "base" in made_by else -1]
        subprocess.run(["qemu-img", "snapshot", "-c", "s1", volume], check=True)
    if made_by.endswith("then started"):
        start(machine)


@pytest.mark.parametrize(
    ("made_by", "domain"),
    [
        ("virsh, live", "file-a"),
        pytest.param("virsh, off", "file-a", marks=pytest.mark.nightly),
        pytest.param("qemu-img", "file-a", marks=pytest.mark.nightly),
        pytest.param("qemu-img, then started", "loop-a", marks=pytest.mark.nightly),
        pytest.param("qemu-img, in the base, then started", "file-a", marks=pytest.mark.nightly),
        pytest.param("qemu-img, in the base", "loop-a", marks=pytest.mark.nightly),
    ],
)
def test_an_internal_snapshot(stack: Stack, machines: Machines, made_by: str, domain: str) -> None:
    machine = machines(domain, chain=2, start=False)
    snapshot(machine, made_by)
    words = ("s1", "virsh snapshot-delete") if made_by.startswith("virsh") else ("internal snapshot", "qemu-img")
    refuse(stack, machine, "DiskBusy", *words)


@pytest.mark.parametrize("chain", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_an_external_snapshot_that_libvirt_keeps(stack: Stack, machines: Machines, chain: int, runs: bool) -> None:
    machine = machines("file-a", chain=chain, start=runs)
    overlay = stack.domains["file-a"].root / f"{machine.name}.one"
    diskspec = f"--diskspec=vda,file={overlay}"
    machine.host.virsh("snapshot-create-as", machine.name, "one", "--disk-only", diskspec)
    refuse(stack, machine, "DiskBusy", "one", "virsh snapshot-delete", "--metadata")

    machine.host.virsh("snapshot-delete", machine.name, "one", "--metadata")
    stack.migrate(machine, "file-b").succeed()
    if not runs:
        start(machine)
    machine.verify()


def test_a_snapshot_that_names_the_disk_by_another_path(stack: Stack, machines: Machines, scratch: Path) -> None:
    machine = machines("file-a", start=False)
    link = scratch / "link.qcow2"
    link.symlink_to(machine.volumes[0])
    machine.set_source(str(link), "file")
    machine.host.virsh("snapshot-create-as", machine.name, "s1", "--disk-only", f"--diskspec=vda,file={scratch / 'o'}")
    machine.set_source(str(machine.volumes[0]), "file")
    refuse(stack, machine, "DiskBusy", "s1", "virsh snapshot-delete")


@pytest.mark.nightly
def test_a_snapshot_from_before_the_disk_was_there_does_not_matter(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", start=False)
    old = machines("file-b", start=False)
    machine.set_source(str(old.volumes[0]), "file")
    overlay = stack.domains["file-b"].root / f"{machine.name}.one"
    machine.host.virsh("snapshot-create-as", machine.name, "s1", "--disk-only", f"--diskspec=vda,file={overlay}")
    machine.set_source(str(machine.volumes[0]), "file")
    stack.migrate(machine, "file-b").succeed()
    start(machine)
    machine.verify()


def add_bitmap(machine: Machine, *, position: int = -1, disabled: bool = False) -> None:
    state = "--disable" if disabled else "--enable"
    subprocess.run(["qemu-img", "bitmap", "--add", state, machine.volumes[position], "b0"], check=True)


@pytest.mark.parametrize("made_by", ["qemu-img", pytest.param("a checkpoint", marks=pytest.mark.nightly)])
def test_a_bitmap_of_a_running_vm_with_a_snapshot(stack: Stack, machines: Machines, made_by: str) -> None:
    machine = machines("file-a", start=False)
    if made_by == "qemu-img":
        add_bitmap(machine)
    start(machine)
    if made_by != "qemu-img":
        machine.host.virsh("checkpoint-create-as", machine.name, "b0")
    refuse(stack, machine, "DiskBusy", "b0", "strategy: Direct")


@pytest.mark.nightly
@pytest.mark.parametrize("runs", [True, False])
def test_a_bitmap_that_libvirt_would_not_carry(stack: Stack, machines: Machines, runs: bool) -> None:
    machine = machines("file-a", chain=2, start=False)
    add_bitmap(machine, disabled=True)
    if runs:
        start(machine)
    refuse(stack, machine, "DiskBusy", "b0", "disabled", "qemu-img bitmap --remove", strategy="Direct")


@pytest.mark.nightly
def test_a_bitmap_below_a_chain_that_is_flattened(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2, start=False)
    add_bitmap(machine, position=0)
    refuse(stack, machine, "DiskBusy", "b0", "backingChain: Preserve", backingChain="Flatten")


def ranges(*written: dict[str, int]) -> list[tuple[int, int]]:
    return [(part["offset"], part["length"]) for part in written]


def assert_backup_is_exact(machine: Machine, scratch: Path, full: Path, *written: dict[str, int]) -> None:
    """An incremental backup has what was written since the full one, no less and no more. The VM is off afterwards."""
    incremental = back_up_since(machine, scratch, full)
    assert extents(incremental) == ranges(*written)
    machine.verify()
    active_layer = machine.chain()[0][0]
    # QEMU has written all of its tables when it has ended.
    machine.host.virsh("destroy", machine.name)
    assert is_equal(incremental, active_layer)


@pytest.mark.parametrize(
    ("source", "destination", "chain"),
    [
        ("file-a", "loop-b", 1),
        pytest.param("loop-a", "file-b", 1, marks=pytest.mark.nightly),
        pytest.param("file-a", "file-b", 2, marks=pytest.mark.nightly),
        pytest.param("loop-a", "loop-b", 2, marks=pytest.mark.nightly),
    ],
)
def test_the_checkpoint_of_a_running_vm_is_carried(
    stack: Stack, machines: Machines, scratch: Path, source: str, destination: str, chain: int
) -> None:
    machine = machines(source, chain=chain)
    full = back_up(machine, scratch)
    machine.write(**BEFORE)

    stack.migrate(machine, destination, strategy="Direct").succeed()

    assert machine.chain()[0][0].startswith(str(stack.domains[destination].root))
    machine.write(**AFTER)
    assert_backup_is_exact(machine, scratch, full, BEFORE, AFTER)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("source", "destination", "chain"),
    [
        ("file-a", "file-b", 1),
        pytest.param("file-a", "loop-b", 2, marks=pytest.mark.nightly),
        pytest.param("loop-a", "file-b", 1, marks=pytest.mark.nightly),
    ],
)
def test_the_checkpoint_of_a_vm_that_is_off_is_carried(
    stack: Stack, machines: Machines, scratch: Path, source: str, destination: str, chain: int
) -> None:
    machine = machines(source, chain=chain)
    full = back_up(machine, scratch)
    machine.write(**BEFORE)
    machine.host.virsh("destroy", machine.name)

    stack.migrate(machine, destination).succeed()

    start(machine)
    machine.write(**AFTER)
    assert_backup_is_exact(machine, scratch, full, BEFORE, AFTER)


@pytest.mark.nightly
@pytest.mark.parametrize("runs", [True, False])
def test_the_bitmaps_of_a_layer_below_are_carried(stack: Stack, machines: Machines, scratch: Path, runs: bool) -> None:
    machine = machines("file-a")
    full = back_up(machine, scratch)
    machine.write(**BEFORE)
    overlay = stack.domains["file-a"].root / f"{machine.name}.two"
    diskspec = f"--diskspec=vda,file={overlay}"
    machine.host.virsh("snapshot-create-as", machine.name, "two", "--disk-only", "--no-metadata", diskspec)
    middle = {"offset": 70 * MEBIBYTE, "length": MEBIBYTE, "pattern": 70}
    machine.write(**middle)
    if not runs:
        machine.host.virsh("destroy", machine.name)

    stack.migrate(machine, "file-b", strategy="Direct").succeed()

    if not runs:
        start(machine)
    assert len(machine.chain()) == 2
    machine.write(**AFTER)
    assert_backup_is_exact(machine, scratch, full, BEFORE, middle, AFTER)


@pytest.mark.nightly
@pytest.mark.parametrize("ends_by", ["destroy", "start"])
def test_a_bitmap_is_carried_when_the_vm_ends_or_starts_on_the_way(
    stack: Stack, machines: Machines, scratch: Path, ends_by: str
) -> None:
    machine = machines("file-a")
    full = back_up(machine, scratch)
    machine.write(**BEFORE)
    if ends_by == "start":
        machine.host.virsh("destroy", machine.name)
    migration = synchronized(stack, machine, "file-b", strategy="Direct")
    if ends_by == "start":
        start(machine)
        wait_until(lambda: "<mirror" in machine.xml(), "it is mirrored")
        machine.write(**AFTER)
    else:
        machine.write(**AFTER)
        machine.host.virsh("destroy", machine.name)
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    if ends_by == "destroy":
        start(machine)
    assert_backup_is_exact(machine, scratch, full, BEFORE, AFTER)


@pytest.mark.nightly
def test_a_checkpoint_of_another_disk_does_not_matter(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    options = ("--diskspec", "vda,checkpoint=no")
    machine.host.virsh("checkpoint-create-as", machine.name, CHECKPOINT, *options)
    stack.migrate(machine, "file-b").succeed()
    machine.verify()
