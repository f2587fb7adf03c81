"""Single volumes of a group: how they are found, checked, and changed.

What is cheap and often asked of an active volume, its name and its size, the kernel tells; the rest lvm2.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.agent.storage.lvm import group, lvm_commands, lvm_errors, lvm_names, preconditions, sysfs, tags
from diskmigration.agent.storage.lvm.group import VolumeGroup
from diskmigration.agent.storage.lvm.lvm_report import VolumeReport
from diskmigration.api.errors import MigrationError, Reason

SHOWN_SECONDS = 2.0
"""How old a report may be for what is shown and not acted on: every look at the node asks for each volume."""


@dataclass(frozen=True)
class LogicalVolumes:
    """Those of one group: a method for each of lvm2's commands that is needed.

    A caller that changes one has the group's turn, over what it looked up before as well.
    """

    group_name: str
    # By uuid: asking lvm2 before each extension would double the time that a guest has to wait for it.
    _known_ours: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def group(self) -> VolumeGroup:
        """The group.

        Raises:
            MigrationError: StorageFailed, no group can have that name.
        """
        lvm_names.check_volume_group(self.group_name)
        return group.named(self.group_name)

    def path(self, volume: str) -> Path:
        """Return the link that udev makes.

        Raises:
            MigrationError: StorageFailed, no volume can have that name.
        """
        lvm_names.check_volume(self.group_name, volume)
        return lvm_names.DEVICES / self.group_name / volume

    def active(self, volume: str) -> sysfs.ActiveVolume | None:
        """Return the volume if it is active on this node and at its path."""
        active = sysfs.active_at(self.path(volume))
        return active if active is not None and (active.group, active.volume) == (self.group_name, volume) else None

    def require_device(self, volume: str) -> sysfs.ActiveVolume:
        """Return an active volume, which is formatted and handed to QEMU by its path.

        Raises:
            MigrationError: StorageFailed, something else stands at the path, or nothing.
        """
        active = self.active(volume)
        if active is None:
            raise MigrationError(
                Reason.STORAGE_FAILED,
                f"The volume {volume} is active, but {self.path(volume)} is not its device. See that udev runs on the "
                "node, and that the agent's pod has hostIPC and mounts /dev and /run/udev of the node.",
            )
        return active

    def required(self, volume: str, max_age_seconds: float = 0.0) -> VolumeReport:
        """Return what lvm2 reports of the volume.

        Raises:
            MigrationError: StorageFailed, also where there is no such volume.
        """
        lvm_names.check_volume(self.group_name, volume)
        found = self.group.volume(volume, max_age_seconds=max_age_seconds)
        if found is None:
            raise MigrationError(
                Reason.STORAGE_FAILED, f"There is no volume {volume} in the volume group {self.group_name}."
            )
        return found

    def is_known_ours(self, active: sysfs.ActiveVolume) -> bool:
        """Return whether the volume was seen to carry our tag."""
        return active.uuid in self._known_ours

    def note_ours(self, active: sysfs.ActiveVolume) -> None:
        """Remember that the volume was made by us."""
        self._known_ours.add(active.uuid)

    def require_ours(self, found: VolumeReport) -> None:
        """Check that the volume carries our tag.

        Raises:
            MigrationError: VolumeNotHandedOver.
        """
        preconditions.require_ours(found, self.group_name)
        self._known_ours.add(_kernel_uuid(found))

    def forget(self, removed: VolumeReport) -> None:
        """Drop what is known of a volume that was removed."""
        self._known_ours.discard(_kernel_uuid(removed))

    def forget_all_but(self, volumes: Iterable[VolumeReport]) -> None:
        """Drop what is known of volumes that are not in the group any more."""
        self._known_ours.intersection_update(map(_kernel_uuid, volumes))

    def activate(self, volume: str) -> None:
        """Activate the volume, exclusively where the group is shared."""
        exclusive = self.group.describe(max_age_seconds=SHOWN_SECONDS).is_locked
        line = lvm_commands.activate(self.group_name, [volume], exclusive=exclusive)
        self.group.change(line, doing=f"activating the volume {self.group_name}/{volume}")

    def grow(self, volume: str, size_bytes: int) -> None:
        """Extend the volume to that size.

        Raises:
            MigrationError: StorageFailed; NoRoomError.
        """
        doing = f"extending the volume {self.group_name}/{volume} to {size_bytes} bytes"
        line = lvm_commands.extend(self.group_name, volume, size_bytes=size_bytes)
        ended = self.group.try_change(line, doing=doing)
        if ended.status == 0:
            return
        if not lvm_errors.says_size_is_there(ended.said):
            raise lvm_errors.failure(ended.said or ended.printed, doing=doing, line=line)
        # An extension that was cut off: the group's metadata has the size, and the kernel does not know it yet.
        self.group.change(lvm_commands.refresh(self.group_name, volume), doing=doing)

    def tag(self, volume: str, *, add: str) -> None:
        """Add a tag. One that notes how far a wiping has come takes the place of those before it."""
        found = self.required(volume)
        stale = [tag for tag in found.lv_tags if tags.is_of_progress(tag) and tags.is_of_progress(add)]
        line = lvm_commands.change_tags(self.group_name, [volume], add=[add], remove=stale)
        self.group.change(line, doing=f"tagging the volume {self.group_name}/{volume}")


def _kernel_uuid(volume: VolumeReport) -> str:
    """Return the uuid as the kernel tells it of an active volume."""
    return volume.lv_uuid.replace("-", "")
