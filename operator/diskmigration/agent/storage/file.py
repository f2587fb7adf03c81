"""Storage domains of kind `file`: a volume is a file below the domain's directory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.agent.storage import directory, directory_access
from diskmigration.agent.storage.access import acting_as
from diskmigration.agent.storage.directory_access import DirectoryAccess
from diskmigration.agent.storage.driver import Leftover, Owner, Space, StoredImage
from diskmigration.agent.storage.failures import raises_migration_errors
from diskmigration.agent.storage.ownership import OWN, Ownership
from diskmigration.agent.storage.paths import is_regular
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


@raises_migration_errors
@dataclass(frozen=True)
class FileDriver:
    """See StorageDriver. QEMU lets a file grow by itself: sizes given here are only a beginning."""

    name: str
    root: Path
    type: StorageType = StorageType.FILE
    # By the directory as it was found: it may be mounted anew, or given to somebody else.
    _known_access: dict[tuple[int, ...], DirectoryAccess] = field(default_factory=dict, repr=False, compare=False)

    def check(self) -> None:
        """Check that the directory is there, and that somebody may make files in it."""
        directory.require_directory(self.root)
        self._access()

    def _access(self) -> DirectoryAccess:
        try:
            found = self.root.stat()
        except OSError as error:
            raise MigrationError(Reason.STORAGE_FAILED, f"While looking at {self.root}: {error}") from error
        key = (found.st_dev, found.st_ino, found.st_uid, found.st_gid, found.st_mode)
        if key not in self._known_access:
            access = directory_access.probe(self.root)
            self._known_access.clear()
            self._known_access[key] = access
            return access
        return self._known_access[key]

    def space(self) -> Space:
        return directory.space(self.root)

    def is_full(self, volume: str) -> bool:
        """Return whether its file system or its quota is: the files are sparse."""
        with acting_as(self._access().credentials):
            return directory.is_full(self.root, volume)

    def can_hold(self, size_bytes: int) -> bool:
        """Return whether the file system can have a file of that size."""
        with acting_as(self._access().credentials):
            return directory.can_hold_file(self.root, size_bytes)

    def path(self, volume: str) -> Path:
        return directory.file_of(self.root, volume)

    def volume_at(self, path: Path) -> str | None:
        """Return the file's path below the root."""
        return directory.name_within(self.root, path) if is_regular(path) else None

    def volumes(self) -> tuple[str, ...]:
        with acting_as(self._access().credentials):
            return directory.files(self.root)

    def images(self) -> tuple[StoredImage, ...]:
        """Every file below the root."""
        with acting_as(self._access().credentials):
            return directory.images(self.root)

    def image_at(self, path: Path) -> None:
        """None: a file has no other place."""

    def image(self, volume: str) -> StoredImage | None:
        with acting_as(self._access().credentials):
            return directory.image(self.root, volume)

    def paths(self, volume: str) -> tuple[Path, ...]:
        return (self.path(volume),)

    def volume_group(self) -> None:
        """None: a directory is no group."""

    def require_ours(self, volume: str) -> None:
        """Every file of the directory is."""

    def rounded(self, size_bytes: int) -> int:
        """Return the size as it is."""
        return size_bytes

    def create(
        self,
        volume: str,
        size_bytes: int,  # noqa: ARG002 - a file grows by itself
        owner: Owner,  # noqa: ARG002 - a file carries no mark
        ownership: Ownership = OWN,
    ) -> Path:
        """Make an empty file."""
        path = self.path(volume)
        with acting_as(self._access().credentials):
            directory.create_file(path, 0, ownership)
        return path

    def libvirt_gives_away(self) -> bool:
        """Return whether root is root on the file system."""
        return self._access().gives_away

    def keep(self, volumes: Sequence[str]) -> None:
        """Nothing to do: a file carries no mark."""

    def activate(self, volume: str, *, alone: bool = False) -> None:
        """Nothing to do: a file always is."""

    def size_bytes(self, volume: str) -> int:
        return directory.size_bytes(self.path(volume))

    def allocated_bytes(self, volume: str) -> int:
        return directory.allocated_bytes(self.path(volume))

    def extend(self, volume: str, size_bytes: int) -> int:
        """Nothing to do: the file grows as QEMU writes."""
        return max(size_bytes, self.size_bytes(volume))

    def remove(self, volume: str) -> None:
        """The file goes."""
        with acting_as(self._access().credentials):
            directory.remove_file(self.root, volume)

    def leftovers(self, node: str) -> tuple[Leftover, ...]:  # noqa: ARG002 - see below
        """None are known: a file carries no mark, and on a shared file system it may be another node's."""
        return ()
