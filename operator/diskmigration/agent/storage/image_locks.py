"""Tell who writes to an image: by the open descriptors of this node, and by QEMU's own locks.

Source: QEMU's block/file-posix.c. Every program of QEMU's holds, shared, a byte for each thing that it does to an image
and one for each that it lets nobody else do; before it opens an image, it looks for holders of the opposite.

A lock belongs to the inode. On files it tells of every QEMU on the node, and with NFS 4 on the others. On a block
device it tells nothing of a QEMU in a mount namespace of its own, which libvirt gives it by default.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from diskmigration.agent.storage import access
from diskmigration.agent.storage.openers import Opener, openers_of_any
from diskmigration.api.errors import MigrationError, Reason

# RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE, each with the number of BLK_PERM_WRITE.
_WRITER_BYTE = 101
_NO_WRITERS_BYTE = 201
# All of either range: every permission has a byte in each.
_FIRST_BYTE = 100
_LOCKED_BYTES = 200
# struct flock of fcntl(2): type, whence, start, length, pid.
_FLOCK = "hhqqi4x"
_WITHOUT_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers."""

_ANOTHER_QEMU = "a QEMU, by the locks that it holds"
_CLOSING_SECONDS = 3.0
_ASK_SECONDS = 0.1


def writers_of_any(paths: Iterable[Path], *, wait: Callable[[float], object] = time.sleep) -> Mapping[Path, str]:
    """Return who writes to each of the paths that anybody writes to, in words for a user.

    Programs that look through a node's devices open each of them for a moment (`losetup --find` does). Such a one is no
    writer, so whoever is found is looked for again, for some seconds. A write within that time is not seen here.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    asked = tuple(paths)
    until = time.monotonic() + _CLOSING_SECONDS
    while (writers := _writers_now(asked)) and time.monotonic() < until:
        wait(_ASK_SECONDS)
    return writers


def _writers_now(paths: Iterable[Path]) -> Mapping[Path, str]:
    openers = openers_of_any(paths)
    found = {path: _named(openers[path]) or (_ANOTHER_QEMU if _is_locked_by_writer(path) else "") for path in openers}
    return {path: writer for path, writer in found.items() if writer}


def is_written_to(path: Path) -> bool:
    """Return whether anybody has the file or device open for writing.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    return bool(writers_of_any([path]))


def require_no_writers(paths: Iterable[Path]) -> None:
    """Check that nobody has any of the files or devices open for writing.

    Raises:
        ImageInUseError: somebody has.
        MigrationError: StorageFailed, it cannot be told.
    """
    for path, writer in writers_of_any(paths).items():
        raise ImageInUseError(path, writer)


def _named(openers: Iterable[Opener]) -> str:
    return ", ".join(str(opener) for opener in openers if opener.writes)


def _is_locked_by_writer(path: Path) -> bool:
    try:
        return _is_locked(path, _WRITER_BYTE, 1)
    except OSError as error:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"Whether a QEMU writes to {path} is not known, so nothing was done: {error}"
        ) from error


def is_held(path: Path) -> bool:
    """Return whether any QEMU, or a program of QEMU's, has the image open, if only to read it.

    Raises:
        OSError: the file or device is there and its locks cannot be asked for.
    """
    return _is_locked(path, _FIRST_BYTE, _LOCKED_BYTES)


def _is_locked(path: Path, start: int, length: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        with _open(path) as opened:
            answer = fcntl.fcntl(opened, fcntl.F_OFD_GETLK, asked)
    except FileNotFoundError:
        return False
    except OSError as error:
        # Then QEMU has no locks there either.
        if error.errno in _WITHOUT_LOCKS:
            return False
        raise
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _open(path: Path) -> BinaryIO:
    # Not blocking: somebody may have put a FIFO there.
    return os.fdopen(access.open_image(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


class ImageInUseError(MigrationError):
    """Somebody writes to the image."""

    def __init__(self, path: Path, writer: str) -> None:
        """Say which image, and who writes."""
        super().__init__(
            Reason.DISK_BUSY,
            f"No running VM is known to use {path}, but it is written to by {writer}. End that process, or wait for "
            "its end.",
        )


@contextmanager
def writers_kept_out(path: Path) -> Iterator[None]:
    """Let no QEMU open the image for writing in the meantime: a VM that starts is refused by its own QEMU.

    It holds for files alone: see above.

    Raises:
        ImageInUseError: somebody writes to it already.
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
        require_no_writers([path])
        yield
