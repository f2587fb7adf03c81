"""What every kind of storage domain can do on this node."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from diskmigration.api.storage_domain import StorageType


@dataclass(frozen=True)
class Space:
    """A domain's room, in bytes."""

    capacity_bytes: int
    available_bytes: int


class StorageDriver(Protocol):
    """One storage domain. Every method may be repeated: what is already so is left so.

    A volume is known by its name; only names made by this project are created or extended, and paths never leave the
    domain. All methods raise MigrationError (StorageFailed, or SourceFull / DestinationFull where room is missing).
    """

    @property
    def name(self) -> str:
        """The StorageDomain's name."""

    @property
    def type(self) -> StorageType:
        """What its volumes are to QEMU."""

    def check(self) -> None:
        """Raises if the domain cannot be used on this node now, with the reason in plain words."""

    def space(self) -> Space:
        """The room there is."""

    def path(self, volume: str) -> Path:
        """Where QEMU finds the volume: the same path for as long as the volume lives."""

    def volume_at(self, path: Path) -> str | None:
        """The name of the volume at that path, links resolved; None when it is not one of this domain's."""

    def volumes(self) -> tuple[str, ...]:
        """The names of the domain's volumes."""

    def create(self, volume: str, size_bytes: int) -> Path:
        """Makes the volume with at least that size where sizes are fixed (block), ready for use; returns its path."""

    def size_bytes(self, volume: str) -> int:
        """How far QEMU can write: the device's size, or the file's apparent size."""

    def allocated_bytes(self, volume: str) -> int:
        """What the volume takes of the domain's room."""

    def extend(self, volume: str, size_bytes: int) -> int:
        """Grows a block volume to at least that size, never shrinks it; returns the size it has then."""

    def remove(self, volume: str) -> None:
        """Removes the volume; one that is gone is as good."""
