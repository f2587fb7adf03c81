"""Active logical volumes as the kernel knows them: asked of sysfs, at no cost and without any lock of LVM's."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage.failures import failure, is_nothing_there
from diskmigration.agent.storage.lvm import lvm_names
from diskmigration.agent.storage.paths import found_at

_SYSFS_BY_NUMBER = Path("/sys/dev/block")
_SECTOR_BYTES = 512
_UUID_PREFIX = "LVM-"
_UUID_LENGTH = 32


@dataclass(frozen=True)
class ActiveVolume:
    """A logical volume that has a device. The uuid is the volume's own, without hyphens."""

    group: str
    volume: str
    uuid: str
    size_bytes: int


def active_at(path: Path) -> ActiveVolume | None:
    """Return the logical volume behind that path, links followed; None for everything else.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    found = found_at(path)
    if found is None or not stat.S_ISBLK(found.st_mode):
        return None
    try:
        entry = _SYSFS_BY_NUMBER / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        name = (entry / "dm" / "name").read_text().strip()
        uuid = (entry / "dm" / "uuid").read_text().strip()
        sectors = int((entry / "size").read_text())
    except OSError as error:
        if is_nothing_there(error):
            return None
        raise failure(error, doing=f"reading what the kernel knows of {path}") from error
    split = lvm_names.split_device_name(name)
    if split is None or not uuid.startswith(_UUID_PREFIX) or len(uuid) != len(_UUID_PREFIX) + 2 * _UUID_LENGTH:
        return None
    return ActiveVolume(*split, uuid=uuid[-_UUID_LENGTH:], size_bytes=sectors * _SECTOR_BYTES)
