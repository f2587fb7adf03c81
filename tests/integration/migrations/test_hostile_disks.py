"""What a guest may write to its disk to fool whoever moves it."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.guest.records import raw_copy
from tests.integration.migrations.machines import CAPACITY_BYTES, Machine
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.test_refusals import refuse
from tests.variants import first_by_day
from tests.waiting import wait_until


@pytest.mark.parametrize(
    "spec",
    first_by_day(
        [
            {"strategy": "Snapshot"},
            {"strategy": "Direct"},
            {"backingChain": "Flatten", "destination": {"format": "raw"}},
        ]
    ),
    ids=["snapshot", "direct", "to-raw"],
)
def test_a_qcow2_header_in_a_raw_disk_is_data_and_the_file_that_it_names_stays_unread(
    stack: Stack, machines: Callable[..., Machine], scratch: Path, spec: dict[str, Any]
) -> None:
    secret = scratch / "secret"
    secret.write_bytes(b"not for guests" * 4096)
    machine = machines("file-a", base_format="raw", start=False)
    [volume] = machine.volumes
    _plant_header(volume, names=secret)
    planted = _content(volume, "raw", scratch)
    machine.host.virsh("start", machine.name, "--paused")

    stack.migrate(machine, "file-b", **spec).succeed()
    first = machine.chain()
    wait_until(
        lambda: stack.shown_disks(machine).get("vda", {}).get("storageDomainName") == "file-b",
        "the inventory has it where it is",
    )
    stack.migrate(machine, "loop-b").succeed()
    second = machine.chain()
    machine.host.virsh("destroy", machine.name)

    assert len(first) == len(second) == 1
    assert str(secret) not in machine.xml()
    [(path, image_format)] = second
    assert _content(Path(path), image_format, scratch) == planted


@pytest.mark.parametrize(
    "spec", first_by_day([{"strategy": "Snapshot"}, {"strategy": "Direct"}, {"backingChain": "Flatten"}])
)
def test_a_file_that_a_header_names_below_the_whole_chain_stays_unread(
    stack: Stack, machines: Callable[..., Machine], scratch: Path, spec: dict[str, Any]
) -> None:
    secret = scratch / "secret"
    secret.write_bytes(b"not for guests" * 2**20)
    # The VM's XML ends the chain above it, and so the guest reads zeroes where the file would be.
    machine = machines("file-a", target_options="<backingStore/>", start=False)
    [volume] = machine.volumes
    subprocess.run(["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", volume], check=True)
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()

    stack.migrate(machine, "file-b", **spec).succeed()
    machine.verify()
    wait_until(lambda: not machine.has_journal(), "the disk is free")


def test_an_image_with_its_data_in_another_file_is_refused(
    stack: Stack, machines: Callable[..., Machine], scratch: Path
) -> None:
    machine = machines("file-a", start=False)
    [volume] = machine.volumes
    data = scratch / "data"
    options = ["-o", f"data_file={data},data_file_raw=on"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, volume, str(CAPACITY_BYTES)], check=True)
    machine.written.clear()
    # libvirt 9.0 does not know of it.
    stack.host.give_to_qemu(data)
    machine.host.virsh("start", machine.name, "--paused")
    refuse(stack, machine, "DiskNotSupported", "data in another file", str(volume))


def _plant_header(volume: Path, *, names: Path) -> None:
    crafted = volume.with_name(f"{volume.name}.crafted")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", names, "-F", "raw", crafted, str(CAPACITY_BYTES)],
        check=True,
    )
    with volume.open("r+b") as disk:
        disk.write(crafted.read_bytes())
    crafted.unlink()


def _content(volume: Path, image_format: str, scratch: Path) -> str:
    """The digest of all that the guest sees."""
    flat = scratch / "flat"
    raw_copy(volume, image_format, flat)
    with flat.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
