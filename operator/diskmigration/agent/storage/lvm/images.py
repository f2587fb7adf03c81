"""The volumes of a group as images: where the bytes of each can be read, and by what it is known."""

from pathlib import Path

from diskmigration.agent.storage import identity
from diskmigration.agent.storage.driver import StoredImage
from diskmigration.agent.storage.lvm import lvm_names, sysfs
from diskmigration.agent.storage.lvm.group import VolumeGroup
from diskmigration.agent.storage.lvm.lvm_report import VolumeReport


def of_group(group: VolumeGroup) -> tuple[StoredImage, ...]:
    """Return every volume of the group that may hold an image.

    Raises:
        MigrationError: StorageFailed.
    """
    return tuple(_image(found, group.name) for found in group.volumes() if found.may_hold_image)


def named_by(path: Path, group: VolumeGroup) -> StoredImage | None:
    """Return the volume that a path names by its form, active or not; None where it names none of this group.

    Raises:
        MigrationError: StorageFailed.
    """
    named = lvm_names.named_by_path(path)
    if named is None or named[0] != group.name:
        return None
    found = group.volume(named[1])
    return _image(found, group.name) if found is not None else None


def _image(found: VolumeReport, group: str) -> StoredImage:
    path = lvm_names.DEVICES / group / found.lv_name
    is_there = found.lv_active_locally and sysfs.active_at(path) is not None
    return StoredImage(found.lv_name, identity.of_logical_volume(found.lv_uuid), path if is_there else None)
