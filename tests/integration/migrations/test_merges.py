"""Merges, forward and back: they take the room that they need, and one that fails is tried again without haste."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libvirt
import pytest

from testbed import qemu_io
from tests.integration.migrations.growth import free_bytes, size_bytes, synchronized, write_in_steps
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Machine
from tests.integration.migrations.small import SmallDomain, small_domain
from tests.integration.migrations.stack import CHUNK_BYTES, FINAL, WATERMARK_BYTES, Migration, Stack
from tests.integration.migrations.test_lifecycle import hold
from tests.integration.migrations.test_sharing import with_two_disks
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]
MakeSmall = Callable[[str], SmallDomain]

RESIZED_BYTES = 160 * MEBIBYTE
CANCEL = {"cancel": True}
AUTOMATIC = {"cutover": {"policy": "Automatic"}}


def room_wanted(volume: Path) -> int:
    """Return what the extender gives a thin volume: what it has taken, the watermark, and at most one chunk."""
    return end_of_data(volume) + WATERMARK_BYTES + CHUNK_BYTES


def end_of_data(volume: Path) -> int:
    """Return where the last cluster in use ends."""
    printed = run("qemu-img", "check", "-U", "-f", "qcow2", "--output=json", str(volume))
    return int(json.loads(printed)["image-end-offset"])


def run(*command: str | Path) -> str:
    """Return what the command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


@pytest.mark.parametrize(
    ("written", "times"),
    [(0, 3), pytest.param(3 * MEBIBYTE, 4, marks=pytest.mark.nightly)],
    ids=["nothing-written", "little-written"],
)
def test_a_move_that_is_cancelled_again_and_again_leaves_the_volume_as_large_as_it_was(
    stack: Stack, machines: Machines, written: int, times: int
) -> None:
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    [volume] = machine.volumes
    sizes = [size_bytes(volume)]
    for number in range(times):
        migration = synchronized(stack, machine, "loop-b")
        if written:
            machine.write(offset=(40 + 10 * number) * MEBIBYTE, length=written, pattern=number + 40)
        migration.patch(CANCEL)
        migration.wait_for_phase("Cancelled")
        sizes.append(size_bytes(volume))

    in_mebibytes = [size // MEBIBYTE for size in sizes]
    assert sizes[-1] <= max(sizes[0], room_wanted(volume)), f"{in_mebibytes}, {end_of_data(volume)} bytes used"
    assert all((size - sizes[0]) % CHUNK_BYTES == 0 for size in sizes), in_mebibytes
    machine.verify()


@pytest.mark.parametrize("source", ["file-a", pytest.param("loop-a", marks=pytest.mark.nightly)])
def test_a_moved_thin_volume_is_no_larger_than_it_must_be(stack: Stack, machines: Machines, source: str) -> None:
    machine = machines(source)
    migration = stack.migrate(machine, "loop-b")
    migration.succeed()

    volume = stack.domains["loop-b"].path(made_volume(migration.uid, 0))
    assert size_bytes(volume) <= room_wanted(volume), f"{end_of_data(volume)} bytes are used"
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("cluster_size=2M", False),
        *[
            pytest.param(layout, start, marks=pytest.mark.nightly)
            for layout in (
                "cluster_size=2M",
                "cluster_size=4k,refcount_bits=64",
                "cluster_size=512",
                "cluster_size=16k,extended_l2=on",
                "cluster_size=64k,compat=0.10",
            )
            for start in (False, True)
            if (layout, start) != ("cluster_size=2M", False)
        ],
    ],
)
def test_a_cancelled_move_merges_back_into_other_clusters(
    stack: Stack, machines: Machines, layout: str, start: bool
) -> None:
    """They may need more room than a volume that a migration makes; while the VM is off, nobody else extends it."""
    machine = machines("loop-a", start=False)
    volume = machine.volumes[-1]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, volume, str(CAPACITY_BYTES))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 1 0 {5 * MEBIBYTE}", volume)
    stack.host.virsh("start", machine.name, "--paused")
    migration = synchronized(stack, machine, "file-b")
    snapshot = made_volume(migration.uid, "snapshot")
    write_in_steps(
        machine,
        start=5 * MEBIBYTE,
        length=CAPACITY_BYTES - 5 * MEBIBYTE,
        free=lambda: free_bytes(machine, snapshot),
    )
    if not start:
        stack.host.virsh("destroy", machine.name)

    migration.patch(CANCEL)
    migration.wait_for_phase("Cancelled")

    if not start:
        stack.host.virsh("start", machine.name, "--paused")
    machine.verify()
    assert machine.chain() == [(str(volume), "qcow2")]


RAW_ON_A_DEVICE = ("loop-a", "file-b", "raw")


