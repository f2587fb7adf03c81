"""Storage domains on a real file system, with real loop devices (root is needed); what a test leaves is detached."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diskmigration.agent.storage.driver import Owner
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from tests.integration import loop_devices

OWNER = Owner(migration="m", virtual_machine="v", node="n")


@pytest.fixture
def root(scratch: Path) -> Iterator[Path]:
    made = scratch / "domain"
    made.mkdir()
    yield made
    loop_devices.detach(scratch)


@pytest.fixture
def file_driver(root: Path) -> FileDriver:
    return FileDriver("nfs", root)


@pytest.fixture
def loop_driver(root: Path) -> LoopDriver:
    return LoopDriver("san", root)


@pytest.fixture(params=["file", "loop"])
def driver(request: pytest.FixtureRequest, file_driver: FileDriver, loop_driver: LoopDriver) -> FileDriver | LoopDriver:
    return file_driver if request.param == "file" else loop_driver
