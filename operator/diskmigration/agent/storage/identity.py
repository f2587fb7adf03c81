"""What a path leads to, whatever its name: two paths with one identity are one volume.

A file is known by its file system and inode, a logical volume by its uuid, another device by its number.
"""

import errno
import os
import stat
from pathlib import Path

from diskmigration.agent.storage import loop_devices
from diskmigration.agent.storage.driver import Identity
from diskmigration.agent.storage.lvm import sysfs
from diskmigration.agent.storage.paths import resolved

_LOOP_MAJOR = 7


def of_file(file_system: int, inode: int) -> Identity:
    """Return the identity of a file, which a loop device on it shares."""
    return Identity(f"file {file_system}:{inode}")


def of_logical_volume(uuid: str) -> Identity:
    """Return the identity of a logical volume, active or not; hyphens do not count."""
    return Identity(f"logical volume {uuid.replace('-', '')}")


def identify(path: Path) -> Identity:
    """Return the identity of what the path leads to.

    Raises:
        OSError: it cannot be told, as with a missing file or a loop device without a file.
    """
    found = path.stat()
    if not stat.S_ISBLK(found.st_mode):
        return of_file(found.st_dev, found.st_ino)
    if os.major(found.st_rdev) == _LOOP_MAJOR:
        backing = loop_devices.backing_of(path)
        if backing is None:
            raise OSError(errno.ENXIO, "no file is attached to the loop device", str(path))
        return of_file(backing.file_system, backing.inode)
    active = sysfs.active_at(path)
    if active is not None:
        return of_logical_volume(active.uuid)
    return Identity(f"device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")


def identity_or_name(path: Path) -> Identity:
    """Return the identity of what the path leads to; one that leads nowhere is known by its name alone."""
    try:
        return identify(path)
    except OSError:
        return Identity(f"path {resolved(path)}")


def is_same_volume(one: Path, other: Path) -> bool:
    """Return whether both are one file or one device, by whatever names. What cannot be read is known by its name."""
    return one == other or identity_or_name(one) == identity_or_name(other)
