"""LVM's rules for names, and the device-mapper's way of writing them. Pure.

Source: lvm(8), "VALID NAMES"; lvm2's lib/misc/lvm-string.c and device_mapper/libdm-string.c.
"""

import re
from pathlib import Path
from uuid import UUID

from diskmigration.agent.storage.volume_names import SNAPSHOT, volume_name
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason

DEVICES = Path("/dev")
_MAPPER = DEVICES / "mapper"

_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")
_RESERVED_PREFIXES = ("snapshot", "pvmove")
_RESERVED_PARTS = (
    *("_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog", "_pmspare"),
    *("_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig"),
)

LONGEST_DEVICE_NAME = 127
"""What the kernel's device-mapper can hold: DM_NAME_LEN without the terminating zero."""

_LONGEST_OWN_VOLUME = volume_name(str(UUID(int=0)), 99, SNAPSHOT, VolumeFormat.QCOW2)


def check_volume_group(name: str) -> None:
    """Refuse a name that no volume group can have, or under which our volumes' names would be too long.

    Raises:
        MigrationError: StorageFailed.
    """
    if _NAME.fullmatch(name) is None or name in (".", ".."):
        raise MigrationError(Reason.STORAGE_FAILED, f"{name!r} is no name of a volume group. Nothing was touched.")
    if len(device_name(name, _LONGEST_OWN_VOLUME)) > LONGEST_DEVICE_NAME:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"The name of the volume group {name} is too long: with a volume's name it does not fit into the "
            f"device-mapper's {LONGEST_DEVICE_NAME} characters, in which each hyphen counts twice. "
            "Shorten it with vgrename, and make a StorageDomain for the new name.",
        )


def check_volume(group: str, name: str) -> None:
    """Refuse a name that no logical volume made by a user can have: it could be read as an option or another volume.

    Raises:
        MigrationError: StorageFailed.
    """
    is_valid = (
        _NAME.fullmatch(name) is not None
        and name not in (".", "..")
        and not name.startswith(_RESERVED_PREFIXES)
        and not any(part in name for part in _RESERVED_PARTS)
        and len(device_name(group, name)) <= LONGEST_DEVICE_NAME
    )
    if not is_valid:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"{name!r} is no name of a volume of the group {group}. Nothing was touched."
        )


def device_name(group: str, volume: str) -> str:
    """Return the volume's name in the device-mapper: each hyphen doubled, one hyphen between."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"


def split_device_name(name: str) -> tuple[str, str] | None:
    """Return group and volume of a device-mapper name; None for what is no plain volume, as a hidden layer."""
    parts = [part.replace("--", "-") for part in re.findall(r"(?:--|[^-])+", name)]
    return (parts[0], parts[1]) if len(parts) == 2 and device_name(parts[0], parts[1]) == name else None


def named_by_path(path: Path) -> tuple[str, str] | None:
    """Group and volume that a path says by its form, /dev/GROUP/VOLUME or /dev/mapper/NAME, whether it is there or not.

    Of use for a volume that is not active: it has no device that the kernel could be asked about.
    """
    if path.parent == _MAPPER:
        return split_device_name(path.name)
    if path.parent.parent == DEVICES:
        return path.parent.name, path.name
    return None
