"""The VM's persistent definition follows a move: the disk's volume, and nothing else of it."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.migrations.machines import Machine, add_disk
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]

LABEL = "<seclabel model='dac' relabel='yes'><label>libvirt-qemu:kvm</label></seclabel>"
SOURCE = "<source {kind}='{path}' startupPolicy='optional'>{label}</source>"
DRIVER = """<driver name='qemu' type='qcow2' cache='none' io='native' error_policy='enospace' discard='unmap'
    detect_zeroes='on' queues='2'><metadata_cache><max_size unit='bytes'>1048576</max_size></metadata_cache></driver>"""
OTHERS = "<iotune><total_iops_sec>100000</total_iops_sec></iotune><serial>a-serial</serial>"
METADATA = "<metadata><app:owner xmlns:app='http://app.example/'>somebody</app:owner></metadata>"
QUICK = [("file-a", "loop-b", True)]


def redefine(machine: Machine, change: Callable[[str], str]) -> None:
    """Define the VM with its persistent XML changed."""
    before = machine.xml(inactive=True)
    changed = change(before)
    assert changed != before, before
    with machine.host.domain(machine.name) as domain:
        domain.connect().defineXML(changed)


def persistent_disk(machine: Machine) -> ET.Element:
    """Return the disk of the persistent XML."""
    disk = ET.fromstring(machine.xml(inactive=True)).find(f"./devices/disk/target[@dev='{machine.target}']/..")
    assert disk is not None
    return disk


def described(disk: ET.Element) -> str:
    """Return all that a disk says beside its volume."""
    disk.attrib.pop("type")
    source = disk.find("source")
    assert source is not None
    for name in ("file", "dev", "index"):
        source.attrib.pop(name, None)
    for below in disk.findall("backingStore"):
        disk.remove(below)
    return ET.canonicalize(ET.tostring(disk, encoding="unicode"), strip_text=True)


def say_much(machine: Machine, *, label: str = LABEL) -> str:
    """Give the definition of the VM, which is off, all that a user may; return what its disk says."""
    volume = machine.volumes[-1]
    disk = persistent_disk(machine)
    kind = "dev" if disk.get("type") == "block" else "file"

    def change(document: str) -> str:
        root = ET.fromstring(document)
        found = root.find("./devices/disk")
        assert found is not None
        for tag in ("driver", "source"):
            for child in found.findall(tag):
                found.remove(child)
        more = f"<more>{DRIVER}{SOURCE.format(kind=kind, path=volume, label=label)}{OTHERS}</more>"
        found.extend(ET.fromstring(more))
        text = ET.tostring(root, encoding="unicode")
        return text.replace("<devices>", f"{METADATA}<devices>", 1)

    redefine(machine, change)
    said = described(persistent_disk(machine))
    for part in ("startupPolicy", label[:9], "metadata_cache", "queues", "a-serial"):
        assert part in said, said
    return said


@pytest.mark.parametrize(
    ("source", "destination", "start"),
    [
        *QUICK,
        *[
            pytest.param(source, destination, start, marks=pytest.mark.nightly)
            for source in ("file-a", "loop-a")
            for destination in ("file-b", "loop-b")
            for start in (True, False)
            if (source, destination, start) not in QUICK
        ],
    ],
)
@pytest.mark.parametrize("strategy", ["Snapshot", pytest.param("Direct", marks=pytest.mark.nightly)])
def test_what_else_a_disk_says_stays_in_the_definition(
    stack: Stack, machines: Machines, source: str, destination: str, start: bool, strategy: str
) -> None:
    machine = machines(source, start=False)
    before = say_much(machine)
    if start:
        stack.host.virsh("start", machine.name, "--paused")

    migration = stack.migrate(machine, destination, strategy=strategy)
    migration.succeed()

    assert_moved(stack, machine, source, destination, migration.uid, length=1)
    assert described(persistent_disk(machine)) == before
    # Nothing else was written anew: other programs' namespaces have their own prefixes.
    assert "app:owner" in machine.xml(inactive=True)
    if start:
        machine.verify()


@pytest.mark.parametrize("ends_by", ["moved", pytest.param("cancelled", marks=pytest.mark.nightly)])
def test_a_vm_that_ends_in_mid_migration_has_its_whole_definition(
    stack: Stack, machines: Machines, ends_by: str
) -> None:
    machine = machines("file-a", chain=2, start=False)
    # Without a label: a user's own owner for the volume is not what libvirt gives the migration's.
    before = say_much(machine, label="")
    stack.host.virsh("start", machine.name, "--paused")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")

    assert described(persistent_disk(machine)) == before
    stack.host.virsh("destroy", machine.name)
    migration.patch({"cutover": {"policy": "Automatic"}} if ends_by == "moved" else {"cancel": True})
    migration.wait_for_phase("Succeeded" if ends_by == "moved" else "Cancelled")

    assert described(persistent_disk(machine)) == before


def test_what_a_cancelled_migration_leaves_is_the_definition_of_before(stack: Stack, machines: Machines) -> None:
    machine = machines("loop-a", start=False)
    before = say_much(machine)
    chain = machine.chain(inactive=True)
    stack.host.virsh("start", machine.name, "--paused")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")

    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")

    assert described(persistent_disk(machine)) == before
    assert machine.chain(inactive=True) == chain


def running_without_its_next_disk(stack: Stack, machines: Machines) -> tuple[Machine, Machine]:
    """Return a VM's disk vdb, plugged in live, and the one that its next start has as vdb."""
    machine = machines("file-a", start=False)
    # Without ACPI no bus of this VM takes a disk while it runs.
    redefine(machine, lambda document: document.replace("<devices>", "<features><acpi/></features><devices>", 1))
    next_disk = add_disk(machine, stack.domains["file-a"])
    stack.host.virsh("detach-disk", machine.name, "vdb", "--config")
    stack.host.virsh("start", machine.name, "--paused")
    other = machines("file-a", start=False)
    live = Machine(stack.host, machine.name, machine.uuid, other.volumes, dict(other.written), target="vdb")
    attach = stack.domains["file-a"].directory / f"{machine.name}-vdb.xml"
    document = attach.read_text()
    attach.write_text(document.replace(str(next_disk.volumes[-1]), str(live.volumes[-1])))
    stack.host.virsh("attach-device", machine.name, str(attach), "--live")
    attach.write_text(document)
    # The VM of which this disk was has another one now: its own would be used by two.
    spare = stack.domains["file-a"].make_volume(f"{other.name}-spare", 0)
    other.set_source(str(spare), "file")
    return live, next_disk


