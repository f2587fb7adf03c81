"""What a migration removes and what it keeps: whatever somebody needs, or may need, stays, and the user is told."""

import ctypes
import json
import os
import subprocess
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from diskmigration.agent.storage.identity import identify
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import NAMESPACE, Migration, Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

IN_BASE = {80 * MEBIBYTE: (5 * MEBIBYTE, 9)}
"""What a base holds: offset to length and pattern."""
SOURCES = ["file-a", pytest.param("loop-a", marks=pytest.mark.nightly)]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


def make_image(domain: Domain, name: str, *, below: Path | None = None) -> Path:
    """A qcow2 volume that no VM has as its own; with data, unless it stands on one that has."""
    path = domain.make_volume(name, 64 * MEBIBYTE)
    backing = ["-u", "-b", str(below), "-F", "qcow2"] if below is not None else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *backing, path, str(CAPACITY_BYTES))
    if below is None:
        [(offset, (length, pattern))] = IN_BASE.items()
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {offset} {length}", path)
    return path


def clone(machines: Machines, domain: str, base: Path, *, start: bool = True) -> Machine:
    """A VM whose one volume of its own stands on the base."""
    made = machines(domain, below=(base, "qcow2"), start=start)
    made.written |= IN_BASE
    return made


def events(migration: Migration) -> dict[str, list[str]]:
    """The notes of the migration's Events by their reason."""
    found: dict[str, list[str]] = {}
    listed = json.loads(migration.stack.control_plane.kubectl("get", "events", f"--namespace={NAMESPACE}", "-o=json"))
    for event in listed["items"]:
        if event["involvedObject"]["name"] == migration.name:
            found.setdefault(event["reason"], []).append(event["message"])
    return found


def retained(migration: Migration) -> dict[str, str]:
    """Why each volume was kept at the source, by its name; it is told everywhere else too."""
    status = migration.status()
    found = {volume["name"]: volume["reason"] for volume in status["source"].get("retained", [])}
    shown = status["display"].get("retained")
    assert shown == (str(len(found)) if found else None)
    message = migration.condition("Succeeded")["message"]
    assert all(name in message for name in found)
    if found:
        [note] = wait_until(lambda: events(migration).get("SourceRetained"), "the Event is there")
        assert all(name in note for name in found)
    return found


@dataclass
class Shared:
    """A base with data, and above it a VM that runs, and by a layer between of its own one that is off."""

    stack: Stack
    domain: Domain
    name: str
    base: Path
    middle: Path
    moved: Machine
    other: Machine

    def __post_init__(self) -> None:
        self.file = self.domain.root / self.name
        self.before = self.file.read_bytes()

    def move(self) -> Migration:
        migration = self.stack.migrate(self.moved, "file-b")
        migration.succeed()
        return migration

    def assert_kept(self, migration: Migration, *words: str) -> None:
        assert self.file.exists(), f"the base of {self.other.name} was deleted"
        assert self.file.read_bytes() == self.before
        self.stack.host.virsh("start", self.other.name, "--paused")
        self.other.verify()
        self.moved.verify()
        kept = retained(migration)
        assert list(kept) == [self.name]
        assert all(word in kept[self.name] for word in words), kept


@pytest.fixture
def shared(stack: Stack, machines: Machines, request: pytest.FixtureRequest) -> Shared:
    domain = stack.domains[getattr(request, "param", "file-a")]
    name = f"base-{uuid.uuid4().hex[:8]}"
    base = make_image(domain, name)
    middle = make_image(domain, f"{name}-middle", below=base)
    moved = clone(machines, domain.name, base)
    other = clone(machines, domain.name, middle, start=False)
    return Shared(stack, domain, name, base, middle, moved, other)


