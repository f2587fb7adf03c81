"""What is never done to a group or a volume, and what is said instead. Pure."""

from collections.abc import Sequence
from pathlib import Path

from diskmigration.agent.storage.driver import Owner, VolumeInUseError
from diskmigration.agent.storage.lvm import tags
from diskmigration.agent.storage.lvm.lvm_report import GroupReport, VolumeReport
from diskmigration.api.errors import MigrationError, Reason

LOCK_DAEMON = Path("/run/lvm/lvmlockd.socket")


def require_usable(found: GroupReport, *, has_lock_daemon: bool) -> None:
    """Raise MigrationError (StorageFailed) unless volumes of the group can be made and extended on this node."""
    obstacle = _obstacle(found, has_lock_daemon=has_lock_daemon)
    if obstacle is not None:
        raise MigrationError(Reason.STORAGE_FAILED, f"The volume group {found.vg_name} {obstacle}")


def require_ours(found: VolumeReport, group: str) -> None:
    """Raise MigrationError (VolumeNotHandedOver) unless the volume carries our tag."""
    if not found.ownership.is_ours:
        raise MigrationError(
            Reason.VOLUME_NOT_HANDED_OVER,
            f"The logical volume {group}/{found.lv_name} was not handed over: without the tag {tags.OURS} it is "
            "neither extended nor removed. If this project may do both, run "
            f"`lvchange --addtag {tags.OURS} {group}/{found.lv_name}` on the node.",
        )


def require_made_for(found: VolumeReport, group: str, owner: Owner) -> None:
    """Raise MigrationError (StorageFailed) unless this migration made the volume, and so may format it."""
    owned = found.ownership
    if not (owned.is_ours and owned.migration == owner.migration) or owned.is_being_removed:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"The logical volume {group}/{found.lv_name} is there already, and its tags do not say that this migration "
            f"made it (its tags: {', '.join(found.lv_tags) or 'none'}). It was not touched. See what it is, and rename "
            "or remove it.",
        )


def require_closed(found: VolumeReport, group: str) -> None:
    """Raise VolumeInUseError while anybody on this node has the volume open, or may have.

    Of a volume that is not active on this node lvm2 does not tell whether it is open, and nobody can have it open here.
    No report tells whether another node has a volume of a shared group active: lvm2 refuses what needs its lock.
    """
    if found.lv_device_open or (found.lv_device_open is None and found.lv_active_locally):
        raise VolumeInUseError(
            f"The logical volume {group}/{found.lv_name} is open, so it was not removed. See who has it open with "
            f"`lsof /dev/{group}/{found.lv_name}`, and close it."
        )


def require_no_snapshots(found: VolumeReport, volumes: Sequence[VolumeReport], group: str) -> None:
    """Raise VolumeInUseError where LVM snapshots of the volume exist: lvremove would remove them with it."""
    snapshots = sorted(volume.lv_name for volume in volumes if volume.origin.strip("[]") == found.lv_name)
    if snapshots or found.lv_attr[:1] in ("o", "O"):
        raise VolumeInUseError(
            f"The logical volume {group}/{found.lv_name} has LVM snapshots ({', '.join(snapshots) or 'hidden ones'}), "
            "so it was not removed. Remove them first if nobody needs them."
        )


def _obstacle(found: GroupReport, *, has_lock_daemon: bool) -> str | None:
    """What follows the group's name, or None."""
    if found.vg_missing_pv_count:
        return (
            f"misses {found.vg_missing_pv_count} of its physical volumes. See which with `pvs`, and bring their "
            "devices back."
        )
    if found.vg_exported:
        return f"is exported. Import it with `vgimport {found.vg_name}`."
    if found.vg_permissions != "writeable":
        return f"is {found.vg_permissions}. Its volumes cannot be changed; see vgchange(8)."
    return _obstacle_to_locking(found, has_lock_daemon=has_lock_daemon)


def _obstacle_to_locking(found: GroupReport, *, has_lock_daemon: bool) -> str | None:
    if found.vg_shared and not found.is_locked:
        return f"is shared under the lock type {found.lock_type}, which is not known here. Use sanlock or dlm."
    if found.is_locked and not has_lock_daemon:
        return (
            f"is shared under {found.lock_type}, but {LOCK_DAEMON} is not there. Start lvmlockd on the node, and see "
            "that the agent's pod mounts /run/lvm."
        )
    if found.is_unlocked:
        return (
            f"is shared, and its locks were not started on this node. Run `vgchange --lockstart {found.vg_name}` "
            "there, and see that it is run at boot; see lvmlockd(8)."
        )
    return None
