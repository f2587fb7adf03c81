"""Who writes to a volume is told by QEMU's own locks and by /proc, whatever its format and wherever it lies."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.image_locks import ImageInUseError, is_written_to, writers_kept_out, writers_of_any
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError
from tests.integration.own_dev import in_own_dev
from tests.integration.storage.conftest import OWNER

MIB = 2**20


@contextmanager
def opened(path: Path, image_format: str, *options: str, own_dev: Path | None = None) -> Iterator[None]:
    """A QEMU that has the volume open, perhaps by a node of its own."""
    qemu_io = ["qemu-io", "-f", image_format, *options]
    command = [*qemu_io, str(path)] if own_dev is None else in_own_dev(path, own_dev, qemu_io)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print("length", file=process.stdin, flush=True)
        assert "MiB" in process.stdout.readline()
        yield
        process.communicate("quit\n")


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_writer_is_seen_for_as_long_as_it_is_there(driver: FileDriver | LoopDriver, image_format: str) -> None:
    driver.create("v", 4 * MIB, OWNER)
    path = driver.path("v")
    qemu_img.create(Image(path, VolumeFormat(image_format), driver.type), 4 * MIB, backing=None)
    assert not is_written_to(path)
    with opened(path, image_format):
        assert is_written_to(path)
    assert not is_written_to(path)


def test_a_writer_with_a_device_node_of_its_own_is_seen(loop_driver: LoopDriver, scratch: Path) -> None:
    loop_driver.create("v", 4 * MIB, OWNER)
    path = loop_driver.path("v")
    own_dev = scratch / "own-dev"
    own_dev.mkdir()
    with opened(path, "raw", own_dev=own_dev):
        with pytest.raises(ImageInUseError, match="qemu-io"), writers_kept_out(path):
            pass
        assert is_written_to(path)
    with writers_kept_out(path):
        pass


def test_a_volume_that_cannot_be_read_is_no_volume_that_nobody_writes_to(tmp_path: Path) -> None:
    (tmp_path / "v").symlink_to("v")
    with pytest.raises(MigrationError):
        is_written_to(tmp_path / "v")


def test_who_has_it_open_for_a_moment_is_no_writer(driver: FileDriver | LoopDriver) -> None:
    driver.create("v", 4 * MIB, OWNER)
    path = driver.path("v")
    qemu_img.create(Image(path, VolumeFormat.RAW, driver.type), 4 * MIB, backing=None)
    with ExitStack() as scanner:
        looks = []
        scanner.enter_context(opened(path, "raw"))

        def end(seconds: float) -> None:
            looks.append(seconds)
            scanner.close()

        assert not writers_of_any([path], wait=end)
        assert len(looks) == 1


def test_who_only_reads_is_no_writer(driver: FileDriver | LoopDriver) -> None:
    driver.create("v", 4 * MIB, OWNER)
    path = driver.path("v")
    qemu_img.create(Image(path, VolumeFormat.QCOW2, driver.type), 4 * MIB, backing=None)
    with opened(path, "qcow2", "-r"):
        assert not is_written_to(path)


def test_what_is_not_there_is_not_written_to(tmp_path: Path) -> None:
    assert not is_written_to(tmp_path / "v")


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_nobody_begins_to_write_while_writers_are_kept_out(driver: FileDriver | LoopDriver, image_format: str) -> None:
    driver.create("v", 4 * MIB, OWNER)
    path = driver.path("v")
    qemu_img.create(Image(path, VolumeFormat(image_format), driver.type), 4 * MIB, backing=None)
    with writers_kept_out(path):
        refused = subprocess.run(
            ["qemu-io", "-f", image_format, "-c", "quit", str(path)], check=False, capture_output=True, text=True
        )
        assert "lock" in refused.stderr
        with opened(path, image_format, "-r"):
            pass
    with opened(path, image_format), pytest.raises(ImageInUseError), writers_kept_out(path):
        pass
    with opened(path, image_format):
        assert is_written_to(path)
