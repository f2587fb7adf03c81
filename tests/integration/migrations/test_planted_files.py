"""What somebody plants in a storage domain: links, other files' names, FIFOs, devices. Nothing outside is touched."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.migrations.machines import Domain, Machine
from tests.integration.migrations.stack import NAMESPACE, Stack, make_domain
from tests.integration.migrations.test_refusals import refuse
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]
Plant = Callable[[Path, Path], None]

CONTENT = b"somebody else's" * 2**17


@pytest.fixture
def theirs(scratch: Path) -> Iterator[Path]:
    """A file outside every storage domain, and whatever is reached through it, must stay as it is."""
    file = scratch / "theirs"
    file.write_bytes(CONTENT)
    yield file
    attached = subprocess.run(["losetup", "-j", file, "-O", "NAME", "-n"], capture_output=True, text=True, check=True)
    for device in attached.stdout.split():
        subprocess.run(["losetup", "--detach", device], check=True)
    assert file.read_bytes() == CONTENT
    assert sorted(scratch.iterdir()) == [file]


def link(place: Path, theirs: Path) -> None:
    place.symlink_to(theirs)


def hanging_link(place: Path, theirs: Path) -> None:
    place.symlink_to(theirs.parent / "not-there")


def second_name(place: Path, theirs: Path) -> None:
    place.hardlink_to(theirs)


def fifo(place: Path, _theirs: Path) -> None:
    os.mkfifo(place)


def device(place: Path, theirs: Path) -> None:
    printed = subprocess.run(["losetup", "--find", "--show", theirs], capture_output=True, text=True, check=True)
    os.mknod(place, stat.S_IFBLK | 0o600, Path(printed.stdout.strip()).stat().st_rdev)


def folder(place: Path, _theirs: Path) -> None:
    place.mkdir()


@pytest.mark.parametrize(
    ("source", "destination", "planted_in", "suffix", "plant"),
    first_by_day(
        [
            ("file-a", "file-b", "file-b", "0", link),
            ("file-a", "loop-b", "loop-b", "overlay", second_name),
            ("loop-a", "file-b", "loop-a", "snapshot", device),
            *[("file-a", "file-b", "file-b", "0", plant) for plant in (second_name, fifo, device, folder)],
            ("file-a", "file-b", "file-b", "overlay", hanging_link),
            ("file-a", "file-b", "file-a", "snapshot", second_name),
        ],
        3,
    ),
)
def test_what_lies_where_a_migration_would_make_a_volume_fails_it_and_stays_as_it_is(
    stack: Stack,
    machines: Machines,
    theirs: Path,
    source: str,
    destination: str,
    planted_in: str,
    suffix: str,
    plant: Plant,
) -> None:
    machine = machines(source)
    chain = machine.chain()
    migration = stack.migrate(machine, destination, suspend=True, backoffLimit=0)
    place = stack.domains[planted_in].root / made_volume(migration.uid, suffix)
    try:
        plant(place, theirs)
        migration.patch({"suspend": False})

        status = migration.wait_for_phase("Failed")
        wait_until(lambda: not machine.has_journal(), "the disk is free")
        # A file of its own may be what another attempt has left, with the guest's last writes.
        reason = "ForeignChange" if plant is second_name else "StorageFailed"
        assert status["failure"]["reason"] == reason, status["failure"]
        assert place.name in status["failure"]["message"]
        assert machine.chain() == chain
        machine.verify()
        left = [entry.name for domain in stack.domains.values() for entry in named(domain, migration.uid)]
        assert left == [place.name]
    finally:
        if place.is_dir():
            place.rmdir()


def named(domain: Domain, uid: str) -> list[Path]:
    return list(domain.root.glob(f"dm-{uid}-*"))


def test_a_source_that_is_swapped_for_a_link_in_mid_migration_is_not_removed_through_it(
    stack: Stack, machines: Machines, theirs: Path
) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    [volume] = machine.volumes
    volume.unlink()
    volume.symlink_to(theirs)
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    machine.verify()
    assert volume.is_symlink()


@pytest.mark.parametrize("kind", first_by_day(["a link to a volume", "a link to its folder"]))
def test_a_disk_behind_a_link_out_of_its_storage_domain_lies_in_none(
    stack: Stack, machines: Machines, scratch: Path, kind: str
) -> None:
    outside = make_domain(scratch, "outside", "file")
    machine = machines(outside, volume_names=("v",), start=False)
    inside = stack.domains["file-a"].root / "link"
    if kind == "a link to a volume":
        inside.symlink_to(outside.root / "v")
        machine.set_source(str(inside), "file")
    else:
        inside.symlink_to(outside.root)
        machine.set_source(str(inside / "v"), "file")
    machine.host.virsh("start", machine.uuid, "--paused")
    stack.give(machine, NAMESPACE)
    refuse(stack, machine, "SourceNotInStorageDomain", "StorageDomain")


def test_links_in_a_circle_and_a_fifo_keep_no_other_vm_from_moving(
    stack: Stack, machines: Machines, scratch: Path
) -> None:
    root = stack.domains["file-a"].root
    elsewhere = make_domain(scratch, "elsewhere", "file")
    for name, plant in (("circle", lambda path: path.symlink_to(path)), ("fifo", os.mkfifo)):
        plant(root / name)
        odd = machines(elsewhere, start=False)
        odd.set_source(str(root / name), "file")
    machine = machines("file-a")
    stack.migrate(machine, "file-b").succeed()
    machine.verify()
