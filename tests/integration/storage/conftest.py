"""Storage domains on a real file system, with real loop devices (root is needed); what a test leaves is detached."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from diskmigration.agent.storage.driver import Owner
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from tests.integration.migrations.stack import wait_until

OWNER = Owner(migration="m", virtual_machine="v", node="n")


def attached(root: Path) -> dict[str, str]:
    """Each loop device with a file below the root: its path, and the file's."""
    printed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE"], capture_output=True, text=True, check=True
    ).stdout
    pairs = (line.split(maxsplit=1) for line in printed.splitlines())
    return {device: backing.strip() for device, backing in pairs if backing.startswith(f"{root}/")}


@pytest.fixture
def root(scratch: Path) -> Iterator[Path]:
    made = scratch / "domain"
    made.mkdir()
    yield made
    for device in attached(scratch):
        # One that was removed goes by itself in the meantime.
        subprocess.run(["losetup", "--detach", device], check=False)
    wait_until(lambda: attached(scratch) == {}, "every loop device is detached")


@pytest.fixture
def file_driver(root: Path) -> FileDriver:
    return FileDriver("nfs", root)


@pytest.fixture
def loop_driver(root: Path) -> LoopDriver:
    return LoopDriver("san", root)


@pytest.fixture(params=["file", "loop"])
def driver(request: pytest.FixtureRequest, file_driver: FileDriver, loop_driver: LoopDriver) -> FileDriver | LoopDriver:
    return file_driver if request.param == "file" else loop_driver
