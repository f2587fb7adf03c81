"""Wiping and removing a logical volume, in steps that can be interrupted."""

from diskmigration.agent.storage.lvm import lvm_commands, preconditions, tags, wiping
from diskmigration.agent.storage.lvm.logical_volumes import SHOWN_SECONDS, LogicalVolumes
from diskmigration.agent.storage.lvm.lvm_report import VolumeReport
from diskmigration.api.storage_domain import WipeAfterDelete


def remove(volumes: LogicalVolumes, volume: str, how: WipeAfterDelete) -> bool:
    """Wipe the volume as asked and remove it; return whether it was there.

    The wiping holds no lock. A tag tells meanwhile that the volume is being removed, and how far the wiping has come.

    Raises:
        MigrationError: StorageFailed, VolumeNotHandedOver; nothing is removed that is not wiped.
        VolumeInUseError: somebody has it open, or may have, or another node has it active.
    """
    group = volumes.group
    with group.turn():
        found = group.volume(volume)
        if found is None:
            return False
        _require_removable(volumes, found)
        if how is not WipeAfterDelete.NONE:
            # One of a shared group may be active here and elsewhere. It is locked for this node alone, or not touched.
            if not found.lv_active_locally or group.describe(max_age_seconds=SHOWN_SECONDS).is_locked:
                volumes.activate(volume)
            if not found.ownership.is_being_removed:
                volumes.tag(volume, add=tags.REMOVING)
    if how is not WipeAfterDelete.NONE:
        _wipe(volumes, volume, how, start=found.ownership.wiped_bytes)
    with group.turn():
        if (found := group.volume(volume)) is not None:
            _require_removable(volumes, found)
            line = lvm_commands.remove(volumes.group_name, volume)
            group.change(line, doing=f"removing the volume {volumes.group_name}/{volume}")
            volumes.forget(found)
    return True


def _require_removable(volumes: LogicalVolumes, found: VolumeReport) -> None:
    volumes.require_ours(found)
    preconditions.require_closed(found, volumes.group_name)
    preconditions.require_no_snapshots(found, volumes.group.volumes(), volumes.group_name)


def _wipe(volumes: LogicalVolumes, volume: str, how: WipeAfterDelete, *, start: int) -> None:
    def note(offset: int) -> None:
        with volumes.group.turn():
            volumes.tag(volume, add=tags.of_progress(offset))

    wiping.wipe(
        volumes.path(volume), size_bytes=volumes.require_device(volume).size_bytes, start=start, how=how, note=note
    )
