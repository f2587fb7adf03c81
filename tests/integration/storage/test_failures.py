"""What the kernel refuses becomes the project's own error, in whatever call of whatever method it does so."""

import errno
import fcntl
import inspect
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diskmigration.agent.storage import command
from diskmigration.agent.storage.driver import NoRoomError, StorageDriver
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.lvm.lvm_driver import LvmDriver
from diskmigration.api.errors import MigrationError, Reason
from tests.integration.storage.conftest import OWNER

MIB = 2**20
VOLUME = "v"
FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
AWAY = [errno.ESTALE, errno.EIO, errno.EACCES]
CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in ("stat", "lstat", "fstat", "open", "scandir", "statvfs", "ftruncate")),
    *((os, name) for name in ("unlink", "readlink", "symlink", "rename", "mkdir")),
    (fcntl, "ioctl"),
    (subprocess, "Popen"),
]
"""The system calls that the drivers make, and the start of a program."""

METHODS = sorted(
    name
    for name, method in inspect.getmembers(StorageDriver, callable)
    if not name.startswith("_") and name not in ("name", "type")
)


class Injected:
    """Has one call fail of those that are made within a block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.counted = 0
        self._number = number
        self._fails_at: int | None = None
        for module, name in CALLS:
            monkeypatch.setattr(module, name, self._wrapped(getattr(module, name)))

    @contextmanager
    def failing(self, position: int | None) -> Iterator[None]:
        """Counts the calls from 0 on, and has the one at the position fail, if any."""
        self.counted, self._fails_at = 0, position
        try:
            yield
        finally:
            self._fails_at = None

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.counted += 1
            if self._fails_at == self.counted - 1:
                raise OSError(self._number, os.strerror(self._number))
            return call(*arguments, **named)

        return wrapped


def run(driver: StorageDriver, method: str, path: Path) -> MigrationError | None:
    """Calls the method, and returns what it raised as it may; each argument has what fits its name."""
    known: dict[str, Any] = {
        "volume": VOLUME,
        "volumes": [VOLUME],
        "size_bytes": 2 * MIB,
        "owner": OWNER,
        "node": OWNER.node,
        "path": path,
    }
    call = getattr(driver, method)
    wanted = [name for name, each in inspect.signature(call).parameters.items() if each.default is each.empty]
    try:
        call(**{name: known[name] for name in wanted})
    except MigrationError as error:
        return error
    return None


def check_each_call(driver: FileDriver | LoopDriver, monkeypatch: pytest.MonkeyPatch, method: str, number: int) -> None:
    path = driver.create(VOLUME, MIB, OWNER)
    injected = Injected(monkeypatch, number)
    with injected.failing(None):
        run(driver, method, path)
    for position in range(injected.counted):
        driver.create(VOLUME, MIB, OWNER)
        with injected.failing(position):
            error = run(driver, method, path)
        if error is not None:
            assert error.reason is Reason.STORAGE_FAILED
            assert number in FULL or not isinstance(error, NoRoomError)
            assert os.strerror(number) in error.message


@pytest.mark.parametrize("number", [AWAY[0], FULL[0]], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("method", METHODS)
def test_no_error_of_the_kernel_leaves_a_driver_as_it_is(
    driver: FileDriver | LoopDriver, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    check_each_call(driver, monkeypatch, method, number)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EACCES, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.__getitem__
)
@pytest.mark.parametrize("method", METHODS)
def test_no_other_error_of_the_kernel_leaves_a_driver_as_it_is(
    driver: FileDriver | LoopDriver, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    check_each_call(driver, monkeypatch, method, number)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.EIO], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("method", METHODS)
def test_no_error_at_the_start_of_a_program_leaves_the_lvm_driver(
    monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    injected = Injected(monkeypatch, number)
    for position in range(4):
        # A group that failed is not asked again for a while.
        group = f"group-{method}-{number}-{position}"
        with injected.failing(position):
            error = run(LvmDriver("pool", group), method, Path(f"/dev/{group}/v"))
        assert error is None or error.reason is Reason.STORAGE_FAILED


@pytest.mark.parametrize("number", AWAY, ids=errno.errorcode.__getitem__)
def test_a_path_that_cannot_be_looked_at_is_not_taken_for_somebody_elses(
    driver: FileDriver | LoopDriver, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = driver.create(VOLUME, MIB, OWNER)
    injected = Injected(monkeypatch, number)
    with injected.failing(0), pytest.raises(MigrationError, match=os.strerror(number)):
        driver.volume_at(path)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file that this process or a program of its grows may become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_become_as_large_is_no_room(loop_driver: LoopDriver) -> None:
    with file_size_limit(8 * MIB), pytest.raises(NoRoomError, match="use another storage domain"):
        loop_driver.create(VOLUME, 16 * MIB, OWNER)


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "df -i"), (errno.EDQUOT, "quota"), (errno.EFBIG, "another storage domain")]
)
def test_a_program_that_could_not_write_says_what_to_free(number: int, advice: str) -> None:
    said = f"qemu-img: error while writing at byte 0: {os.strerror(number)}"
    with pytest.raises(NoRoomError, match=advice) as found:
        command.run(["sh", "-c", f"echo '{said}' >&2; exit 1"], doing="copying")
    assert said in found.value.message
