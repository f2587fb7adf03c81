"""What the kinds of domain that live in a directory have in common: its check, its room, its names."""

import ctypes
import errno
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from diskmigration.agent.storage import failures, identity
from diskmigration.agent.storage import ownership as ownerships
from diskmigration.agent.storage.driver import Space, StoredImage
from diskmigration.agent.storage.ownership import Ownership
from diskmigration.agent.storage.paths import resolved
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)

_FULL_BYTES = 16 * 2**20
"""What one block job has in flight at most (MAX_IN_FLIGHT and MAX_IO_BYTES of QEMU's block/mirror.c)."""


def require_directory(root: Path) -> None:
    """Raise MigrationError (StorageFailed) unless the directory is there."""
    if not root.is_dir():
        raise MigrationError(Reason.STORAGE_FAILED, f"{root} is not a directory on this node. Create or mount it.")
    with failures.os_errors(f"looking at {root}"):
        _real_roots[root] = os.path.realpath(root, strict=True)


def require_writable(root: Path) -> None:
    """Raise MigrationError (StorageFailed) unless the directory is there and root can write to it."""
    require_directory(root)
    if not os.access(root, os.W_OK | os.X_OK, effective_ids=True):
        raise MigrationError(
            Reason.STORAGE_FAILED, f"{root} cannot be written by root: it is read-only, or its server squashes root."
        )


def space(root: Path) -> Space:
    """Return the room of the file system below the directory."""
    with failures.os_errors(f"measuring {root}"):
        found = os.statvfs(root)
    return Space(capacity_bytes=found.f_blocks * found.f_frsize, available_bytes=found.f_bavail * found.f_frsize)


def is_full(root: Path, volume: str) -> bool:
    """Return whether a writer of the volume may have been refused for want of room.

    Asks the file system on which the volume lies, which may be mounted below the root. A quota does not show in its
    figures, so some room is asked for and given back at once.
    """
    folder = (root / volume).resolve().parent
    folder = folder if folder.is_dir() else root
    return space(folder).available_bytes < _FULL_BYTES or _refuses(folder, _FULL_BYTES)


def _refuses(folder: Path, size_bytes: int) -> bool:
    """Whether the file system refuses a new file of that size for want of room; False where it cannot be asked."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            # Not posix_fallocate, which writes zeroes where the file system allocates nothing ahead.
            if _libc.fallocate(descriptor, 0, ctypes.c_longlong(0), ctypes.c_longlong(size_bytes)) == 0:
                return False
            raise OSError(ctypes.get_errno(), "fallocate")
        finally:
            os.close(descriptor)
    except OSError as error:
        return failures.is_no_room(error)


def name_within(root: Path, path: Path) -> str | None:
    """Return the path relative to the root, links resolved on both sides; None when it lies outside, or nowhere.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    try:
        found = os.path.realpath(path, strict=True)
        return str(Path(found).relative_to(_real_root(root)))
    except ValueError:
        return None
    except OSError as error:
        if failures.is_nothing_there(error):
            return None
        raise failures.failure(error, doing=f"looking for {path} in {root}") from error


_real_roots: dict[Path, str] = {}
"""Where each root led when it was checked last: whether a path lies below one that hangs is told without asking it."""


def _real_root(root: Path) -> str:
    found = _real_roots.get(root)
    if found is None:
        found = _real_roots[root] = os.path.realpath(root, strict=True)
    return found


def file_of(root: Path, volume: str) -> Path:
    """Return the path of a volume's file, which lies inside the root.

    Raises:
        MigrationError: StorageFailed, when the name leads out of the root, by `..` or by a link.
    """
    path = _place_of(root, volume)
    if path is not None and not path.is_symlink():
        return path
    raise MigrationError(
        Reason.STORAGE_FAILED, f"The volume {volume!r} does not lie inside {root}. Nothing was touched."
    )


def _place_of(root: Path, volume: str) -> Path | None:
    """Where the volume is, whatever lies there; None when its folder is outside the root."""
    path = root / volume
    leads_up = ".." in Path(volume).parts
    return path if volume and not leads_up and resolved(path.parent).is_relative_to(resolved(root)) else None


