"""Directories as an NFS client sees them: root may do less there than on a local disk, and a server may fail or hang.

See nfs_export.c.

This machine's kernel may have neither a server nor a client of NFS. A FUSE file system does what counts here: a request
of root's is carried out as another user, who may not read, write, give away or list what is not his.
"""

import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from testbed import processes
from testbed.processes import TestbedError

# libvirt opens an image as QEMU's user, where root may not, on file systems that it takes for a network's (virfile.c).
_OPTIONS = "allow_other,subtype=glusterfs"
_ASKS_ALWAYS = "attr_timeout=0,entry_timeout=0"
_PROGRAM = Path(__file__).with_name("nfs_export.c")


@dataclass(frozen=True)
class Squash:
    """Who is taken for somebody else, and for whom; `option` is that of exports(5)."""

    option: str
    anonymous: str

    def arguments(self) -> tuple[str, str, str]:
        """Return them as the program takes them."""
        user = pwd.getpwnam(self.anonymous)
        return self.option, str(user.pw_uid), str(user.pw_gid)


NO_ROOT_SQUASH = Squash("no_root_squash", "nobody")
ROOT_SQUASH = Squash("root_squash", "nobody")
ALL_SQUASH = Squash("all_squash", "libvirt-qemu")


HANG = 0
"""In place of the number of an error: the server does not answer."""


@dataclass(frozen=True)
class Faults:
    """What an export answers instead of the truth, read anew at each request from a file."""

    file: Path

    @contextmanager
    def answering(self, operation: str, error: int, path: str = "*") -> Iterator[None]:
        """Have an operation of nfs_export.c on the path below the export fail in the block, or hang until its end."""
        temporary = self.file.with_suffix(".new")
        temporary.write_text(f"{operation} {error} {path}\n")
        temporary.rename(self.file)
        try:
            yield
        finally:
            self.file.unlink()


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
    with _mounted(source, at, squash, _OPTIONS):
        yield


@contextmanager
def faulty(source: Path, at: Path) -> Iterator[Faults]:
    """As `mounted`, with a server whose faults can be chosen. Its client keeps no attributes and no names.

    Raises:
        TestbedError: it could not be mounted, or is in use at the end.
    """
    with _mounted(source, at, NO_ROOT_SQUASH, f"{_OPTIONS},{_ASKS_ALWAYS}") as faults:
        yield faults


@contextmanager
def _mounted(source: Path, at: Path, squash: Squash, options: str) -> Iterator[Faults]:
    program, log = source.with_name(f"{source.name}.nfs_export"), source.with_name(f"{source.name}.log")
    faults = Faults(source.with_name(f"{source.name}.faults"))
    flags = shlex.split(processes.run(["pkg-config", "--cflags", "--libs", "fuse3"]))
    processes.run(["gcc", "-O1", "-o", str(program), str(_PROGRAM), *flags])
    process = processes.start(
        [program, *squash.arguments(), source, "-f", "-o", options, at],
        log=log,
        environment={**os.environ, "FAULTS": str(faults.file)},
    )
    try:
        processes.wait_for(at.is_mount, what=f"Mounting {at}", process=process, log=log)
        yield faults
    finally:
        processes.wait_for(partial(_unmount, at), what=f"Unmounting {at}", process=process, log=log)
        # It ends by itself, unless a mount namespace that was made meanwhile has the mount too.
        processes.stop(process)
        program.unlink()


def _unmount(at: Path) -> bool:
    """Return False where it is busy: an agent may look at the images there just now."""
    try:
        processes.run(["umount", str(at)])
    except TestbedError as error:
        if "target is busy" not in str(error):
            raise
        return False
    return True
