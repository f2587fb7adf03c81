"""What lies at a path that somebody else has chosen: no path is an error, however long it is or wherever it leads."""

import os
import stat
from pathlib import Path

from diskmigration.agent.storage.failures import failure, is_nothing_there


def resolved(path: Path) -> Path:
    """Return the path with its links resolved, as far as they lead.

    Path.resolve raises where they lead in a circle.
    """
    return Path(os.path.realpath(path))


def exists(path: Path) -> bool:
    """Return whether anything is there, links followed. Path.exists raises where a name is longer than may be."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def is_regular(path: Path) -> bool:
    """Return whether a regular file is there, links followed.

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