@pytest.mark.parametrize("ends_by", first_by_day(["moved", "cancelled"]))
@pytest.mark.parametrize(
    ("source", "destination", "base_format"),
    [
        RAW_ON_A_DEVICE,
        *[
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (
                ("file-a", "loop-b", "qcow2"),
                ("loop-a", "file-b", "qcow2"),
                ("loop-a", "loop-b", "qcow2"),
                ("file-a", "loop-b", "raw"),
                ("loop-a", "loop-b", "raw"),
            )
        ],
    ],
)
def test_a_disk_that_is_resized_in_mid_migration_has_its_new_size(
    stack: Stack, machines: Machines, source: str, destination: str, base_format: str, ends_by: str
) -> None:
    machine = machines(source, base_format=base_format)
    held = hold(stack, machine, destination, "CopyingChain")
    write_past_the_old_end(stack, machine)

    held.migration.patch(CANCEL if ends_by == "cancelled" else {"bandwidth": None})
    held.migration.wait_for_phase("Cancelled" if ends_by == "cancelled" else "Succeeded")

    assert_resized(stack, machine)


@pytest.mark.parametrize("case", [pytest.param(RAW_ON_A_DEVICE, marks=pytest.mark.nightly)])
def test_a_disk_that_was_resized_merges_back_while_its_vm_is_off(
    stack: Stack, machines: Machines, case: tuple[str, str, str]
) -> None:
    source, destination, base_format = case
    machine = machines(source, base_format=base_format)
    held = hold(stack, machine, destination, "CopyingChain")
    write_past_the_old_end(stack, machine)
    stack.host.virsh("destroy", machine.name)

    held.migration.patch(CANCEL)
    held.migration.wait_for_phase("Cancelled")

    stack.host.virsh("start", machine.name, "--paused")
    assert_resized(stack, machine)


def write_past_the_old_end(stack: Stack, machine: Machine) -> None:
    """Resize the disk, and write to its new last part."""
    stack.host.virsh("blockresize", machine.name, "vda", f"{RESIZED_BYTES}B")
    last = RESIZED_BYTES - MEBIBYTE
    qemu_io.write_pattern(stack.host, machine.name, offset=last, length=MEBIBYTE, pattern=77)
    qemu_io.flush(stack.host, machine.name)


def assert_resized(stack: Stack, machine: Machine) -> None:
    """The disk has its new size, one layer, and all its data."""
    printed = stack.host.virsh("domblkinfo", machine.name, "vda")
    assert f"Capacity:       {RESIZED_BYTES}" in printed, printed
    qemu_io.verify_pattern(stack.host, machine.name, offset=RESIZED_BYTES - MEBIBYTE, length=MEBIBYTE, pattern=77)
    machine.verify()
    assert len(machine.chain()) == 1


@pytest.fixture
def small(stack: Stack, scratch: Path) -> Iterator[MakeSmall]:
    """Makes a small storage domain of a kind. Asked for before `machines`, whose VMs have to be gone at its end."""
    with ExitStack() as ending:
        yield lambda kind: ending.enter_context(small_domain(stack, scratch, kind))


def failures(stack: Stack, migration: Migration) -> int:
    """Return how many steps of the migration have failed, by the agent's log."""
    lines = stack.agent.log.read_text().splitlines()
    return sum("a step failed" in line and migration.name in line for line in lines)


def stalled(migration: Migration, reason: str) -> dict[str, Any] | None:
    """Return the condition if it is True for that reason."""
    condition = migration.condition("Stalled")
    return condition if (condition["status"], condition["reason"]) == ("True", reason) else None


@pytest.mark.parametrize("kind", ["file", pytest.param("loop", marks=pytest.mark.nightly)])
def test_a_merge_that_fails_is_tried_again_without_haste_and_keeps_its_message(
    stack: Stack, small: MakeSmall, machines: Machines, kind: str
) -> None:
    """The job that fails has events of its own, which must not bring the next one about."""
    source = small(kind)
    machine = machines(source.domain)
    migration = synchronized(stack, machine, "file-b")
    # In steps, as the snapshot of one on block storage is extended meanwhile.
    write_in_steps(
        machine,
        start=60 * MEBIBYTE,
        length=40 * MEBIBYTE,
        free=lambda: free_bytes(machine, made_volume(migration.uid, "snapshot")) if kind == "loop" else CAPACITY_BYTES,
    )
    source.fill()

    migration.patch(CANCEL)

    wait_until(lambda: stalled(migration, "SourceFull"), "it says that it is stalled", seconds=60)
    before, until = failures(stack, migration), time.monotonic() + 10
    while time.monotonic() < until:
        condition = stalled(migration, "SourceFull")
        assert condition is not None, migration.condition("Stalled")
        assert f"{source.name} is full" in condition["message"]
        assert migration.phase() == "CleaningUp"
        time.sleep(0.1)  # between two looks: the state must hold for the whole time, so there is no change to wait for
    # After 2, 4 and 8 seconds, and so on.
    assert failures(stack, migration) - before <= 3
    source.free()
    migration.wait_for_phase("Cancelled", seconds=90)
    assert migration.condition("Stalled")["reason"] == "Cancelled"
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize("start", [True, pytest.param(False, marks=pytest.mark.nightly)], ids=["running", "off"])
def test_a_merge_into_a_volume_that_cannot_be_written_says_so_and_goes_on_when_it_can(
    stack: Stack, machines: Machines, start: bool
) -> None:
    machine = machines("loop-a")
    [volume] = machine.volumes
    migration = synchronized(stack, machine, "file-b")
    machine.write(offset=60 * MEBIBYTE, length=4 * MEBIBYTE, pattern=60)
    if not start:
        stack.host.virsh("destroy", machine.name)
    run("blockdev", "--setro", volume)
    try:
        migration.patch(CANCEL)
        condition = wait_until(lambda: stalled(migration, "MergeFailed"), "it says that it is stalled", seconds=60)
        assert "ermission denied" in condition["message"] or "ead-only" in condition["message"], condition
    finally:
        run("blockdev", "--setrw", volume)
    migration.wait_for_phase(*FINAL, seconds=90)
    assert migration.phase() == "Cancelled"
    if not start:
        stack.host.virsh("start", machine.name, "--paused")
    machine.verify()
    assert machine.chain() == [(str(volume), "qcow2")]


