"""A storage domain on a small file system of its own, which somebody else fills."""

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.libvirt_host import LibvirtHost
from tests.integration.migrations.machines import MEBIBYTE, Domain, empty
from tests.integration.migrations.stack import Stack

_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class SmallDomain:
    """The domain, where its file system is mounted, and how much room that has when it is empty."""

    domain: Domain
    mount: Path
    room_bytes: int

    @property
    def name(self) -> str:
        """The StorageDomain's."""
        return self.domain.name

    def available_bytes(self) -> int:
        """What is left."""
        found = os.statvfs(self.mount)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leaving: int = 0) -> None:
        """Somebody else's file takes the room, to the last block if nothing is to be left."""
        with self._filler.open("ab") as filler:
            step = self.available_bytes() - leaving
            while step >= _BLOCK_BYTES:
                try:
                    os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                else:
                    step = self.available_bytes() - leaving

    def free(self) -> None:
        """That file goes."""
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self.mount / "somebody-elses"


@contextmanager
def small_domain(stack: Stack, directory: Path, kind: str, *, mebibytes: int = 256) -> Iterator[SmallDomain]:
    """An ext4 of that size, and a ready StorageDomain of that kind on it; at the end of the block nothing is left.

    Its VMs have to be gone by then.
    """
    name = f"small-{kind}-{uuid.uuid4().hex[:8]}"
    image, mount = directory / f"{name}.ext4", directory / name
    with image.open("wb") as opened:
        opened.truncate(mebibytes * MEBIBYTE)
    _run("mkfs.ext4", "-q", "-m", "0", "-J", "size=4", image)
    mount.mkdir()
    domain = Domain(name, kind, mount / "volumes")
    with mount_for_all(stack.host, image, mount):
        try:
            domain.root.mkdir()
            stack.make_ready({name: domain})
            yield SmallDomain(domain, mount, mebibytes * MEBIBYTE)
        finally:
            stack.control_plane.kubectl("delete", "storagedomain", "--ignore-not-found", name)
            with suppress(FileNotFoundError):
                (mount / "somebody-elses").unlink()
            empty(domain)
    mount.rmdir()
    image.unlink()


@contextmanager
def mount_for_all(host: LibvirtHost, image: Path, mount: Path) -> Iterator[None]:
    """Mounts it here and for the host's processes, whom a mount of a system with private ones does not reach."""
    device = _run("losetup", "--find", "--show", image).strip()
    _run("mount", device, mount)
    _run(*host.inside(["sh", "-c", f"mountpoint -q {mount} || mount {device} {mount}"]))
    # From now on it goes with the last of these mounts.
    _run("losetup", "--detach", device)
    try:
        yield
    finally:
        _run(*host.inside(["sh", "-c", f"! mountpoint -q {mount} || umount {mount}"]))
        _run("umount", mount)


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout
