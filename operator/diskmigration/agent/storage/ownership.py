"""Whom a volume belongs to, and giving that to what replaces it.

libvirt gives a VM's volumes to QEMU's user while the VM runs (dynamic_ownership), and notes whom they belonged to in
an attribute of the file (remember_owner; source: libvirt's src/security/security_util.c). What is copied is whom the
volume belongs to when no VM runs on it: libvirt does the rest with the new volume as it did with the old one.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.credentials import Credentials, parse_label
from diskmigration.api.errors import MigrationError, Reason

_REMEMBERED = "trusted.libvirt.security.dac"
_ACL = "system.posix_acl_access"
_READ_AND_WRITE = 0o666
_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.EROFS})


@dataclass(frozen=True)
class Ownership:
    """Owner, group, permission bits and POSIX ACL; `acl` is as the kernel has it.

    `is_changed_by_libvirt` tells that a VM runs on the volume, and that libvirt gave it to QEMU's user.
    """

    credentials: Credentials
    mode: int
    acl: bytes | None = None
    is_changed_by_libvirt: bool = False

    @property
    def is_open_to_a_group(self) -> bool:
        """Whether others than the owner may write to it, whose groups only the node knows."""
        return self.acl is not None or (self.credentials.gid != 0 and bool(self.mode & stat.S_IWGRP))

    def is_alike(self, other: "Ownership") -> bool:
        """Return whether everybody may do the same with both volumes."""
        return (self.credentials, self.mode, self.acl) == (other.credentials, other.mode, other.acl)


OWN = Ownership(Credentials(0, 0), 0o600)
"""Of what the agent makes by itself."""


def read(path: Path) -> Ownership:
    """Return whom the volume belongs to. A device of root's says nothing of it: the kernel makes it so.

    Raises:
        MigrationError: StorageFailed.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While reading the owner of {path}: {error}") from error
    remembered = _attribute(path, _REMEMBERED)
    owner = parse_label(remembered.decode(errors="replace").rstrip("\0")) if remembered is not None else None
    if owner is None:
        owner = Credentials(found.st_uid, found.st_gid)
    is_changed = remembered is not None
    if stat.S_ISBLK(found.st_mode) and owner.is_root:
        return Ownership(OWN.credentials, OWN.mode, is_changed_by_libvirt=is_changed)
    return Ownership(owner, stat.S_IMODE(found.st_mode) & _READ_AND_WRITE, _attribute(path, _ACL), is_changed)


def give(descriptor: int, ownership: Ownership) -> None:
    """Give the file or device to that owner, as far as the file system lets the agent.

    One that libvirt has given to QEMU's user already stays so.

    Raises:
        OSError: something else than a refusal.
    """
    if _attribute(descriptor, _REMEMBERED) is not None:
        return
    found = os.fstat(descriptor)
    wanted = ownership.credentials
    if (found.st_uid, found.st_gid) != (wanted.uid, wanted.gid):
        with _may_be_refused():
            os.fchown(descriptor, wanted.uid, wanted.gid)
    if stat.S_IMODE(found.st_mode) != ownership.mode:
        with _may_be_refused():
            os.fchmod(descriptor, ownership.mode)
    if ownership.acl is not None:
        with _may_be_refused():
            os.setxattr(descriptor, _ACL, ownership.acl)


def give_path(path: Path, ownership: Ownership) -> None:
    """As `give`, for a device.

    Raises:
        MigrationError: StorageFailed.
    """
    try:
        # Not for writing: udev looks at a device again that was open for it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            give(descriptor, ownership)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"While giving {path} to {ownership.credentials}: {error}"
        ) from error


@contextmanager
def _may_be_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise


def _attribute(of: Path | int, name: str) -> bytes | None:
    try:
        return os.getxattr(of, name)
    except OSError:
        return None
