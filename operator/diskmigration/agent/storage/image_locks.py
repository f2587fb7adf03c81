"""QEMU's own locks on what it has open: they tell of every QEMU on the node, and with NFS 4 on the others.

Source: QEMU's block/file-posix.c. Every program of QEMU's holds, shared, a byte for each thing that it does to an image
and one for each that it lets nobody else do; before it opens an image, it looks for holders of the opposite.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diskmigration.agent.storage import access
from diskmigration.api.errors import MigrationError, Reason

# RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE, each with the number of BLK_PERM_WRITE.
_WRITER_BYTE = 101
_NO_WRITERS_BYTE = 201
# All of either range: every permission has a byte in each.
_FIRST_BYTE = 100
_LOCKED_BYTES = 200
# struct flock of fcntl(2): type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def is_written_to(path: Path) -> bool:
    """Whether a QEMU has the file or device open for writing. Without locks, as on some file systems, none is seen."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITER_BYTE, 1, 0)
    try:
        with _open(path) as opened:
            answer = fcntl.fcntl(opened, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def is_held(path: Path) -> bool:
    """Whether any QEMU, or a program of QEMU's, has the image open, if only to read it.

    Raises:
        OSError: the file or device is there and its locks cannot be asked for.
    """
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _FIRST_BYTE, _LOCKED_BYTES, 0)
    try:
        with _open(path) as opened:
            answer = fcntl.fcntl(opened, fcntl.F_OFD_GETLK, asked)
    except FileNotFoundError:
        return False
    except OSError as error:
        # Then QEMU has no locks there either.
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _open(path: Path) -> BinaryIO:
    return os.fdopen(access.open_image(path, os.O_RDONLY), "rb")


class ImageInUseError(MigrationError):
    """Some QEMU writes to the image."""

    def __init__(self, path: Path) -> None:
        """Says which image."""
        super().__init__(
            Reason.DISK_BUSY,
            f"A process on the node writes to {path}, though no running VM is known to. `fuser {path}` tells which it "
            "is: end it, or wait for its end.",
        )


@contextmanager
def writers_kept_out(path: Path) -> Iterator[None]:
    """Lets no QEMU open the image for writing in the meantime: a VM that starts is refused by its own QEMU.

    Raises:
        ImageInUseError: one writes to it already.
        MigrationError: VirtualMachineNotRunning, where the file system has no locks.
    """
    held = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _NO_WRITERS_BYTE, 1, 0)
    try:
        opened = _open(path)
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While opening {path}: {error}") from error
    with opened:
        try:
            fcntl.fcntl(opened, fcntl.F_OFD_SETLK, held)
        except OSError as error:
            raise MigrationError(
                Reason.VIRTUAL_MACHINE_NOT_RUNNING,
                f"{path} cannot be locked ({error}), so a VM that starts could not be kept from writing to it while it "
                "is copied. Start the VM: the disk of a running one can be moved.",
            ) from error
        if is_written_to(path):
            raise ImageInUseError(path)
        yield
