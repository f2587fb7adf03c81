"""As whom the agent makes files in a directory, and to whom they belong then.

Root does, where it may and may give its files to others: so it is on a local disk. An NFS server may take root for
nobody (root_squash), or everybody for one user (all_squash). There the owner of the directory makes the files.
"""

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage.access import acting_as
from diskmigration.api.errors import MigrationError, Reason

_PROBE_PREFIX = ".diskmigration-probe-"


@dataclass(frozen=True)
class DirectoryAccess:
    """As whom files are made in a directory, None for the agent itself, and whose they are then.

    `gives_away` tells whether root may give them to others, as libvirt does when a VM starts.
    """

    credentials: Credentials | None
    owner: Credentials
    gives_away: bool


def probe(root: Path) -> DirectoryAccess:
    """Find out by making files that have no name, or are removed at once.

    Raises:
        MigrationError: StorageFailed, with what to do; neither root nor the directory's owner may make files there.
    """
    try:
        found = root.stat()
        as_root = _made_as(root, None)
        if as_root is not None and as_root.gives_away:
            return as_root
        folder = Credentials(found.st_uid, found.st_gid)
        as_owner = _made_as(root, folder) if not folder.is_root else None
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While making a file in {root}: {error}") from error
    if as_owner is not None and not found.st_mode & stat.S_IXOTH:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"{root} belongs to {folder}, and root may not even pass it (mode {stat.S_IMODE(found.st_mode):04o}), as "
            f"libvirtd does before it starts a VM. Give it the mode 0711: `chmod o+x {root}`.",
        )
    usable = as_owner or as_root
    if usable is None:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"{root} belongs to {folder}, and root may not make files in it: its server takes root for nobody "
            "(root_squash), or it is read-only. Give it to QEMU's user with the mode 0711, and the agent makes its "
            "files as that user; or export it with all_squash, and with QEMU's user as anonuid and anongid.",
        )
    return usable


def _made_as(root: Path, credentials: Credentials | None) -> DirectoryAccess | None:
    """Return what becomes of a file that this user makes; None where it may not make one."""
    with acting_as(credentials):
        try:
            descriptor, path = _make_file(root)
        except PermissionError:
            return None
        except OSError as error:
            raise MigrationError(Reason.STORAGE_FAILED, f"While making a file in {root}: {error}") from error
        try:
            found = os.fstat(descriptor)
            owner = Credentials(found.st_uid, found.st_gid)
            return DirectoryAccess(
                credentials, owner, gives_away=credentials is None and _can_give_away(descriptor, owner=owner)
            )
        finally:
            os.close(descriptor)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def _make_file(root: Path) -> tuple[int, Path | None]:
    with contextlib.suppress(OSError):
        return os.open(root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    # NFS and FUSE have no files without a name.
    path = root / f"{_PROBE_PREFIX}{secrets.token_hex(6)}"
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), path


def _can_give_away(descriptor: int, *, owner: Credentials) -> bool:
    # To whom it belongs already, everybody may give it.
    somebody = owner.uid + 1
    try:
        os.fchown(descriptor, somebody, owner.gid)
    except OSError:
        return False
    return os.fstat(descriptor).st_uid == somebody
