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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage.failures import failure
from diskmigration.agent.storage.paths import found_at

SYSFS = Path("/sys/block")
_SYSFS_BY_NUMBER = Path("/sys/dev/block")
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_STATUS_BYTES = 232
_BACKING_IS_AWAY = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""What the ioctl answers where the file cannot be asked; any other answer says that it is no attached loop device."""
_DEVICE_AND_INODE = struct.Struct("=QQ")


@dataclass(frozen=True)
class Backing:
    """The file behind a loop device; `shown_as` is its path, as somebody may see it."""

    shown_as: Path
    file_system: int
    inode: int

    def is_file(self, path: Path) -> bool:
        """Whether that path leads to the file.

        Raises:
            MigrationError: StorageFailed, it cannot be told.
        """
        found = found_at(path)
        return found is not None and (found.st_dev, found.st_ino) == (self.file_system, self.inode)

    def path_within(self, root: Path) -> Path | None:
        """The file's path below the directory; None when it is not there."""
        parts = self.shown_as.parts
        below = (root.joinpath(*parts[first:]) for first in range(1, len(parts)))
        return next((path for path in below if self.is_file(path)), None)


def backing_of(device: Path) -> Backing | None:
    """The file behind the device; None for what is no attached loop device, a file that is named as one included.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    found = found_at(device)
    if found is None or not stat.S_ISBLK(found.st_mode):
        return None
    return _backing(device, _SYSFS_BY_NUMBER / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")


def devices_named(name: str) -> Iterator[tuple[Path, Backing]]:
    """The loop devices with a file of that name behind them, whichever directory it is in."""
    for entry in sorted(SYSFS.glob("loop*")):
        device = Path("/dev") / entry.name
        if _shown(entry).name == name and (backing := _backing(device, entry)) is not None:
            yield device, backing


def attached() -> Iterator[tuple[int, Backing]]:
    """Yield the number of every loop device that has a file behind it, with that file."""
    for entry in SYSFS.glob("loop*"):
        try:
            major, minor = map(int, (entry / "dev").read_text().split(":"))
        except OSError:
            continue
        if (entry / "loop").exists() and (backing := _backing(Path("/dev") / entry.name, entry)) is not None:
            yield os.makedev(major, minor), backing


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


def _backing(device: Path, entry: Path) -> Backing | None:
    status = bytearray(_STATUS_BYTES)
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _BACKING_IS_AWAY:
            raise failure(error, doing=f"asking for the file behind {device}") from error
        return None
    file_system, inode = _DEVICE_AND_INODE.unpack_from(status)
    return Backing(_shown(entry), file_system, inode)


def _shown(entry: Path) -> Path:
    """The path in sysfs; that of a file that was deleted ends in words that say so."""
    try:
        return Path(os.fsdecode((entry / "loop" / "backing_file").read_bytes().removesuffix(b"\n")))
    except OSError:
        return Path()
