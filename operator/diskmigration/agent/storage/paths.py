"""What lies at a path that somebody else has chosen: no path is an error, however long it is or wherever it leads."""

import os
import stat
from pathlib import Path

from diskmigration.agent.storage.failures import failure, is_nothing_there

Identity = tuple[str, int, int] | tuple[str, str]
"""Which file or device it is, whatever the path."""


def resolved(path: Path) -> Path:
    """The path with its links resolved, as far as they lead.

    Path.resolve raises where they lead in a circle.
    """
    return Path(os.path.realpath(path))


def exists(path: Path) -> bool:
    """Whether anything is there, links followed. Path.exists raises where a name is longer than may be."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def is_regular(path: Path) -> bool:
    """Whether a regular file is there, links followed.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    found = found_at(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def found_at(path: Path) -> os.stat_result | None:
    """Return what is at the path, links followed; None where nothing is.

    Raises:
        MigrationError: StorageFailed, it cannot be told. Never take that for "nothing".
    """
    try:
        return path.stat()
    except OSError as error:
        if is_nothing_there(error):
            return None
        raise failure(error, doing=f"looking at {path}") from error


def identity(path: Path) -> Identity:
    """Return what tells whether two paths lead to one file or device, whatever their names.

    A path that leads nowhere is known by its name alone.
    """
    try:
        found = path.stat()
    except OSError:
        return "path", str(resolved(path))
    if stat.S_ISBLK(found.st_mode):
        return "device", os.major(found.st_rdev), os.minor(found.st_rdev)
    return "file", found.st_dev, found.st_ino


def is_same_volume(one: Path, other: Path) -> bool:
    """Return whether both are one file or one device, by whatever names. What cannot be read is known by its name."""
    return one == other or identity(one) == identity(other)
