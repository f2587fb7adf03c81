"""What the kinds of domain that live in a directory have in common: its check, its room, its names."""

import os
from pathlib import Path

from diskmigration.agent.storage.driver import Space
from diskmigration.api.errors import MigrationError, Reason


def check(root: Path) -> None:
    """Raises MigrationError (StorageFailed) unless the directory is there and can be written."""
    if not root.is_dir():
        raise MigrationError(Reason.STORAGE_FAILED, f"{root} is not a directory on this node. Create or mount it.")
    if not os.access(root, os.W_OK | os.X_OK):
        raise MigrationError(Reason.STORAGE_FAILED, f"{root} cannot be written by the agent.")


def space(root: Path) -> Space:
    """The room of the file system below the directory."""
    try:
        found = os.statvfs(root)
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While measuring {root}: {error}") from error
    return Space(capacity_bytes=found.f_blocks * found.f_frsize, available_bytes=found.f_bavail * found.f_frsize)


def name_within(root: Path, path: Path) -> str | None:
    """The path relative to the root, links resolved on both sides; None when it lies outside."""
    try:
        return str(path.resolve(strict=True).relative_to(root.resolve(strict=True)))
    except (OSError, ValueError):
        return None


def file_of(root: Path, volume: str) -> Path:
    """The path of a volume's file, which lies inside the root.

    Raises:
        MigrationError: StorageFailed, when the name leads out of the root, by `..` or by a link.
    """
    path = root / volume
    leads_up = ".." in Path(volume).parts
    if volume and not leads_up and not path.is_symlink() and path.parent.resolve().is_relative_to(root.resolve()):
        return path
    raise MigrationError(
        Reason.STORAGE_FAILED, f"The volume {volume!r} does not lie inside {root}. Nothing was touched."
    )


def create_file(path: Path, size_bytes: int) -> None:
    """Makes an empty file of that size, or grows the one that an interrupted attempt of ours left."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While creating {path}: {error}") from error


def size_bytes(path: Path) -> int:
    """The file's apparent size."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While reading the size of {path}: {error}") from error


def allocated_bytes(path: Path) -> int:
    """The blocks that the file takes, in bytes; 0 when it is gone."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def remove_file(path: Path) -> None:
    """Removes the file; one that is gone is as good."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While removing {path}: {error}") from error


def files(root: Path) -> tuple[str, ...]:
    """The names of the regular files right below the root."""
    with os.scandir(root) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False)))
