"""The disk of a VM that is shut off moves too, and one that ends or starts in mid-migration changes only the way."""

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from testbed.processes import TestbedError
from tests.integration.hosts import needs_own_dev
from tests.integration.migrations.growth import synchronized
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.integration.own_dev import in_own_dev
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b"), ("file-a", "file-b"), ("loop-a", "loop-b")]
SLOW = {"bandwidth": 1024 * 1024}
"""So that there is a midst."""


def start(machine: Machine) -> None:
    machine.host.virsh("start", machine.name, "--paused")


def destroy(machine: Machine) -> None:
    machine.host.virsh("destroy", machine.name)


def is_copying(stack: Stack, migration: Migration, to: str) -> bool:
    """Whether qemu-img is in the midst of the active layer."""
    status = migration.status()
    return bool(status.get("phase") == "Replicating" and status["progress"]["copiedBytes"] > 0)


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS, 2))
@pytest.mark.parametrize("chain", first_by_day([3, 1]))
def test_a_shut_off_vms_disk_moves(stack: Stack, machines: Machines, source: str, destination: str, chain: int) -> None:
    machine = machines(source, chain=chain, start=False)
    migration = stack.migrate(machine, destination)
    status = migration.succeed()
    assert status["progress"]["percent"] == 100
    assert machine.state() == "shut off"
    start(machine)
    assert_moved(stack, machine, source, destination, migration.uid, length=chain)
    machine.verify()


@pytest.mark.nightly
def test_what_else_stands_in_the_vms_xml_stays_there(stack: Stack, machines: Machines) -> None:
    """The persistent XML is written anew by a cold pivot: with parts that are not libvirt's own words too."""
    machine = machines("file-a", start=False)
    # QEMU refuses to start where it does not get its options as they are.
    options = ["-name", "debug-threads=on", "-global", 'virtio-blk-pci.serial=it\'s <a> & "b"']
    arguments = "".join(f"<qemu:arg value={quoteattr(option)}/>" for option in options)
    namespaces = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' xmlns:own='https://example.com/own'"
    document = machine.xml(inactive=True).replace("<domain ", f"<domain {namespaces} ", 1)
    document = document.replace(
        "</domain>",
        "<metadata><own:note own:by='&quot;me&quot;'>kept &amp; whole</own:note></metadata>"
        f"<description>line 1\nline &lt;2&gt;</description><qemu:commandline>{arguments}</qemu:commandline></domain>",
    )
    path = stack.domains["file-a"].directory / "odd.xml"
    path.write_text(document)
    machine.host.virsh("define", str(path))
    before = elements(machine)
    assert any(tag.endswith("}commandline") for tag, *_ in before)

    migration = stack.migrate(machine, "file-b")
    migration.succeed()
    wait_until(lambda: not machine.has_journal(), "the journal is erased")

    source = made_volume(migration.uid, 0)
    changed = [(old, new) for old, new in zip(before, elements(machine), strict=True) if old != new]
    assert [(old[0], Path(new[1]["file"]).name) for old, new in changed] == [("source", source)]
    start(machine)
    machine.verify()


def elements(machine: Machine) -> list[tuple[str, dict[str, str], str]]:
    """All that the persistent XML says, in its order."""
    document = ET.fromstring(machine.xml(inactive=True))
    return [(element.tag, element.attrib, (element.text or "").strip()) for element in document.iter()]


@pytest.mark.parametrize(
    ("spec", "chain", "length", "image_format"),
    first_by_day(
        [
            ({"backingChain": "Flatten", "destination": {"format": "raw"}}, 2, 1, "raw"),
            ({"destination": {"provisioning": "Thick"}}, 1, 1, "qcow2"),
            ({"strategy": "Direct"}, 2, 2, "qcow2"),
            ({"backingChain": "Flatten"}, 3, 1, "qcow2"),
            ({"copyMode": "WriteBlocking"}, 1, 1, "qcow2"),
        ],
        2,
    ),
    ids=["raw", "thick", "direct", "flatten", "write-blocking"],
)
@pytest.mark.parametrize("base_format", first_by_day(["qcow2", "raw"]))
def test_every_wish_is_met_cold(
    stack: Stack,
    machines: Machines,
    spec: dict[str, Any],
    chain: int,
    length: int,
    image_format: str,
    base_format: str,
) -> None:
    machine = machines("file-a", chain=chain, base_format=base_format, start=False)
    migration = stack.migrate(machine, "loop-b", **spec)
    migration.succeed()
    start(machine)
    assert_moved(stack, machine, "file-a", "loop-b", migration.uid, length=length, image_format=image_format)
    machine.verify()


