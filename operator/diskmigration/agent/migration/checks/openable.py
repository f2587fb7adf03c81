"""Tell whether QEMU will be able to open a volume, as its owner, its mode and the folders above it are."""

from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage.ownership import Ownership
from diskmigration.api.errors import MigrationError, Reason


@dataclass(frozen=True)
class Access:
    """What was found out about a volume that is to take another's place, and that QEMU's user cannot open as it is.

    `passes` tells whether that user can pass the folder that it lies in. `libvirt_changes_owners` tells that libvirt
    gives volumes to that user when a VM starts: the user could not open the old volume otherwise, or one that a VM runs
    on. `libvirt_can_give` tells that the storage lets it.
    """

    path: Path
    ownership: Ownership
    user: Credentials
    passes: bool
    libvirt_changes_owners: bool
    libvirt_can_give: bool
    is_device: bool


def require_access(access: Access) -> None:
    """Raise VolumeNotAccessible unless libvirt can, and will, give the volume to QEMU's user when the VM starts."""
    problem = (
        f"QEMU runs as the user {access.user}, which could not open {access.path}: it belongs to "
        f"{access.ownership.credentials} with the mode {access.ownership.mode:04o}"
    )
    if not access.passes:
        way_out = (
            f", and that user may not pass the folder {access.path.parent}. Let it: `chmod o+x` each folder above."
        )
    elif not access.libvirt_can_give:
        way_out = (
            ", and the storage does not let root give it away (an NFS export with root_squash does so). Give the "
            f"directory {access.path.parent} to {access.user} with the mode 0711, or export it with "
            f"all_squash,anonuid={access.user.uid},anongid={access.user.gid}."
        )
    elif access.libvirt_changes_owners:
        return
    elif access.is_device:
        way_out = (
            ", and nothing tells that libvirt gives it away when the VM starts (dynamic_ownership), as the user can "
            "open the disk's old volume as it is. Give the devices to that user with a udev rule; or, where libvirt "
            "does it, start the VM and move its disk while it runs."
        )
    else:
        way_out = (
            ", and nothing tells that libvirt gives it away when the VM starts (dynamic_ownership), as the user can "
            "open the disk's old volume as it is. Give both volumes' file systems the same rights."
        )
    raise MigrationError(Reason.VOLUME_NOT_ACCESSIBLE, problem + way_out)
