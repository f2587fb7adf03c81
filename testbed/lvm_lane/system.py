"""The VM's system: a disk image with its kernel and initramfs, made once for each state of what goes into it."""

import fcntl
import hashlib
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.binaries import cache_directory
from testbed.images.base import ensure_base
from testbed.images.build import reserved_directory
from testbed.images.host_settings import write_host_settings
from testbed.images.storage import open_storage
from testbed.processes import TestbedError

_HERE = Path(__file__).resolve().parent
_SOURCES = {
    "Dockerfile": _HERE / "Dockerfile",
    "init": _HERE / "init",
    "requirements/dev.lock": _HERE.parents[1] / "requirements" / "dev.lock",
}
# Named, their layers are kept for the next build.
_PACKAGES_NAME = "localhost/diskmigration-lvm-lane-packages:dev"
_SYSTEM_NAME = "localhost/diskmigration-lvm-lane:dev"
_ROOT_MEBIBYTES = 4096
_MAKE_TIMEOUT_SECONDS = 600
_KEPT = 2
# Somebody may be about to boot one that is older than those.
_KEPT_SECONDS = 600


@dataclass(frozen=True)
class System:
    """What the VM boots from; nobody writes to `root`."""

    root: Path
    kernel: Path
    initrd: Path


def lane_system() -> System:
    """Return the system of the checkout as it is now, built where it is missing: some minutes at first.

    Raises:
        TestbedError: buildah, debootstrap or mke2fs failed; the message has their output.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    built = cache / f"lvm-lane-{_digest()}"
    with (cache / ".lvm-lane.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            print("Building the system of the LVM lane's VM (some minutes, once)", file=sys.stderr, flush=True)
            _build(built)
        built.touch()
        by_age = sorted((time.time() - each.stat().st_mtime, each) for each in cache.glob("lvm-lane-*"))
        for age_seconds, old in by_age[_KEPT:]:
            if age_seconds > _KEPT_SECONDS:
                shutil.rmtree(old)
    return System(root=built / "root.img", kernel=built / "vmlinuz", initrd=built / "initrd")


def _digest() -> str:
    digest = hashlib.sha256()
    # How it is made counts as well.
    for name, path in sorted({**_SOURCES, "system.py": Path(__file__)}.items()):
        digest.update(f"\n{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _build(built: Path) -> None:
    with reserved_directory() as (directory, scratch):
        context = scratch / "context"
        for name, path in _SOURCES.items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, context / name)
        storage = open_storage(directory, scratch)
        ensure_base(storage)
        root, made = scratch / "root", scratch / "made"
        made.mkdir()
        volumes = write_host_settings(scratch)
        storage.build(context, name=_PACKAGES_NAME, target="packages", volumes=volumes)
        storage.build(context, name=_SYSTEM_NAME, volumes=volumes)
        storage.write_files(context, root, volumes=volumes)
        shutil.copyfile(_only(root, "boot/vmlinuz-*"), made / "vmlinuz")
        shutil.copyfile(_only(root, "boot/initrd.img-*"), made / "initrd")
        make_disk(made / "root.img", root, mebibytes=_ROOT_MEBIBYTES)
        # Renamed into its place when whole: an interrupted build leaves nothing that looks done.
        made.rename(built)


def make_disk(disk: Path, content: Path, *, mebibytes: int) -> None:
    """Make a sparse disk image with an ext4 that holds the directory's files."""
    processes.run(
        ["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", content, disk, f"{mebibytes}M"],
        timeout_seconds=_MAKE_TIMEOUT_SECONDS,
    )


def _only(root: Path, pattern: str) -> Path:
    found = list(root.glob(pattern))
    if len(found) != 1:
        raise TestbedError(f"The VM's system has {len(found)} files {pattern}, where one was expected.")
    return found[0]
