"""The storage driver of a volume group."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.agent.storage.driver import Leftover, Owner, Space, StoredImage
from diskmigration.agent.storage.failures import raises_migration_errors
from diskmigration.agent.storage.lvm import (
    images,
    lvm_commands,
    lvm_names,
    lvm_removal,
    preconditions,
    sysfs,
    tags,
)
from diskmigration.agent.storage.lvm.group import VolumeGroup as Group
from diskmigration.agent.storage.lvm.logical_volumes import SHOWN_SECONDS, LogicalVolumes
from diskmigration.agent.storage.ownership import OWN, Ownership
from diskmigration.agent.storage.paths import exists, resolved
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.libvirt_host import VolumeGroup
from diskmigration.api.storage_domain import StorageType, WipeAfterDelete

_log = logging.getLogger(__name__)

_MAPPER_CONTROL = Path("/dev/mapper/control")


@raises_migration_errors
@dataclass(frozen=True)
class LvmDriver:
    """See StorageDriver. A volume's path is /dev/GROUP/VOLUME, which is its own for as long as it lives."""

    name: str
    volume_group_name: str
    wipe_after_delete: WipeAfterDelete = WipeAfterDelete.NONE
    type: StorageType = StorageType.BLOCK
    _volumes: LogicalVolumes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_volumes", LogicalVolumes(self.volume_group_name))

    @property
    def _group(self) -> Group:
        return self._volumes.group

    def check(self) -> None:
        """Check that the group is there, whole and writable, and that its locks can be had."""
        if not _MAPPER_CONTROL.exists():
            raise MigrationError(
                Reason.STORAGE_FAILED,
                f"{_MAPPER_CONTROL} is not there: load the kernel's module `dm_mod` on the node, and see that the "
                "agent's pod mounts /dev.",
            )
        found = self._group.describe(max_age_seconds=SHOWN_SECONDS)
        preconditions.require_usable(found, has_lock_daemon=preconditions.LOCK_DAEMON.exists())

    def space(self) -> Space:
        """Return the group's extents, of which all that belong to a volume are taken."""
        found = self._group.describe(max_age_seconds=SHOWN_SECONDS)
        return Space(capacity_bytes=found.vg_size, available_bytes=found.vg_free)

    def volume_group(self) -> VolumeGroup:
        """Return the group's uuid, by which two nodes know it for the same, and its lock type."""
        found = self._group.describe(max_age_seconds=SHOWN_SECONDS)
        return VolumeGroup(uuid=found.vg_uuid, lock_type=found.lock_type)

    def is_full(self, volume: str) -> bool:  # noqa: ARG002 - see below
        """Return False: a logical volume has its extents from the start."""
        return False

    def can_hold(self, size_bytes: int) -> bool:  # noqa: ARG002 - see below
        """Return True: a logical volume can be as large as its group, whose room is asked for on its own."""
        return True

    def path(self, volume: str) -> Path:
        """Return the link that udev makes."""
        return self._volumes.path(volume)

    def volume_at(self, path: Path) -> str | None:
        """Return the volume that the kernel knows behind the path; an inactive one is known by the path's form."""
        active = sysfs.active_at(path)
        if active is not None:
            return active.volume if active.group == self.volume_group_name else None
        if exists(path):
            return None
        named = lvm_names.named_by_path(path) or lvm_names.named_by_path(resolved(path))
        return named[1] if named is not None and named[0] == self.volume_group_name else None

    def volumes(self) -> tuple[str, ...]:
        return tuple(sorted(volume.lv_name for volume in self._group.volumes()))

    def images(self) -> tuple[StoredImage, ...]:
        """Return every volume that is no part of another; the bytes of an inactive one cannot be read."""
        return images.of_group(self._group)

    def image_at(self, path: Path) -> StoredImage | None:
        return images.named_by(path, self._group)

    def image(self, volume: str) -> StoredImage | None:
        return images.named_by(self.path(volume), self._group)

    def paths(self, volume: str) -> tuple[Path, ...]:
        return (self.path(volume),)

    def require_ours(self, volume: str) -> None:
        self._volumes.require_ours(self._volumes.required(volume))

    def rounded(self, size_bytes: int) -> int:
        """Return the size in whole extents."""
        found = self._group.describe(max_age_seconds=SHOWN_SECONDS)
        return found.extents(size_bytes) * found.vg_extent_size

    def create(
        self,
        volume: str,
        size_bytes: int,
        owner: Owner,
        ownership: Ownership = OWN,  # noqa: ARG002 - udev decides whose a device is
    ) -> Path:
        """Make a linear volume with the owner's tags, or activate and grow the one that this migration made before.

        Raises:
            MigrationError: StorageFailed; also where a volume of that name is not this migration's: nobody formats it.
        """
        path = self.path(volume)
        doing = f"creating the volume {volume} in the volume group {self.volume_group_name}"
        with self._group.turn():
            described = self._group.describe()
            found = self._group.volume(volume)
            if found is None:
                made = lvm_commands.create(
                    self.volume_group_name,
                    volume,
                    extents=described.extents(max(size_bytes, 1)),
                    tags=tags.of_new_volume(owner),
                    exclusive=described.is_locked,
                )
                self._group.change(made, doing=doing)
            else:
                preconditions.require_made_for(found, self.volume_group_name, owner)
                if not found.lv_active_locally:
                    self._volumes.activate(volume)
                if found.lv_size < size_bytes:
                    self._volumes.grow(volume, size_bytes)
        self._volumes.note_ours(self._volumes.require_device(volume))
        return path

    def libvirt_gives_away(self) -> bool:
        """Return True: libvirt changes the owner of the device."""
        return True

    def keep(self, volumes: Sequence[str]) -> None:
        """Take off the tag that says they are being made."""
        with self._group.turn():
            marked = [
                found.lv_name
                for found in self._group.volumes()
                if found.lv_name in volumes and found.ownership.is_incomplete
            ]
            if marked:
                self._group.change(
                    lvm_commands.change_tags(self.volume_group_name, marked, remove=[tags.INCOMPLETE]),
                    doing=f"marking the volumes {', '.join(marked)} as complete",
                )

    def activate(self, volume: str, *, alone: bool = False) -> None:
        """Make its device appear on this node, exclusively where the group is shared.

        One that is active already may be so on other nodes too: with `alone` its lock is made an exclusive one.
        """
        is_shared = alone and self._group.describe(max_age_seconds=SHOWN_SECONDS).is_locked
        if is_shared or self._volumes.active(volume) is None:
            with self._group.turn():
                self._volumes.required(volume)
                self._volumes.activate(volume)
        self._volumes.require_device(volume)

    def size_bytes(self, volume: str) -> int:
        """Return the device's size, or that which the device of an inactive volume would have."""
        active = self._volumes.active(volume)
        return active.size_bytes if active is not None else self._volumes.required(volume, SHOWN_SECONDS).lv_size

    def allocated_bytes(self, volume: str) -> int:
        """Return the size of its extents, or 0 when it is gone."""
        active = self._volumes.active(volume)
        if active is not None:
            return active.size_bytes
        found = self._group.volume(volume, max_age_seconds=SHOWN_SECONDS)
        return found.lv_size if found is not None else 0

    def extend(self, volume: str, size_bytes: int) -> int:
        """Run lvextend, before all else that waits for the group; QEMU sees a qcow2's device grow at once.

        Raises:
            MigrationError: StorageFailed, NoRoomError, VolumeNotHandedOver.
        """
        volumes = self._volumes
        with self._group.turn(urgent=True):
            active = volumes.active(volume)
            if active is None or not volumes.is_known_ours(active):
                found = volumes.required(volume)
                volumes.require_ours(found)
                if not found.lv_active_locally:
                    volumes.activate(volume)
            if self.size_bytes(volume) < size_bytes:
                volumes.grow(volume, size_bytes)
        return volumes.require_device(volume).size_bytes

    def remove(self, volume: str) -> None:
        if lvm_removal.remove(self._volumes, volume, self.wipe_after_delete):
            _log.info("removed a volume", extra={"storageDomainName": self.name, "volume": volume})

    def leftovers(self, node: str) -> tuple[Leftover, ...]:
        """Return the volumes that are incomplete or being removed.

        On a shared group only those that were made for this node are its business. In a local one all are: a user's
        volume, once handed over, carries no node.
        """
        is_shared = self._group.describe().is_locked
        volumes = self._group.volumes()
        self._volumes.forget_all_but(volumes)
        return tuple(
            Leftover(volume=found.lv_name, migration=owned.migration, size_bytes=found.lv_size)
            for found in volumes
            if (owned := found.ownership).is_ours
            and (owned.is_incomplete or owned.is_being_removed)
            and (owned.node == node or not (is_shared or owned.node))
        )
