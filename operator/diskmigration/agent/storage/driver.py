"""What every kind of storage domain can do on this node."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

from diskmigration.agent.storage.ownership import OWN, Ownership
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.libvirt_host import VolumeGroup
from diskmigration.api.storage_domain import StorageType

Identity = NewType("Identity", str)
"""What a volume is known by, whatever paths lead to it; see `identity`, which alone makes one."""


@dataclass(frozen=True)
class Space:
    """A domain's room, in bytes."""

    capacity_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Owner:
    """For whom a volume is made: a migration by its uid, a VM by its uuid, and the node on which both are."""

    migration: str
    virtual_machine: str
    node: str


@dataclass(frozen=True)
class Leftover:
    """A volume that is marked as being made, or as being removed: it belongs to a migration that has not ended.

    `migration` is the migration's uid, empty for a user's volume that is being removed.
    """

    volume: str
    migration: str
    size_bytes: int


@dataclass(frozen=True)
class StoredImage:
    """A volume of a storage domain, whoever made it; `path` is where its bytes can be read, None where they cannot."""

    name: str
    identity: Identity
    path: Path | None


class VolumeInUseError(MigrationError):
    """Somebody has the volume open or depends on it, so it was not removed."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.STORAGE_FAILED, message)


class NoRoomError(MigrationError):
    """The domain has no room for what was asked; the caller knows whether it is the source or the destination."""

    def __init__(self, message: str) -> None:
        # Another attempt is made for it, in case nobody knows.
        super().__init__(Reason.STORAGE_FAILED, message)


class StorageDriver(Protocol):
    """One storage domain: a method for each thing that is asked of a storage, or done to a volume.

    Every method may be repeated: what is already so is left so.

    A volume is known by its name; only names made by this project are created or extended, and paths never leave the
    domain. All methods raise MigrationError (StorageFailed, NoRoomError where room is missing), and never an OSError:
    see `failures.raises_migration_errors`.
    """

    @property
    def name(self) -> str:
        """The StorageDomain's name."""

    @property
    def type(self) -> StorageType:
        """What its volumes are to QEMU."""

    def check(self) -> None:
        """Raise if the domain cannot be used on this node now, with the reason in plain words."""

    def space(self) -> Space:
        """Return the domain's room."""

    def is_full(self, volume: str) -> bool:
        """Return whether a volume that is there already cannot be filled any further for want of room."""

    def can_hold(self, size_bytes: int) -> bool:
        """Return whether one volume can be that large, however much room there is."""

    def path(self, volume: str) -> Path:
        """Return where QEMU finds the volume: the same path for as long as the volume lives."""

    def volume_at(self, path: Path) -> str | None:
        """Return the name of the volume at that path, links resolved; None when it is not one of this domain's.

        Raises MigrationError (StorageFailed) where that cannot be told.
        """

    def volumes(self) -> tuple[str, ...]:
        """Return the names of the domain's volumes."""

    def images(self) -> tuple[StoredImage, ...]:
        """Return every volume of the domain that may hold an image, in its folders too; raises unless all are seen."""

    def image_at(self, path: Path) -> StoredImage | None:
        """Return the volume that a path means at which nothing is now: an inactive or a detached one; or None."""

    def image(self, volume: str) -> StoredImage | None:
        """Return what `remove` would remove, or None where there is nothing."""

    def paths(self, volume: str) -> tuple[Path, ...]:
        """Return every path by which the volume's bytes can be opened, whether or not it is there."""

    def volume_group(self) -> VolumeGroup | None:
        """Return the volume group that the domain is, or None."""

    def require_ours(self, volume: str) -> None:
        """Raise MigrationError (VolumeNotHandedOver) unless this project may extend and remove the volume."""

    def rounded(self, size_bytes: int) -> int:
        """Return the size that a volume of at least that size gets."""

    def create(self, volume: str, size_bytes: int, owner: Owner, ownership: Ownership = OWN) -> Path:
        """Make the volume with at least that size where sizes are fixed (block), ready for use; return its path.

        It gets the ownership as far as the storage allows; whether QEMU can open it then is the caller's to find out.

        Until `keep`, the domain takes it for one that may go when nobody works on its migration any more.
        """

    def libvirt_gives_away(self) -> bool:
        """Return whether libvirt, which is root, can give a volume of this domain to QEMU's user."""

    def keep(self, volumes: Sequence[str]) -> None:
        """Record that somebody's data depends on these volumes: only who knows them by name may remove them."""

    def activate(self, volume: str, *, alone: bool = False) -> None:
        """Make the volume ready for use on this node, where no VM does.

        With `alone` it is, after that, ready on no other node, where the storage can see to it.
        """

    def size_bytes(self, volume: str) -> int:
        """Return how far QEMU can write: the device's size, or the file's apparent size."""

    def allocated_bytes(self, volume: str) -> int:
        """Return what the volume takes of the domain's room."""

    def extend(self, volume: str, size_bytes: int) -> int:
        """Grow a block volume to at least that size, never shrink it; return the size it has then."""

    def remove(self, volume: str) -> None:
        """Remove the volume, wiped first where the domain wants that; one that is gone is as good.

        A removal that was interrupted goes on where it was. It takes long where much has to be wiped.
        """

    def leftovers(self, node: str) -> tuple[Leftover, ...]:
        """Return the volumes that migrations of this node began to make or to remove, and did not finish."""
