"""VMs and volumes with names that a shell, a program's options, QEMU or XML would take for something else."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.processes import TestbedError
from tests.integration.migrations.machines import CAPACITY_BYTES, Machine
from tests.integration.migrations.moves import assert_moved, move
from tests.integration.migrations.stack import NAMESPACE, Migration, Stack
from tests.integration.migrations.test_refusals import refuse
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

DIRECTIONS = [("file-a", "loop-b"), ("loop-a", "file-b")]
ODD = [
    "it's",
    'say "hi"',
    "a & <b> &amp; ]]>",
    " white  space ",
    "\u00e9\u4e2d\U0001f600\u202e\ufeff",
    "--all",
    "-f",
    "...",
    "..\\..\\x",
    "$(reboot); `reboot` | reboot",
    "%s%n",
    "nbd:localhost:1",
    'json:{"driver": "null-co"}',
    "v,file.filename=x,,",
    "fat:rw:x?*[!]~#",
]


@pytest.mark.parametrize(
    ("name", "source", "destination"),
    first_by_day(((name, *direction) for name, direction in zip(ODD, itertools.cycle(DIRECTIONS), strict=False)), 2),
)
def test_a_disk_moves_whatever_its_vm_and_its_volumes_are_called(
    stack: Stack, machines: Machines, name: str, source: str, destination: str
) -> None:
    machine = machines(source, chain=2, name=name, volume_names=(name, f"{name}.top"))
    uid = move(stack, machine, destination)
    machine.verify()
    assert_moved(stack, machine, source, destination, uid, length=2)


def test_a_node_with_every_odd_vm_at_once_is_known_in_full(stack: Stack, machines: Machines) -> None:
    made = [machines("file-a", name=name, volume_names=(name,), start=False) for name in ODD]
    known = {machine.uuid: machine.name for machine in made}

    def found() -> dict[str, str]:
        inventory = stack.host_object().get("status", {}).get("virtualMachines", [])
        return {each["uuid"]: each["name"] for each in inventory if each["uuid"] in known}

    wait_until(lambda: found() == known, "the LibvirtHost has them all, by their names")


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(DIRECTIONS))
def test_names_may_be_as_long_as_libvirt_and_the_file_system_take_them(
    stack: Stack, machines: Machines, source: str, destination: str
) -> None:
    with pytest.raises(TestbedError, match="File name too long"):
        machines(source, name="n" * 250, volume_names=("n" * 255,), start=False)
    machine = machines(source, name="n" * 240, volume_names=("n" * 254,))
    uid = move(stack, machine, destination)
    machine.verify()
    assert machine.chain()[0][0].endswith(made_volume(uid, 0))


@pytest.mark.parametrize(
    ("name", "words"), [("a/b", "cannot contain '/'"), ("../x", "cannot contain '/'"), ("a\nb", "invalid char in name")]
)
def test_names_that_libvirt_itself_refuses(machines: Machines, name: str, words: str) -> None:
    with pytest.raises(TestbedError, match=words):
        machines("file-a", name=name, volume_names=("v",), start=False)


@pytest.mark.nightly
def test_a_vm_with_a_tab_in_its_name_is_called_by_its_uuid(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", name="a\tb", volume_names=("v",))
    with pytest.raises(TestbedError, match=r"virtualMachine\.name"):
        stack.migrate(machine, "file-b")
    stack.migrate(machine, "file-b", virtualMachine={"uuid": machine.uuid}).succeed()
    machine.verify()


@pytest.mark.parametrize("character", first_by_day(["\n", "\t", "\r"]))
def test_a_volume_whose_name_libvirt_does_not_keep_is_refused_and_no_other_is_taken_for_it(
    stack: Stack, machines: Machines, character: str
) -> None:
    # An XML parser reads libvirt's XML of the one as the name of the other.
    other = machines("file-a", volume_names=("a b",), start=False)
    machine = machines("file-a", volume_names=(f"a{character}b",))
    refuse(stack, machine, "DiskNotSupported", repr(f"a{character}b")[1:-1], "control character")
    machine.host.virsh("start", other.uuid, "--paused")
    other.verify()


def test_a_name_that_is_no_utf_8_stops_no_other_migration(stack: Stack, machines: Machines, scratch: Path) -> None:
    """One that a volume's header names below it, in a place of no storage domain."""
    below = Path(os.fsdecode(bytes(scratch / "b") + b"\xe9.qcow2"))
    _run("qemu-img", "create", "-q", "-f", "qcow2", scratch / "plain", str(CAPACITY_BYTES))
    (scratch / "plain").rename(below)
    odd, ordinary = machines("file-a", start=False), machines("file-a")
    _run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, odd.volumes[-1])

    refused = stack.migrate(odd, "file-b")
    wait_until(lambda: refused.status().get("nodeName"), "it is handed over")
    moved = stack.migrate(ordinary, "file-b")

    moved.succeed()
    ordinary.verify()
    failure = refused.wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "SourceNotInStorageDomain"
    assert f"{scratch}/b\\xe9.qcow2" in failure["message"]
    wait_until(lambda: any("\\xe9.qcow2" in note for note in _notes(stack, refused)), "an Event says so, too")


def _notes(stack: Stack, migration: Migration) -> list[str]:
    printed = stack.control_plane.kubectl("get", "events.events.k8s.io", f"--namespace={NAMESPACE}", "--output=json")
    return [each["note"] for each in json.loads(printed)["items"] if each["regarding"]["name"] == migration.name]


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def test_a_message_can_be_pasted_into_a_shell(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", name="$(reboot)", volume_names=("v",))
    copy = stack.domains["file-a"].root / "copy"
    stack.host.virsh("blockcopy", machine.uuid, "vda", f"--dest={copy}", "--format=qcow2", "--transient-job")
    wait_until(lambda: "ready='yes'" in machine.xml(), "the foreign copy is ready")
    refuse(stack, machine, "DiskBusy", "`virsh blockjob '$(reboot)' vda --abort`")
    stack.host.virsh("blockjob", machine.uuid, "vda", "--abort")
