"""Files that root may not open, as on an NFS export with root_squash: they are opened as their owner.

In this process that is setfsuid(2) and setfsgid(2), which hold for one thread: the kernel takes root's capabilities
over files from it meanwhile. A program that is started gets the owner's credentials as a whole; see `command`.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage import command
from diskmigration.api.errors import MigrationError, Reason

_libc = ctypes.CDLL(None, use_errno=True)
_NO_CHANGE = -1
_SECONDS = 30.0


@contextmanager
def acting_as(credentials: Credentials | None) -> Iterator[None]:
    """Have this thread open, make, list and remove files as somebody else; None changes nothing.

    Raises:
        MigrationError: StorageFailed; the process may not.
    """
    if credentials is None:
        yield
        return
    # The group first: it takes a capability that goes with root's user.
    group = _libc.setfsgid(credentials.gid)
    user = _libc.setfsuid(credentials.uid)
    try:
        if (_libc.setfsuid(_NO_CHANGE), _libc.setfsgid(_NO_CHANGE)) != (credentials.uid, credentials.gid):
            raise MigrationError(
                Reason.STORAGE_FAILED, f"The agent may not open files as the user {credentials}. Run it as root."
            )
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)


def open_image(path: Path, flags: int) -> int:
    """Open an existing file or device, as its owner where the agent itself may not; return the descriptor.

    Raises:
        OSError: neither may, or it is not there.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except PermissionError:
        owner = _owner(path)
        if owner.is_root:
            raise
        with acting_as(owner):
            return os.open(path, flags | os.O_CLOEXEC)


def credentials_for(read: Iterable[Path], written: Iterable[Path]) -> Credentials | None:
    """Return as whom a program can read and write all of these files, or None where it can as the agent.

    All that the agent may not open must belong to one user; what it may open, the program may as well.
    """
    wanted = [*((path, os.R_OK | os.W_OK) for path in written), *((path, os.R_OK) for path in read)]
    refused = next((path for path, mode in wanted if not os.access(path, mode, effective_ids=True)), None)
    if refused is None:
        return None
    try:
        owner = _owner(refused)
    except OSError:
        return None
    return None if owner.is_root else owner


def may_open(path: Path, credentials: Credentials, *, writes: bool = True) -> bool:
    """Return whether that user could open the file or device; groups other than the one given do not count.

    Raises:
        MigrationError: StorageFailed; the check itself failed.
    """
    return _may(credentials, "-r", path) and (not writes or _may(credentials, "-w", path))


def may_pass(folder: Path, credentials: Credentials) -> bool:
    """Return whether that user may open files in the folder, as far as the folders go."""
    return _may(credentials, "-x", folder)


def _may(credentials: Credentials, how: str, path: Path) -> bool:
    # A process of its own: this one has groups that QEMU does not have, and they belong to all of its threads.
    return (
        command.status(
            ["test", how, str(path)],
            doing=f"checking whether the user {credentials} may open {path}",
            accepted=(0, 1),
            timeout=_SECONDS,
            credentials=credentials,
        )
        == 0
    )


def _owner(path: Path) -> Credentials:
    found = path.stat()
    return Credentials(found.st_uid, found.st_gid)