@pytest.mark.nightly
def test_a_disk_that_is_another_one_in_the_definition_on_purpose_stays(stack: Stack, machines: Machines) -> None:
    live, next_disk = running_without_its_next_disk(stack, machines)
    attach = stack.domains["file-a"].directory / f"{live.name}-vdb.xml"
    stack.host.virsh("attach-device", live.name, str(attach), "--config")
    expected = str(next_disk.volumes[-1])
    assert live.chain(inactive=True)[0][0] == expected

    migration = stack.migrate(live, "file-b", disk="vdb")
    migration.succeed()

    assert live.chain()[0][0].startswith(str(stack.domains["file-b"].root))
    assert live.chain(inactive=True)[0][0] == expected
    assert expected in migration.condition("Succeeded")["message"]
    assert Path(expected).exists()
    live.verify()


def test_a_disk_that_is_in_no_definition_moves(stack: Stack, machines: Machines) -> None:
    live, _ = running_without_its_next_disk(stack, machines)
    wait_until(lambda: "vdb" in stack.shown_disks(live), "the inventory has the disk")

    stack.migrate(live, "file-b", disk="vdb").succeed()

    assert live.chain()[0][0].startswith(str(stack.domains["file-b"].root))
    wait_until(lambda: not live.has_journal(), "the journal is erased")
    assert "vdb" not in live.xml(inactive=True)
    live.verify()


def test_a_definition_that_names_the_volume_otherwise_follows_it(
    stack: Stack, machines: Machines, scratch: Path
) -> None:
    """libvirt compares paths, and leaves this one alone; the file is the same."""
    machine = machines("file-a")
    link = scratch / "link"
    link.symlink_to(machine.volumes[-1])
    redefine(machine, lambda document: document.replace(str(machine.volumes[-1]), str(link)))

    migration = stack.migrate(machine, "file-b")
    migration.succeed()

    assert_moved(stack, machine, "file-a", "file-b", migration.uid, length=1)


@pytest.mark.parametrize("strategy", ["Snapshot", pytest.param("Direct", marks=pytest.mark.nightly)])
def test_zeroes_are_detected_after_the_move_or_the_status_says_until_when_not(
    stack: Stack, machines: Machines, strategy: str
) -> None:
    """libvirt opens what lies below a mirror without it, and that is what a merge makes the active layer."""
    machine = machines("file-a", start=False)
    redefine(machine, lambda document: document.replace("discard='unmap'", "discard='unmap' detect_zeroes='unmap'"))
    stack.host.virsh("start", machine.name, "--paused")
    assert detects_zeroes(machine) == "unmap"

    migration = stack.migrate(machine, "file-b", strategy=strategy)
    migration.succeed()

    message = migration.condition("Succeeded")["message"]
    assert (detects_zeroes(machine) == "unmap") != ("detect_zeroes='unmap' of vda is in force again after" in message)
    stack.host.virsh("destroy", machine.name)
    stack.host.virsh("start", machine.name, "--paused")
    assert detects_zeroes(machine) == "unmap"


@pytest.mark.nightly
def test_zeroes_are_detected_after_a_cancelled_move_as_before(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", start=False)
    redefine(machine, lambda document: document.replace("discard='unmap'", "discard='unmap' detect_zeroes='on'"))
    stack.host.virsh("start", machine.name, "--paused")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")

    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")

    assert detects_zeroes(machine) == "on"
    assert "detect_zeroes" not in migration.condition("Succeeded")["message"]
    wait_until(lambda: not machine.has_journal(), "the disk is free")


def detects_zeroes(machine: Machine) -> str:
    """Return what QEMU does with zeroes that the guest writes."""
    printed = machine.host.virsh("qemu-monitor-command", machine.name, json.dumps({"execute": "query-block"}))
    [inserted] = [
        device["inserted"] for device in json.loads(printed)["return"] if "virtio-disk0" in device.get("qdev", "")
    ]
    return str(inserted["detect_zeroes"])
