"""Tell whether a file or block device was written to between two looks, by whomever: the kernel counts it.

A device counts its writes whatever node of it they came through (Linux, Documentation/block/stat.rst); a file has the
time of its last write.
"""

import os
import stat
from pathlib import Path

from diskmigration.agent.storage import access
from diskmigration.api.errors import MigrationError, Reason

_WRITTEN_SECTORS, _DISCARDS = 6, 11
"""Fields of a device's `stat`. The number of its writes counts flushes too."""


def write_mark(path: Path) -> str | None:
    """Return a text that is another one after every write to the file or device; None where writes are not counted.

    Only what was written on this node is known.

    Raises:
        MigrationError: StorageFailed.
    """
    try:
        descriptor = access.open_image(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            # What somebody wrote to the page cache is counted when it goes to the device.
            os.fsync(descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if stat.S_ISBLK(status.st_mode):
            return _mark_of_device(Path(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"))
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While reading when {path} was written to: {error}") from error
    return f"file {status.st_dev}:{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _mark_of_device(entry: Path) -> str | None:
    if (entry / "queue" / "iostats").read_text().strip() != "1":
        return None
    fields = (entry / "stat").read_text().split()
    if len(fields) <= _DISCARDS:
        return None
    # A device that was detached and attached again counts from zero; the kernel numbers each such life (since 5.15).
    life = entry / "diskseq"
    return f"device {life.read_text().strip() if life.exists() else ''} {fields[_WRITTEN_SECTORS]} {fields[_DISCARDS]}"
