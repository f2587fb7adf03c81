"""Directories as an NFS client sees them, on which root may do less than on a local disk: see nfs_export.c.

This machine's kernel may have neither a server nor a client of NFS. A FUSE file system does what counts here: a request
of root's is carried out as another user, who may not read, write, give away or list what is not his.
"""

import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import processes

# libvirt opens an image as QEMU's user, where root may not, on file systems that it takes for a network's (virfile.c).
_OPTIONS = "allow_other,subtype=glusterfs"
_PROGRAM = Path(__file__).with_name("nfs_export.c")


@dataclass(frozen=True)
class Squash:
    """Who is taken for somebody else, `root_squash` or `all_squash`, and for whom: exports(5)."""

    option: str
    anonymous: str

    def arguments(self) -> tuple[str, str, str]:
        """Return them as the program takes them."""
        user = pwd.getpwnam(self.anonymous)
        return self.option, str(user.pw_uid), str(user.pw_gid)


ROOT_SQUASH = Squash("root_squash", "nobody")
ALL_SQUASH = Squash("all_squash", "libvirt-qemu")


@contextmanager
def shared_directory(directory: Path) -> Iterator[None]:
    """Have namespaces that are made in the block see what is mounted below the directory later, wherever / is private.

    Raises:
        TestbedError: something is mounted there still at the end.
    """
    directory.mkdir()
    processes.run(["mount", "--bind", str(directory), str(directory)])
    try:
        processes.run(["mount", "--make-shared", str(directory)])
        yield
    finally:
        processes.run(["umount", str(directory)])


@contextmanager
def mounted(source: Path, at: Path, squash: Squash) -> Iterator[None]:
    """Lay a directory over another one, as a client of its server sees it, for the time of the block.

    Raises:
        TestbedError: it could not be mounted, or is in use at the end.
    """
    program, log = source.with_name(f"{source.name}.nfs_export"), source.with_name(f"{source.name}.log")
    flags = shlex.split(processes.run(["pkg-config", "--cflags", "--libs", "fuse3"]))
    processes.run(["gcc", "-O1", "-o", str(program), str(_PROGRAM), *flags])
    process = processes.start([program, *squash.arguments(), source, "-f", "-o", _OPTIONS, at], log=log)
    try:
        processes.wait_for(at.is_mount, what=f"Mounting {at}", process=process, log=log)
        yield
    finally:
        processes.run(["umount", str(at)])
        process.wait(60)
        program.unlink()