@pytest.mark.parametrize("strategy", first_by_day(["Snapshot", "Direct"]))
@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS[:2]))
def test_a_vm_that_ends_in_mid_migration_is_finished_cold(
    stack: Stack, machines: Machines, source: str, destination: str, strategy: str
) -> None:
    machine = machines(source, chain=2)
    migration = synchronized(stack, machine, destination, strategy=strategy)
    machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
    destroy(machine)
    wait_until(lambda: migration.phase() == "Synchronized", "it waits for its cutover still")
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    start(machine)
    assert_moved(stack, machine, source, destination, migration.uid, length=2)
    machine.verify()


@pytest.mark.nightly
def test_a_vm_that_starts_while_its_cutover_is_waited_for_goes_on_live(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2, start=False)
    migration = synchronized(stack, machine, "loop-b")
    start(machine)
    machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
    wait_until(lambda: "<mirror" in machine.xml(), "what it writes is mirrored")
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    assert_moved(stack, machine, "file-a", "loop-b", migration.uid, length=2)
    machine.verify()


def test_what_a_vm_wrote_between_a_cold_copy_and_its_cutover_moves_too(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", start=False)
    migration = synchronized(stack, machine, "loop-b")
    with stack.agent.frozen():
        start(machine)
        machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
        destroy(machine)
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    start(machine)
    machine.verify()


@pytest.mark.parametrize("destination", first_by_day(["loop-b", "file-b"]))
def test_a_vm_cannot_start_in_the_midst_of_the_copy_of_a_file_and_can_at_once_when_that_is_cancelled(
    stack: Stack, machines: Machines, destination: str
) -> None:
    machine = machines("file-a", start=False)
    files = stack.domains["file-a"].files()
    migration = stack.migrate(machine, destination, **SLOW)
    wait_until(lambda: is_copying(stack, migration, destination), "the copy is under way")
    with pytest.raises(TestbedError, match="lock"):
        start(machine)
    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    assert stack.domains["file-a"].files() == files
    assert stack.domains[destination].files() == []
    start(machine)
    machine.verify()


BLOCK_SOURCES = ["file-b", pytest.param("loop-b", marks=pytest.mark.nightly)]


def started_in_the_midst(stack: Stack, machine: Machine, destination: str) -> Migration:
    """A migration whose VM starts, and changes what was copied already."""
    migration = stack.migrate(machine, destination, **SLOW)
    wait_until(lambda: is_copying(stack, migration, destination), "the copy is under way")
    start(machine)
    machine.write(offset=0, length=MEBIBYTE, pattern=99)
    machine.written[MEBIBYTE] = (4 * MEBIBYTE, 1)
    return migration


@needs_own_dev
@pytest.mark.parametrize("destination", BLOCK_SOURCES)
def test_what_a_vm_on_block_storage_wrote_in_the_midst_of_its_copy_moves_too(
    stack: Stack, machines: Machines, destination: str
) -> None:
    machine = machines("loop-a", start=False)
    migration = started_in_the_midst(stack, machine, destination)
    destroy(machine)
    migration.patch({"bandwidth": None})
    assert migration.succeed()["attempts"] == 1
    start(machine)
    assert_moved(stack, machine, "loop-a", destination, migration.uid, length=1)
    machine.verify()


@needs_own_dev
@pytest.mark.parametrize("destination", BLOCK_SOURCES)
def test_a_vm_on_block_storage_that_starts_in_the_midst_of_its_copy_goes_on_live(
    stack: Stack, machines: Machines, destination: str
) -> None:
    machine = machines("loop-a", start=False)
    migration = started_in_the_midst(stack, machine, destination)
    wait_until(lambda: "<mirror" in machine.xml(), "what it writes is mirrored")
    migration.patch({"bandwidth": None})
    assert migration.succeed()["attempts"] == 1
    assert_moved(stack, machine, "loop-a", destination, migration.uid, length=1)
    machine.verify()


@pytest.mark.nightly
@needs_own_dev
def test_a_vm_on_block_storage_that_starts_in_the_midst_of_its_copy_can_be_left_where_it_is(
    stack: Stack, machines: Machines
) -> None:
    machine = machines("loop-a", start=False)
    files = stack.domains["loop-a"].files()
    migration = started_in_the_midst(stack, machine, "file-b")
    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    assert stack.domains["loop-a"].files() == files
    assert stack.domains["file-b"].files() == []
    machine.verify()


@pytest.mark.parametrize("kind", first_by_day(["file-a", "loop-a"]))
def test_a_disk_that_somebody_writes_to_is_refused(stack: Stack, machines: Machines, scratch: Path, kind: str) -> None:
    """Somebody with a /dev of his own, as a QEMU that libvirt does not know has it."""
    machine = machines(kind, start=False)
    [volume] = machine.volumes
    qemu_io = ["qemu-io", "-f", "qcow2"]
    command = in_own_dev(volume, scratch, qemu_io) if kind == "loop-a" else [*qemu_io, str(volume)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print("length", file=process.stdin, flush=True)
        assert "MiB" in process.stdout.readline()
        try:
            failure = stack.migrate(machine, "file-b").wait_for_phase("Failed")["failure"]
        finally:
            process.communicate("quit\n")
    assert failure["reason"] == "DiskBusy"
    assert str(volume) in failure["message"]
    assert f"process {process.pid} (qemu-io)" in failure["message"]
    start(machine)
    machine.verify()


@pytest.mark.nightly
def test_a_cold_copy_that_lost_its_agent_is_made_again(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2, start=False)
    migration = stack.migrate(machine, "loop-b", **SLOW)
    wait_until(lambda: is_copying(stack, migration, "loop-b"), "the copy is under way")
    stack.agent.kill()
    try:
        start(machine)
        machine.write(offset=11 * MEBIBYTE, length=MEBIBYTE, pattern=77)
        machine.written[10 * MEBIBYTE] = (MEBIBYTE, 2)
        machine.written[12 * MEBIBYTE] = (3 * MEBIBYTE, 2)
        destroy(machine)
    finally:
        stack.agent.start()
    migration.patch({"bandwidth": None})
    status = migration.succeed()
    assert status["attempts"] == 1
    start(machine)
    assert_moved(stack, machine, "file-a", "loop-b", migration.uid, length=2)
    machine.verify()


def test_a_vm_with_saved_memory_is_refused(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    machine.host.virsh("managedsave", machine.name)
    migration = stack.migrate(machine, "file-b")
    failure = migration.wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "DiskBusy"
    assert "managedsave-remove" in failure["message"]
    start(machine)
    machine.verify()


@pytest.mark.nightly
def test_nothing_is_changed_while_a_vm_is_saved_in_mid_migration(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "loop-b", bandwidth=512 * 1024)
    migration.wait_for_phase("CopyingChain")
    machine.host.virsh("managedsave", machine.name)
    migration.patch({"bandwidth": None})
    wait_until(lambda: "memory saved" in migration.condition("Succeeded")["message"], "it says what it waits for")
    machine.host.virsh("start", machine.name)
    migration.succeed()
    machine.verify()


def test_a_chain_that_leaves_the_storage_domain_is_refused(stack: Stack, machines: Machines) -> None:
    below = stack.domains["file-a"].root.parent / "outside.qcow2"
    machines_own = machines("file-a")
    below.write_bytes(machines_own.volumes[0].read_bytes())
    machine = machines("file-a", below=(below, "qcow2"), start=False)
    migration = stack.migrate(machine, "file-b")
    failure = migration.wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "SourceNotInStorageDomain"
    assert str(below) in failure["message"]
    below.unlink()


def test_a_shut_off_vms_disk_that_lives_at_the_destination_needs_no_move(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", start=False)
    status = stack.migrate(machine, "file-a").succeed()
    assert next(c for c in status["conditions"] if c["type"] == "Succeeded")["reason"] == "AlreadyAtDestination"