def told(migration: Migration) -> str:
    """Return what the status says that it does or waits for."""
    return str(migration.condition("Reconciling")["message"])


PIECES = range(40, 72, 2)
"""Where a snapshot has a mebibyte each, in mebibytes: QEMU merges what lies together at once, and then waits."""


def with_much_to_merge(stack: Stack, machine: Machine, **spec: Any) -> Migration:
    """Return a synchronized migration whose snapshot has 16 MiB in as many pieces."""
    migration = synchronized(stack, machine, "file-b", **spec)
    for offset in PIECES:
        machine.write(offset=offset * MEBIBYTE, length=MEBIBYTE, pattern=offset)
    qemu_io.flush(machine.host, machine.name)
    return migration


ENDS = [pytest.param(AUTOMATIC, id="pivot"), pytest.param(CANCEL, id="cancel", marks=pytest.mark.nightly)]


@pytest.mark.parametrize("ends_by", ENDS)
def test_a_merge_tells_how_far_it_is_and_keeps_to_the_bandwidth(
    stack: Stack, machines: Machines, ends_by: dict[str, Any]
) -> None:
    machine = machines("file-a")
    migration = with_much_to_merge(stack, machine, bandwidth="1Mi")
    migration.patch(ends_by)
    first = str(wait_until(lambda: " % (" in told(migration) and told(migration), "it says how far it is"))
    assert re.search(r"Merging /\S+ into /\S+ since 20\S+Z: \d+ % \(\S+ of 16.\S*\)", first), first
    assert migration.phase() == ("Merging" if ends_by == AUTOMATIC else "CleaningUp")
    wait_until(lambda: told(migration) != first, "it says that it is further")
    with machine.host.domain(machine.name) as domain:
        # Without the limit it would be through by far.
        assert domain.blockJobInfo("vda")["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT
        limits = domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        assert limits["bandwidth"] == MEBIBYTE
        migration.patch({"bandwidth": "4Mi"})
        wait_until(
            lambda: (
                domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES).get("bandwidth", 0)
                in (0, 4 * MEBIBYTE)
            ),
            "it has the new limit",
        )
    migration.patch({"bandwidth": None})
    migration.wait_for_phase("Succeeded" if ends_by == AUTOMATIC else "Cancelled")
    machine.verify()


@pytest.mark.nightly
def test_a_merge_keeps_to_the_bandwidth_and_tells_where_its_vm_is_off(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = with_much_to_merge(stack, machine, bandwidth="1Mi")
    stack.host.virsh("destroy", machine.name)
    migration.patch(CANCEL)
    began_at = time.monotonic()
    first = str(wait_until(lambda: "Merging" in told(migration) and told(migration), "it says that it merges"))
    wait_until(lambda: told(migration) != first, "it says that it is further")
    migration.wait_for_phase("Cancelled")
    assert time.monotonic() - began_at > len(PIECES) / 2
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.parametrize("how", first_by_day(["moved", "cancelled", "deleted", "late"]))
def test_another_disk_moves_or_is_ended_while_one_merges(stack: Stack, machines: Machines, how: str) -> None:
    first, second = with_two_disks(stack, machines, "file-a", chain=1)
    merging = with_much_to_merge(stack, first)
    merging.patch({**AUTOMATIC, "bandwidth": "64Ki"})
    wait_until(lambda: "Merging" in told(merging), "it merges")

    limit = {"activeDeadlineSeconds": 10} if how == "late" else {}
    other = stack.migrate(first, "file-b", disk="vdb", cutover={"policy": "Manual"}, **limit)
    if how == "late":
        assert other.wait_for_phase("Failed")["failure"]["reason"] == "DeadlineExceeded"
    else:
        other.wait_for_phase("Synchronized")
    if how == "deleted":
        other.delete()
        wait_until(other.is_gone, "it is gone")
    elif how != "late":
        other.patch(CANCEL if how == "cancelled" else AUTOMATIC)
        other.wait_for_phase("Cancelled" if how == "cancelled" else "Succeeded")

    assert "Merging" in told(merging)
    merging.patch({"bandwidth": None})
    merging.succeed()
    first.verify()
    second.verify()
