"""Which file is behind a loop device, as the kernel knows it.

The path that sysfs shows is not enough: it is seen from the mount namespace in which the device was attached, and so
leads nowhere from the pod that follows. The file is known by its file system and its inode (LOOP_GET_STATUS64, see
linux/loop.h), and the shown path only says where to look.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError
from diskmigration.agent.storage.failures import failure
from diskmigration.agent.storage.paths import found_at
from diskmigration.api.errors import MigrationError, Reason

SYSFS = Path("/sys/block")
_SYSFS_BY_NUMBER = Path("/sys/dev/block")
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_STATUS_BYTES = 232
_PAGE_BYTES = 4096
_MAJOR = 7
_IS_NOT_ATTACHED = frozenset({errno.ENXIO, errno.ENODEV, errno.ENOENT})
"""What a loop device answers that has no file; any other answer is that of a file which cannot be asked."""
_ANSWER_SECONDS = 15.0
"""The ioctl asks the server of a file that lies on NFS or FUSE. A machine that is busy answers within that time."""
_NEXT_ANSWER_SECONDS = 1.0
"""For those that are asked after one that has not answered: they lie on the same mount, probably."""
_ALL_SECONDS = 1.0
"""How long all are waited for together, before each is asked by itself."""

_reads = BoundedReads("loop-device")
_DEVICE_AND_INODE = struct.Struct("=QQ")


@dataclass(frozen=True)
class Backing:
    """The file behind a loop device; `shown_as` is its path, as somebody may see it."""

    shown_as: Path
    file_system: int
    inode: int

    def is_file(self, path: Path) -> bool:
        """Return whether that path leads to the file.

        Raises:
            MigrationError: StorageFailed, it cannot be told.
        """
        found = found_at(path)
        return found is not None and (found.st_dev, found.st_ino) == (self.file_system, self.inode)


def backing_of(device: Path) -> Backing | None:
    """The file behind the device; None for what is no attached loop device, a file that is named as one included.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    found = found_at(device)
    if found is None or not stat.S_ISBLK(found.st_mode):
        return None
    return _backing(device, _sysfs_entry(found), is_loop=os.major(found.st_rdev) == _MAJOR)


def file_within(device: Path, root: Path) -> Path | None:
    """Return the path below the directory of the file behind the device; None when it is not there.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    found = found_at(device)
    if found is None or not stat.S_ISBLK(found.st_mode):
        return None
    parts = _shown(_sysfs_entry(found)).parts
    below = (root.joinpath(*parts[first:]) for first in range(1, len(parts)))
    # To ask the device takes a thread, so it is asked only where one of the paths leads to some file.
    there = [path for path in below if found_at(path) is not None]
    backing = backing_of(device) if there else None
    return next((path for path in there if backing is not None and backing.is_file(path)), None)


def devices_named(name: str) -> Iterator[tuple[Path, Backing]]:
    """Return the loop devices with a file of that name behind them, whichever directory it is in."""
    for entry in _attached_entries():
        device = Path("/dev") / entry.name
        if _shown(entry).name == name and (backing := _backing(device, entry)) is not None:
            yield device, backing


@dataclass(frozen=True)
class Attached:
    """A loop device with a file behind it; `backing` is None where it does not tell which."""

    device: Path
    number: int
    backing: Backing | None


def attached() -> Iterator[Attached]:
    """Yield every loop device that has a file behind it."""
    try:
        # A thread for each would take longer than all their answers.
        yield from _reads.read("all", lambda: tuple(_attached(_asked)), seconds=_ALL_SECONDS)
    except NoAnswerError:
        yield from _attached(_Patience().ask)


def _attached(ask: Callable[[Path, Path], Backing | None]) -> Iterator[Attached]:
    for entry in _attached_entries():
        device = Path("/dev") / entry.name
        try:
            major, minor = map(int, _read(entry, "dev").split(b":"))
        except OSError:
            continue
        try:
            backing = ask(device, entry)
        except MigrationError:
            yield Attached(device, os.makedev(major, minor), None)
        else:
            if backing is not None:
                yield Attached(device, os.makedev(major, minor), backing)


@dataclass
class _Patience:
    """Asks one device after the other, and gives those after one that has not answered less time."""

    seconds: float = _ANSWER_SECONDS

    def ask(self, device: Path, entry: Path) -> Backing | None:
        try:
            return _backing(device, entry, seconds=self.seconds)
        except _SilentError:
            self.seconds = _NEXT_ANSWER_SECONDS
            raise


def _attached_entries() -> Iterator[Path]:
    """Yield the entry in sysfs of every loop device that has a file. The kernel keeps those that have none any more."""
    for name in sorted(os.listdir(SYSFS)):  # noqa: PTH208 - see below
        # Hundreds may have no file, and a Path for each would take longer than all the rest.
        if name.startswith("loop") and os.path.exists(f"{SYSFS}/{name}/loop"):  # noqa: PTH110 - see above
            yield SYSFS / name


def refresh_size(device: Path) -> None:
    """Has the device take its file's size, as `losetup -c` does; a program started for it would take ten times as long.

    Raises:
        OSError: it is gone, or not attached.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _LOOP_SET_CAPACITY)
    finally:
        os.close(descriptor)


class _SilentError(MigrationError):
    """The storage of the file behind a loop device does not answer."""

    def __init__(self, device: Path, shown: Path) -> None:
        super().__init__(
            Reason.STORAGE_FAILED,
            f"{device} does not tell which file is behind it, as the storage of {shown} does not answer. Bring that "
            f"back, or detach the device (`losetup --detach {device}`).",
        )


def _backing(device: Path, entry: Path, *, is_loop: bool = True, seconds: float = _ANSWER_SECONDS) -> Backing | None:
    try:
        return _reads.read(device, partial(_asked, device, entry, is_loop=is_loop), seconds=seconds)
    except NoAnswerError:
        raise _SilentError(device, _shown(entry)) from None


def _asked(device: Path, entry: Path, *, is_loop: bool = True) -> Backing | None:
    """Ask the device, which may never answer.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    try:
        file_system, inode = _DEVICE_AND_INODE.unpack_from(_status(device))
    except OSError as error:
        if error.errno in _IS_NOT_ATTACHED or not is_loop:
            return None
        raise failure(error, doing=f"asking for the file behind {device}") from error
    return Backing(_shown(entry), file_system, inode)


def _status(device: Path) -> bytes:
    status = bytearray(_STATUS_BYTES)
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
    finally:
        os.close(descriptor)
    return bytes(status)


def _sysfs_entry(device: os.stat_result) -> Path:
    return _SYSFS_BY_NUMBER / f"{os.major(device.st_rdev)}:{os.minor(device.st_rdev)}"


def _shown(entry: Path) -> Path:
    """Return the path in sysfs; that of a file that was deleted ends in words that say so."""
    try:
        return Path(os.fsdecode(_read(entry, "loop/backing_file").removesuffix(b"\n")))
    except OSError:
        return Path()


def _read(entry: Path, name: str) -> bytes:
    """Return what an attribute in sysfs says, which is no longer than a page. `Path.read_bytes` takes far longer."""
    descriptor = os.open(f"{entry}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _PAGE_BYTES)
    finally:
        os.close(descriptor)
