"""The kernel tells whether a volume was written to, by whatever name or node."""

import os
import subprocess
from pathlib import Path

import pytest

from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.agent.storage.write_marks import write_mark
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError
from tests.integration.own_dev import in_own_dev
from tests.integration.storage.conftest import OWNER

MIB = 2**20


@pytest.fixture
def volume(driver: FileDriver | LoopDriver) -> Path:
    driver.create("v", 16 * MIB, OWNER)
    path = driver.path("v")
    qemu_img.create(Image(path, VolumeFormat.QCOW2, driver.type), 16 * MIB, backing=None)
    return path


def qemu_io(*options: str) -> list[str]:
    return ["qemu-io", "-f", "qcow2", *options]


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("command", ["write -P 7 1M 64k", "write -z 1M 64k", "discard 0 1M"])
def test_a_write_changes_it(volume: Path, command: str, cache: str) -> None:
    subprocess.run([*qemu_io("-c", "write -P 1 0 1M"), str(volume)], check=True)
    before = write_mark(volume)
    assert before is not None
    subprocess.run([*qemu_io("-d", "unmap", "-t", cache, "-c", command), str(volume)], check=True)
    assert write_mark(volume) not in (None, before)


def test_a_write_through_a_device_node_of_its_own_changes_it(loop_driver: LoopDriver, scratch: Path) -> None:
    device = loop_driver.create("v", 16 * MIB, OWNER)
    own_dev = scratch / "own-dev"
    own_dev.mkdir()
    before = write_mark(device)
    command = ["qemu-io", "-f", "raw", "-t", "none", "-c", "write 0 4k"]
    subprocess.run(in_own_dev(device, own_dev, command), check=True)
    assert write_mark(device) != before


def test_a_write_that_still_lies_in_the_page_cache_changes_it(volume: Path) -> None:
    before = write_mark(volume)
    descriptor = os.open(volume, os.O_WRONLY)
    try:
        os.pwrite(descriptor, b"x", 8 * MIB)
        assert write_mark(volume) != before
    finally:
        os.close(descriptor)


def test_who_only_reads_or_opens_changes_nothing(volume: Path) -> None:
    before = write_mark(volume)
    subprocess.run([*qemu_io("-r", "-c", "read 0 16M"), str(volume)], check=True)
    subprocess.run([*qemu_io("-c", "read 0 16M"), str(volume)], check=True)
    assert write_mark(volume) == before


def test_a_device_that_was_attached_anew_is_another_one(loop_driver: LoopDriver) -> None:
    device = loop_driver.create("v", 16 * MIB, OWNER)
    before = write_mark(device)
    subprocess.run(["losetup", "--detach", device], check=True)
    loop_driver.activate("v")
    assert write_mark(device) != before


def test_what_is_not_there_has_no_mark(tmp_path: Path) -> None:
    with pytest.raises(MigrationError):
        write_mark(tmp_path / "v")