def create_file(path: Path, size_bytes: int, ownership: Ownership) -> None:
    """Make an empty file of that size, or grow the one that an interrupted attempt of ours left.

    It gets the ownership as far as the file system allows.

    Raises:
        MigrationError: StorageFailed, also when what lies there is no file, or is a file that has another name too.
    """
    _size_up(path, size_bytes, doing="creating", extra_flags=os.O_CREAT, ownership=ownership)


def grow_file(path: Path, size_bytes: int) -> None:
    """Grow a file; one that was removed just now stays so.

    Raises:
        MigrationError: StorageFailed, also when what lies there is no file, or is a file that has another name too.
    """
    _size_up(path, size_bytes, doing="growing", extra_flags=0)


def _size_up(path: Path, size_bytes: int, *, doing: str, extra_flags: int, ownership: Ownership | None = None) -> None:
    try:
        # Non-blocking: somebody may have planted a FIFO, on which an open waits for its other end.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | extra_flags
        descriptor = os.open(path, flags, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise MigrationError(
                    Reason.STORAGE_FAILED,
                    f"{path} is there already, and is no file of its own: somebody made a device, a FIFO or a second "
                    "name of another file there. Nothing was written to it. Remove it, and find out whose it is.",
                )
            if found.st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
            if ownership is not None:
                ownerships.give(descriptor, ownership)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failures.failure(error, doing=f"{doing} {path}") from error


def can_hold_file(root: Path, size_bytes: int) -> bool:
    """Return whether the file system can have a file of that size, were it empty; nothing is left there.

    Raises:
        MigrationError: StorageFailed.
    """
    try:
        with tempfile.TemporaryFile(dir=root) as probe:
            os.ftruncate(probe.fileno(), size_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            return False
        raise MigrationError(Reason.STORAGE_FAILED, f"While trying {root} for large files: {error}") from error
    return True


def size_bytes(path: Path) -> int:
    """Return the file's apparent size."""
    with failures.os_errors(f"reading the size of {path}"):
        return path.stat().st_size


def allocated_bytes(path: Path) -> int:
    """Return the blocks that the file takes, in bytes; 0 when it is gone."""
    with failures.os_errors(f"reading the blocks of {path}"):
        try:
            return path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0


def remove_file(root: Path, volume: str) -> None:
    """Remove the volume's file; one that is gone is as good, and so is a thing that somebody put in its place.

    Raises:
        MigrationError: StorageFailed, also when the name leads out of the root.
    """
    path = _place_of(root, volume) or file_of(root, volume)
    try:
        with _folder(root, volume) as folder:
            if not stat.S_ISREG(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                _log.warning("what lies in a volume's place is no file, and is left", extra={"path": str(path)})
                return
            os.unlink(path.name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failures.failure(error, doing=f"removing {path}") from error


@contextmanager
def _folder(root: Path, volume: str) -> Iterator[int]:
    """Open the volume's folder below the root, without following a link that somebody puts there in the meantime."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as opened:
        folder = os.open(resolved(root), flags)
        opened.callback(os.close, folder)
        for part in Path(volume).parent.parts:
            folder = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            opened.callback(os.close, folder)
        yield folder


def files(root: Path) -> tuple[str, ...]:
    """Return the names of the regular files right below the root."""
    with failures.os_errors(f"listing {root}"), os.scandir(root) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False)))


def image(root: Path, volume: str) -> StoredImage | None:
    """Return the volume's regular file; None where there is none.

    Raises:
        MigrationError: StorageFailed, also when the name leads out of the root.
    """
    path = _place_of(root, volume) or file_of(root, volume)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failures.failure(error, doing=f"looking at {path}") from error
    is_file = stat.S_ISREG(found.st_mode)
    return StoredImage(volume, identity.of_file(found.st_dev, found.st_ino), path) if is_file else None


def images(root: Path) -> tuple[StoredImage, ...]:
    """Return every regular file below the root, in its folders and in what is mounted there too.

    Raises:
        MigrationError: StorageFailed, a part of it could not be read.
    """
    with failures.os_errors(f"listing {root}"):
        return tuple(_images(root, root))


def _images(root: Path, folder: Path) -> Iterator[StoredImage]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(found.st_mode):
                yield from _images(root, Path(entry.path))
            elif stat.S_ISREG(found.st_mode):
                path = Path(entry.path)
                yield StoredImage(str(path.relative_to(root)), identity.of_file(found.st_dev, found.st_ino), path)
