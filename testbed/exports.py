"""Directories in which root may do less than on a local disk, as on an NFS export: bindfs lays them over another.

bindfs itself reads and writes as root, so that root can open every file, which a server with root_squash refuses. Who
owns what is made, and that a chown is refused, is as there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed import processes

ALL_SQUASH = ("--create-for-user=libvirt-qemu", "--create-for-group=kvm", "--chown-deny")
"""Whoever makes a file, it is QEMU's: `all_squash,anonuid=…,anongid=…`."""
ROOT_IS_NOBODY = ("--create-for-user=nobody", "--create-for-group=nogroup", "--chown-deny")
"""What root makes is nobody's, and stays so: `root_squash`, in a directory that anybody may write to."""
NOTHING_GIVEN_AWAY = ("--chown-deny",)
"""Everybody makes files of his own, and nobody may give one away: what `root_squash` leaves to QEMU's user."""


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
def mounted(source: Path, at: Path, options: Sequence[str]) -> Iterator[None]:
    """Lay a directory over another one for the time of the block.

    Raises:
        TestbedError: it could not be mounted, or is in use at the end.
    """
    log = source.with_name(f"{source.name}.bindfs.log")
    process = processes.start(["bindfs", "-f", *options, source, at], log=log)
    processes.wait_for(at.is_mount, what=f"Mounting {at}", process=process, log=log)
    try:
        yield
    finally:
        processes.run(["umount", str(at)])
        process.wait(60)
