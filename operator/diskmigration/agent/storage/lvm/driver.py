"""The storage driver of a volume group."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.agent.storage.driver import Leftover, Owner, Space, StoredImage
from diskmigration.agent.storage.failures import raises_migration_errors
from diskmigration.agent.storage.lvm import answers, arguments, devices, group, guards, images, names, tags, wiping
from diskmigration.agent.storage.lvm.group import VolumeGroup as Group
from diskmigration.agent.storage.lvm.report import VolumeReport
from diskmigration.agent.storage.ownership import OWN, Ownership
from diskmigration.agent.storage.paths import exists, resolved
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.hypervisor import VolumeGroup
from diskmigration.api.storage_domain import StorageType, WipeAfterDelete

_log = logging.getLogger(__name__)

_MAPPER_CONTROL = Path("/dev/mapper/control")

# For what is shown and not acted on: every look at the node asks for each volume.
_SHOWN_SECONDS = 2.0


@raises_migration_errors
@dataclass(frozen=True)
class LvmDriver:
    """See StorageDriver. A volume's path is /dev/GROUP/VOLUME, which is its own for as long as it lives.

    What is cheap and often asked of an active volume, its name and its size, the kernel tells; the rest lvm2.
    """

    name: str
    volume_group_name: str
    wipe_after_delete: WipeAfterDelete = WipeAfterDelete.NONE
    type: StorageType = StorageType.BLOCK
    # By uuid: asking lvm2 before each extension would double the time that a guest has to wait for it.
    _known_ours: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def _group(self) -> Group:
        names.check_volume_group(self.volume_group_name)
        return group.named(self.volume_group_name)

    def check(self) -> None:
        """The group is there, whole and writable, and its locks can be had."""
        if not _MAPPER_CONTROL.exists():
            raise MigrationError(
                Reason.STORAGE_FAILED,
                f"{_MAPPER_CONTROL} is not there: load the kernel's module `dm_mod` on the node, and see that the "
                "agent's pod mounts /dev.",
            )
        found = self._group.describe(max_age_seconds=_SHOWN_SECONDS)
        guards.require_usable(found, has_lock_daemon=guards.LOCK_DAEMON.exists())

    def space(self) -> Space:
        """The group's extents, of which all that belong to a volume are taken."""
        found = self._group.describe(max_age_seconds=_SHOWN_SECONDS)
        return Space(capacity_bytes=found.vg_size, available_bytes=found.vg_free)

    def volume_group(self) -> VolumeGroup:
        """The group's uuid, by which two nodes know it for the same, and its lock type."""
        found = self._group.describe(max_age_seconds=_SHOWN_SECONDS)
        return VolumeGroup(uuid=found.vg_uuid, lock_type=found.lock_type)

    def is_full(self, volume: str) -> bool:  # noqa: ARG002 - see below
        """Never: a logical volume has its extents from the start."""
        return False

    def can_hold(self, size_bytes: int) -> bool:  # noqa: ARG002 - see below
        """Yes: a logical volume can be as large as its group, whose room is asked for on its own."""
        return True

    def path(self, volume: str) -> Path:
        """The link that udev makes."""
        names.check_volume(self.volume_group_name, volume)
        return names.DEVICES / self.volume_group_name / volume

    def volume_at(self, path: Path) -> str | None:
        """The volume that the kernel knows behind the path; one that is not active is known by its path's form."""
        active = devices.active_at(path)
        if active is not None:
            return active.volume if active.group == self.volume_group_name else None
        if exists(path):
            return None
        named = names.named_by_path(path) or names.named_by_path(resolved(path))
        return named[1] if named is not None and named[0] == self.volume_group_name else None

    def volumes(self) -> tuple[str, ...]:
        """The volumes of the group, whoever made them."""
        return tuple(sorted(volume.lv_name for volume in self._group.volumes()))

    def images(self) -> tuple[StoredImage, ...]:
        """Every volume of the group that is no part of another; the bytes of an inactive one cannot be read."""
        return images.of_group(self._group)

    def image_at(self, path: Path) -> StoredImage | None:
        """The inactive volume that the path names by its form."""
        return images.named_by(path, self._group)

    def image(self, volume: str) -> StoredImage | None:
        """The volume of that name."""
        return images.named_by(self.path(volume), self._group)

    def paths(self, volume: str) -> tuple[Path, ...]:
        """The device."""
        return (self.path(volume),)

    def require_ours(self, volume: str) -> None:
        """The volume carries our tag."""
        self._require_ours(self._required(volume))

    def rounded(self, size_bytes: int) -> int:
        """To whole extents."""
        found = self._group.describe(max_age_seconds=_SHOWN_SECONDS)
        return found.extents(size_bytes) * found.vg_extent_size

    def create(
        self,
        volume: str,
        size_bytes: int,
        owner: Owner,
        ownership: Ownership = OWN,  # noqa: ARG002 - udev decides whose a device is
    ) -> Path:
        """A linear volume with the owner's tags; one that this migration made before is activated and grown.

        Raises:
            MigrationError: StorageFailed; also where a volume of that name is not this migration's: nobody formats it.
        """
        path = self.path(volume)
        doing = f"creating the volume {volume} in the volume group {self.volume_group_name}"
        with self._group.turn():
            described = self._group.describe()
            found = self._group.volume(volume)
            if found is None:
                made = arguments.create(
                    self.volume_group_name,
                    volume,
                    extents=described.extents(max(size_bytes, 1)),
                    tags=tags.of_new_volume(owner),
                    exclusive=described.is_locked,
                )
                self._group.change(made, doing=doing)
            else:
                guards.require_made_for(found, self.volume_group_name, owner)
                if not found.lv_active_locally:
                    self._activate(volume)
                if found.lv_size < size_bytes:
                    self._grow(volume, size_bytes)
        self._known_ours.add(self._require_device(volume).uuid)
        return path

    def libvirt_gives_away(self) -> bool:
        """It does so with the device."""
        return True

    def keep(self, volumes: Sequence[str]) -> None:
        """Takes off the tag that says they are being made."""
        with self._group.turn():
            marked = [
                found.lv_name
                for found in self._group.volumes()
                if found.lv_name in volumes and found.ownership.is_incomplete
            ]
            if marked:
                self._group.change(
                    arguments.change_tags(self.volume_group_name, marked, remove=[tags.INCOMPLETE]),
                    doing=f"marking the volumes {', '.join(marked)} as complete",
                )

    def activate(self, volume: str, *, alone: bool = False) -> None:
        """Make its device appear on this node, exclusively where the group is shared.

        One that is active already may be so on other nodes too: with `alone` its lock is made an exclusive one.
        """
        is_shared = alone and self._group.describe(max_age_seconds=_SHOWN_SECONDS).is_locked
        if is_shared or self._active(volume) is None:
            with self._group.turn():
                self._required(volume)
                self._activate(volume)
        self._require_device(volume)

    def size_bytes(self, volume: str) -> int:
        """The device's size; of a volume that is not active, the size that it would have."""
        active = self._active(volume)
        return active.size_bytes if active is not None else self._required(volume, _SHOWN_SECONDS).lv_size

    def allocated_bytes(self, volume: str) -> int:
        """Its extents; 0 when it is gone."""
        active = self._active(volume)
        if active is not None:
            return active.size_bytes
        found = self._group.volume(volume, max_age_seconds=_SHOWN_SECONDS)
        return found.lv_size if found is not None else 0

    def extend(self, volume: str, size_bytes: int) -> int:
        """lvextend, before all else that waits for the group; QEMU sees a qcow2's device grow at once.

        Raises:
            MigrationError: StorageFailed, NoRoomError, VolumeNotHandedOver.
        """
        with self._group.turn(urgent=True):
            active = self._active(volume)
            if active is None or active.uuid not in self._known_ours:
                found = self._required(volume)
                self._require_ours(found)
                if not found.lv_active_locally:
                    self._activate(volume)
            if self.size_bytes(volume) < size_bytes:
                self._grow(volume, size_bytes)
        return self._require_device(volume).size_bytes

    def remove(self, volume: str) -> None:
        """Wiped as the domain says, and removed; never while anybody has it open.

        The wiping holds no lock. A tag tells meanwhile that the volume is doomed, and how far the wiping has come.

        Raises:
            MigrationError: StorageFailed, VolumeNotHandedOver; nothing is removed that is not wiped.
        """
        with self._group.turn():
            found = self._group.volume(volume)
            if found is None:
                return
            self._require_removable(found)
            if self.wipe_after_delete is not WipeAfterDelete.NONE:
                if not found.ownership.is_doomed:
                    self._tag(volume, add=tags.REMOVING)
                if not found.lv_active_locally:
                    self._activate(volume)
        if self.wipe_after_delete is not WipeAfterDelete.NONE:
            self._wipe(volume, start=found.ownership.wiped_bytes)
        with self._group.turn():
            if (found := self._group.volume(volume)) is not None:
                self._require_removable(found)
                line = arguments.remove(self.volume_group_name, volume)
                self._group.change(line, doing=f"removing the volume {self.volume_group_name}/{volume}")
                self._known_ours.discard(_kernel_uuid(found))
        _log.info("removed a volume", extra={"storageDomain": self.name, "volume": volume})

    def leftovers(self, node: str) -> tuple[Leftover, ...]:
        """Volumes that are incomplete or being removed.

        On a shared group only those that were made for this node are its business. In a local one all are: a user's
        volume, once handed over, carries no node.
        """
        is_shared = self._group.describe().is_locked
        volumes = self._group.volumes()
        # Some were removed elsewhere.
        self._known_ours.intersection_update(map(_kernel_uuid, volumes))
        return tuple(
            Leftover(volume=found.lv_name, migration=owned.migration, size_bytes=found.lv_size)
            for found in volumes
            if (owned := found.ownership).is_ours
            and (owned.is_incomplete or owned.is_doomed)
            and (owned.node == node or not (is_shared or owned.node))
        )

    def _active(self, volume: str) -> devices.ActiveVolume | None:
        active = devices.active_at(self.path(volume))
        return (
            active if active is not None and (active.group, active.volume) == (self.volume_group_name, volume) else None
        )

    def _require_device(self, volume: str) -> devices.ActiveVolume:
        """What stands at the path must be the volume: it is formatted and handed to QEMU by its path."""
        active = self._active(volume)
        if active is None:
            raise MigrationError(
                Reason.STORAGE_FAILED,
                f"The volume {volume} is active, but {self.path(volume)} is not its device. See that udev runs on the "
                "node, and that the agent's pod has hostIPC and mounts /dev and /run/udev of the node.",
            )
        return active

    def _required(self, volume: str, max_age_seconds: float = 0.0) -> VolumeReport:
        names.check_volume(self.volume_group_name, volume)
        found = self._group.volume(volume, max_age_seconds=max_age_seconds)
        if found is None:
            raise MigrationError(
                Reason.STORAGE_FAILED, f"There is no volume {volume} in the volume group {self.volume_group_name}."
            )
        return found

    def _require_ours(self, found: VolumeReport) -> None:
        guards.require_ours(found, self.volume_group_name)
        self._known_ours.add(_kernel_uuid(found))

    def _require_removable(self, found: VolumeReport) -> None:
        self._require_ours(found)
        guards.require_closed(found, self.volume_group_name)
        guards.require_no_snapshots(found, self._group.volumes(), self.volume_group_name)

    def _activate(self, volume: str) -> None:
        exclusive = self._group.describe(max_age_seconds=_SHOWN_SECONDS).is_locked
        line = arguments.activate(self.volume_group_name, [volume], exclusive=exclusive)
        self._group.change(line, doing=f"activating the volume {self.volume_group_name}/{volume}")

    def _grow(self, volume: str, size_bytes: int) -> None:
        doing = f"extending the volume {self.volume_group_name}/{volume} to {size_bytes} bytes"
        line = arguments.extend(self.volume_group_name, volume, size_bytes=size_bytes)
        ended = self._group.try_change(line, doing=doing)
        if ended.status == 0:
            return
        if not answers.says_size_is_there(ended.said):
            raise answers.failure(ended.said or ended.printed, doing=doing, line=line)
        # An extension that was cut off: the group's metadata has the size, and the kernel does not know it yet.
        self._group.change(arguments.refresh(self.volume_group_name, volume), doing=doing)

    def _wipe(self, volume: str, *, start: int) -> None:
        def note(offset: int) -> None:
            with self._group.turn():
                self._tag(volume, add=tags.of_progress(offset))

        wiping.wipe(
            self.path(volume),
            size_bytes=self._require_device(volume).size_bytes,
            start=start,
            how=self.wipe_after_delete,
            note=note,
        )

    def _tag(self, volume: str, *, add: str) -> None:
        """Adds a tag; of those that note how far a wiping has come, the last takes the place of the others."""
        found = self._required(volume)
        stale = [tag for tag in found.lv_tags if tags.is_of_progress(tag) and tags.is_of_progress(add)]
        line = arguments.change_tags(self.volume_group_name, [volume], add=[add], remove=stale)
        self._group.change(line, doing=f"tagging the volume {self.volume_group_name}/{volume}")


def _kernel_uuid(volume: VolumeReport) -> str:
    """The uuid as the kernel tells it of an active volume."""
    return volume.lv_uuid.replace("-", "")