@pytest.mark.parametrize("why", ["No such file", pytest.param("not connected", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("shared", SOURCES, indirect=True)
def test_a_volume_of_another_vm_that_cannot_be_seen_keeps_what_it_may_stand_on(
    shared: Shared, scratch: Path, why: str
) -> None:
    """As with a volume outside of what the agent sees, or on a mount that is gone; no image tells of it either."""
    top = shared.other.volumes[-1]
    place = scratch / "mount"
    place.mkdir()
    shared.other.set_source(str(place / "top"), "file")
    with away(shared, shared.middle, top), dead_mount(place) if why == "not connected" else nullcontext():
        migration = shared.move()
    shared.other.set_source(str(top), shared.domain.disk_type)
    shared.assert_kept(migration, shared.other.name, f"{place}/top", why)


@contextmanager
def away(shared: Shared, *volumes: Path) -> Iterator[None]:
    """The volumes are not in the storage domain in the meantime."""
    place = shared.domain.root.parent / f"away-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    files = [path for path in shared.domain.root.iterdir() if path.is_file() and holds(path, volumes)]
    assert len(files) == len(volumes)
    for file in files:
        file.rename(place / file.name)
    yield
    for file in files:
        (place / file.name).rename(file)
    place.rmdir()


def holds(file: Path, volumes: Collection[Path]) -> bool:
    return any(identify(file) == identify(volume) for volume in volumes)


@contextmanager
def dead_mount(place: Path) -> Iterator[None]:
    """A mount whose server has ended: fuse(4)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"dead", str(place).encode(), b"fuse.dead", 0, options) == 0, os.strerror(ctypes.get_errno())
    os.close(descriptor)
    yield
    run("umount", "--lazy", place)


@pytest.mark.nightly
@pytest.mark.parametrize("damage", ["no header", pytest.param("a header that is cut off", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("where", ["top", pytest.param("middle", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("shared", SOURCES, indirect=True)
def test_an_image_of_another_vm_that_cannot_be_read_keeps_what_it_may_stand_on(
    shared: Shared, where: str, damage: str
) -> None:
    volume = shared.middle if where == "middle" else shared.other.volumes[-1]
    others = [shared.middle] if where == "top" else []
    with away(shared, *others), damaged(volume, damage):
        migration = shared.move()
    shared.assert_kept(migration, shared.other.name)


@contextmanager
def damaged(volume: Path, damage: str) -> Iterator[None]:
    """The beginning of the volume is not there in the meantime."""
    with volume.open("r+b") as opened:
        start = opened.read(MEBIBYTE)
        opened.seek(0)
        opened.write(bytes(MEBIBYTE) if damage == "no header" else start[:4] + bytes(MEBIBYTE - 4))
    yield
    with volume.open("r+b") as opened:
        opened.write(start)


@pytest.mark.nightly
@pytest.mark.parametrize("shared", ["loop-a"], indirect=True)
def test_a_device_of_another_vm_that_is_detached_keeps_what_it_stands_on(shared: Shared) -> None:
    """As after a start of the node, when nobody has attached the volumes of VMs that are off."""
    device, name = shared.other.volumes[-1], f"{shared.other.name}-0"
    link = shared.domain.path(name)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(device)
    shared.other.set_source(str(link), "block")
    run("losetup", "--detach", device)
    link.unlink()
    migration = shared.move()
    link.symlink_to(run("losetup", "--find", "--show", "--direct-io=on", shared.domain.root / name).strip())
    shared.assert_kept(migration, shared.other.name)


@pytest.mark.parametrize("shared", SOURCES, indirect=True)
def test_an_image_that_no_vm_has_keeps_what_it_stands_on(shared: Shared) -> None:
    """A golden image of which no VM is defined, and a clone that waits for its VM."""
    document = shared.stack.host.virsh("dumpxml", shared.other.name, "--inactive")
    shared.stack.host.virsh("undefine", shared.other.name)
    migration = shared.move()
    path = shared.domain.directory / f"{shared.other.name}-again.xml"
    path.write_text(document)
    shared.stack.host.virsh("define", str(path))
    shared.assert_kept(migration, f"{shared.name}-middle")


@pytest.mark.nightly
def test_an_image_in_a_folder_keeps_what_it_stands_on(shared: Shared) -> None:
    folder = shared.domain.root / f"folder-{uuid.uuid4().hex[:8]}" / "inner"
    folder.mkdir(parents=True)
    overlay = folder / "clone"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", shared.base, "-F", "qcow2", overlay, "128M")
    shared.stack.host.virsh("undefine", shared.other.name)
    with away(shared, shared.middle, shared.other.volumes[-1]):
        migration = shared.move()
    shared.stack.host.virsh("define", str(shared.domain.directory / f"{shared.other.uuid}.xml"))
    shared.assert_kept(migration, "inner/clone")


@pytest.mark.parametrize(
    "record",
    [
        "snapshot",
        pytest.param("checkpoint", marks=pytest.mark.nightly),
        pytest.param("memory", marks=pytest.mark.nightly),
    ],
)
def test_what_only_a_record_of_another_vm_names_is_kept(shared: Shared, machines: Machines, record: str) -> None:
    """The VM is defined with another disk since, and no image tells of the base either."""
    host, name = shared.stack.host, shared.other.name
    elsewhere, old = machines("file-b", start=False).volumes[-1], shared.other.volumes[-1]
    definition = shared.other.xml(inactive=True)
    host.virsh("start", name, "--paused")
    if record == "memory":
        host.virsh("managedsave", name)
    else:
        # Both hold the VM's XML as it was.
        host.virsh(f"{record}-create-as", name, "before", *(["--disk-only"] if record == "snapshot" else []))
        host.virsh("destroy", name)
    define(shared, definition.replace(str(old), str(elsewhere)))
    with away(shared, shared.middle, old):
        migration = shared.move()
    if record == "memory":
        host.virsh("managedsave-remove", name)
    define(shared, definition)
    shared.assert_kept(migration, record, name, str(old))


def define(shared: Shared, definition: str) -> None:
    path = shared.domain.root.parent / f"{shared.other.name}-{uuid.uuid4().hex[:8]}.xml"
    path.write_text(definition)
    shared.stack.host.virsh("define", str(path))


@pytest.fixture
def pool(stack: Stack) -> Iterator[str]:
    """A storage pool of libvirt's on the directory of a storage domain."""
    name = f"pool-{uuid.uuid4().hex[:8]}"
    stack.host.virsh("pool-define-as", name, "dir", "--target", str(stack.domains["file-a"].root))
    stack.host.virsh("pool-start", name)
    yield name
    if name in stack.host.virsh("pool-list", "--name"):
        stack.host.virsh("pool-destroy", name)
    stack.host.virsh("pool-undefine", name)


def name_by_pool(machine: Machine, pool: str, volume: str) -> None:
    """Has the VM, which is off, name its volume by the pool that it is in."""
    document = ET.fromstring(machine.xml(inactive=True))
    disk, source = document.find("./devices/disk"), document.find("./devices/disk/source")
    assert disk is not None
    assert source is not None
    disk.set("type", "volume")
    source.attrib = {"pool": pool, "volume": volume}
    machine.host.virsh("pool-refresh", pool)
    with machine.host.domain(machine.name) as domain:
        domain.connect().defineXML(ET.tostring(document, encoding="unicode"))


@pytest.mark.nightly
@pytest.mark.parametrize("names", ["the top", pytest.param("the base", marks=pytest.mark.nightly)])
def test_a_vm_that_names_its_volume_by_a_pool_keeps_it_and_what_it_stands_on(
    shared: Shared, pool: str, names: str
) -> None:
    kept = [shared.base, shared.middle, shared.other.volumes[-1]]
    if names == "the base":
        shared.other.volumes = [shared.base]
        shared.other.written = dict(IN_BASE)
    name_by_pool(shared.other, pool, shared.other.volumes[-1].name)
    migration = shared.move()
    assert all(path.exists() for path in kept)
    shared.assert_kept(migration, shared.other.name)


def test_a_vm_that_names_its_volume_by_a_pool_that_is_not_started_keeps_what_it_may_stand_on(
    shared: Shared, pool: str
) -> None:
    name_by_pool(shared.other, pool, shared.other.volumes[-1].name)
    shared.stack.host.virsh("pool-destroy", pool)
    with away(shared, shared.middle, shared.other.volumes[-1]):
        migration = shared.move()
    shared.stack.host.virsh("pool-start", pool)
    shared.assert_kept(migration, shared.other.name, pool)


@pytest.mark.parametrize("length", first_by_day([2, 1]))
def test_what_external_snapshots_name_is_kept_with_all_below_it(stack: Stack, machines: Machines, length: int) -> None:
    machine = machines("file-a", chain=length)
    for name in ("one", "two"):
        file = stack.domains["file-a"].root / f"{machine.name}.{name}"
        stack.host.virsh("snapshot-create-as", machine.name, name, "--disk-only", f"--diskspec=vda,file={file}")
    chain = [Path(path).name for path, _ in machine.chain()]
    assert len(chain) == length + 2

    migration = stack.migrate(machine, "file-b")
    status = migration.wait_for_phase("Succeeded", "Failed")

    assert stack.domains["file-a"].files() == sorted(chain)
    machine.verify()
    if status["phase"] == "Failed":
        assert status["failure"]["reason"] == "DiskBusy"
        return
    assert sorted(retained(migration)) == sorted(chain)


def test_a_raw_medium_that_the_agent_does_not_see_keeps_nothing(stack: Stack, machines: Machines) -> None:
    medium = """<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/nowhere/else.iso'
        startupPolicy='optional'/><target dev='sda' bus='ide'/><readonly/></disk>"""
    machines("file-a", start=False, devices=medium)
    machine = machines("file-a", chain=2)
    migration = stack.migrate(machine, "file-b")
    migration.succeed()
    assert retained(migration) == {}
    assert not any(volume.exists() for volume in machine.volumes)


@pytest.mark.parametrize("domain", first_by_day(["loop-a", "file-a"]))
def test_a_volume_that_a_process_has_open_is_kept(stack: Stack, machines: Machines, domain: str) -> None:
    """A backup that reads the disk that was just moved, say, without a lock that a QEMU would see."""
    machine = machines(domain, chain=2)
    files = stack.domains[domain].files()
    with machine.volumes[-1].open("rb"):
        migration = stack.migrate(machine, "file-b")
        migration.succeed()
    assert stack.domains[domain].files() == files
    kept = retained(migration)
    assert sorted(kept) == files
    assert any("open" in reason for reason in kept.values())
    machine.verify()


@pytest.mark.nightly
def test_a_copy_that_a_process_has_open_is_told_of_after_a_cancellation(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    [name] = [name for name in stack.domains["file-b"].files() if "overlay" in name]
    with stack.domains["file-b"].path(name).open("rb"):
        migration.patch({"cancel": True})
        status = migration.wait_for_phase("Cancelled")
    assert name in stack.domains["file-b"].files()
    assert status["destination"]["retained"][0]["name"] == name
    assert name in migration.condition("Succeeded")["message"]
    assert wait_until(lambda: events(migration).get("DestinationRetained"), "the Event is there")
    machine.verify()


@pytest.mark.nightly
def test_a_volume_that_is_not_there_any_more_is_told_of(stack: Stack, machines: Machines) -> None:
    """As on a file system that was unmounted: nothing can be removed, and nobody may think that it was."""
    machine = machines("file-a", chain=2)
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    base = machine.volumes[0]
    gone = stack.domains["file-a"].directory / base.name
    base.rename(gone)
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    gone.unlink()
    kept = retained(migration)
    assert list(kept) == [base.name]
    assert "was not there" in kept[base.name]
    machine.verify()


def test_what_is_retained_on_purpose_is_told(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2)
    migration = stack.migrate(machine, "file-b", sourceVolumes="Retain")
    migration.succeed()
    kept = retained(migration)
    assert sorted(kept) == stack.domains["file-a"].files()
    assert set(kept.values()) == {"spec.sourceVolumes is Retain."}
