"""Disks at the limits of QEMU, libvirt and file systems: long chains, and sizes that not every volume can have."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Domain, Machine
from tests.integration.migrations.small import mount_for_all
from tests.integration.migrations.stack import Stack, make_domain, storage_domain
from tests.integration.migrations.test_refusals import assert_refused, refuse, untouched
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

LAYER_BYTES = 65536


def with_chain(stack: Stack, machines: Machines, length: int, *, start: bool) -> Machine:
    """A VM whose disk has so many layers, each with data of its own."""
    domain, name = stack.domains["file-a"], f"deep-{uuid.uuid4().hex[:8]}"
    layers: list[Path] = []
    written: dict[int, tuple[int, int]] = {}
    for position in range(length - 1):
        path = domain.make_volume(f"{name}-{position:03}", 0)
        backing = ["-u", "-b", str(layers[-1]), "-F", "qcow2"] if layers else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path, str(CAPACITY_BYTES)], check=True)
        offset, pattern = 64 * MEBIBYTE + position * LAYER_BYTES, position % 250 + 1
        backing_off = f"driver=qcow2,file.driver=file,file.filename={path},backing="
        subprocess.run(
            ["qemu-io", "--image-opts", "-c", f"write -P {pattern} {offset} {LAYER_BYTES}", backing_off],
            check=True,
            capture_output=True,
        )
        written[offset] = (LAYER_BYTES, pattern)
        layers.append(path)
    machine = machines("file-a", below=(layers[-1], "qcow2"), start=start)
    machine.written |= written
    return machine


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("length", "runs", "spec"),
    [
        (30, True, {}),
        pytest.param(100, True, {}, marks=pytest.mark.nightly),
        pytest.param(100, False, {}, marks=pytest.mark.nightly),
        pytest.param(100, True, {"backingChain": "Flatten"}, marks=pytest.mark.nightly),
        pytest.param(199, True, {}, marks=pytest.mark.nightly),
        pytest.param(200, True, {"strategy": "Direct"}, marks=pytest.mark.nightly),
        pytest.param(250, False, {"backingChain": "Flatten"}, marks=pytest.mark.nightly),
    ],
)
def test_a_long_chain_moves(stack: Stack, machines: Machines, length: int, runs: bool, spec: dict[str, Any]) -> None:
    machine = with_chain(stack, machines, length, start=runs)

    stack.migrate(machine, "file-b", **spec).succeed(seconds=60 + 4 * length)

    if not runs:
        stack.host.virsh("start", machine.name, "--paused")
    assert len(machine.chain()) == (1 if "backingChain" in spec else length)
    machine.verify()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_chain_that_libvirt_cannot_take_a_snapshot_of(stack: Stack, machines: Machines) -> None:
    machine = with_chain(stack, machines, 200, start=True)
    # To read it back through QEMU, a piece a layer, takes minutes.
    with untouched(stack, machine, reads=False):
        assert_refused(stack.migrate(machine.name, "file-b"), "DiskNotSupported", "200 layers", "strategy: Direct")


def of_size(stack: Stack, machines: Machines, size: str, *, chain: int = 1) -> Machine:
    """A running VM with a disk of that size and some data."""
    machine = machines("file-a", chain=chain, start=False)
    for position, volume in enumerate(machine.volumes):
        backing = ["-u", "-b", str(machine.volumes[position - 1]), "-F", "qcow2"] if position else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, volume, size], check=True)
        offset = position * 10 * MEBIBYTE
        write = f"write -P {position + 1} {offset} {5 * MEBIBYTE}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, volume], check=True, capture_output=True)
    stack.host.virsh("start", machine.name, "--paused")
    return machine


# A mirror of a whole disk, as without a snapshot, writes zeroes over all of it first: of 100 TiB that takes hours.
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("size", "spec"),
    [
        ("100T", {"copyMode": "Auto"}),
        pytest.param("100T", {"copyMode": "Background"}, marks=pytest.mark.nightly),
        pytest.param("64T", {"copyMode": "WriteBlocking"}, marks=pytest.mark.nightly),
    ],
)
def test_a_large_disk_moves(stack: Stack, machines: Machines, size: str, spec: dict[str, Any]) -> None:
    machine = of_size(stack, machines, size)
    status = stack.migrate(machine, "file-b", **spec).succeed(seconds=150)
    assert status["attempts"] == 1
    machine.verify()


@pytest.mark.parametrize(("chain", "strategy"), first_by_day([(1, "Snapshot"), (2, "Direct")]))
def test_a_disk_that_is_too_large_to_be_write_blocking(
    stack: Stack, machines: Machines, chain: int, strategy: str
) -> None:
    machine = of_size(stack, machines, "65T", chain=chain)
    spec = {"copyMode": "WriteBlocking", "strategy": strategy}
    refuse(stack, machine, "DiskNotSupported", "65.0Ti", "copyMode: Background", **spec)


@pytest.mark.nightly
def test_a_disk_that_is_too_large_for_the_clusters_of_its_destination(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", start=False)
    options = ["-o", "cluster_size=2M"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, machine.volumes[0], "3P"], check=True)
    machine.written.clear()
    stack.host.virsh("start", machine.name, "--paused")
    refuse(stack, machine, "DiskNotSupported", "2.0Pi", "clusters of 64 KiB")


@pytest.fixture
def small_files(stack: Stack, scratch: Path) -> Iterator[Domain]:
    """A storage domain on ext4 with blocks of 1 KiB, which has no files above 4 TiB."""
    domain = make_domain(scratch, "small-files", "file")
    image = scratch / "ext4"
    with image.open("wb") as opened:
        opened.truncate(64 * MEBIBYTE)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", image], check=True)
    with mount_for_all(stack.host, image, domain.root):
        domain.root.chmod(0o755)
        stack.apply(storage_domain(domain))
        wait_until(
            lambda: domain.name in [one["name"] for one in stack.host_object()["status"].get("storageDomains", [])],
            "the node has told of it",
        )
        yield domain
        stack.control_plane.kubectl("delete", "storagedomain", domain.name, "--ignore-not-found")


@pytest.mark.parametrize("size", ["5T", pytest.param("3T", marks=pytest.mark.nightly)])
def test_a_disk_that_is_too_large_for_the_files_of_its_destination(
    stack: Stack, machines: Machines, small_files: Domain, size: str
) -> None:
    machine = of_size(stack, machines, size)
    spec = {"destination": {"format": "raw"}, "backingChain": "Flatten"}
    if size == "5T":
        refuse(stack, machine, "DiskNotSupported", "5.0Ti", "small-files", to="small-files", **spec)
        assert small_files.files() == []
    # As long as it is thin, it may be as large as it likes.
    stack.migrate(machine, "small-files", **(spec if size == "3T" else {})).succeed(seconds=120)
    machine.verify()
    stack.migrate(machine, "file-b").succeed(seconds=120)
