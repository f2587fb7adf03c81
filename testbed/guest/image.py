"""The guest's kernel and initramfs, made once and kept outside the checkout."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.binaries import cache_directory
from testbed.processes import TestbedError

_WRITER = Path(__file__).resolve().parent / "writer"
# It depends on the newest kernel of this Debian.
_KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
# In the order in which the kernel can load them.
_MODULES = (
    "evdev",
    "button",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
_DOWNLOAD_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class GuestImage:
    """What the guest boots from."""

    kernel: Path
    initrd: Path


def guest_image() -> GuestImage:
    """Return the guest's kernel and initramfs, made where they are missing: once for each kernel and writer's source.

    Raises:
        TestbedError: the kernel could not be had from Debian, or the writer or the initramfs could not be built.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    kernel = cache / "guest-kernel"
    with (cache / ".guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((kernel / name).exists() for name in ("vmlinuz", *(f"{module}.ko" for module in _MODULES))):
            _fetch_kernel(kernel)
        initrd = cache / f"guest-initrd-{_digest(kernel)}.cpio"
        if not initrd.exists():
            _build_initrd(kernel, initrd)
    return GuestImage(kernel=kernel / "vmlinuz", initrd=initrd)


def _digest(kernel: Path) -> str:
    digest = hashlib.sha256("\n".join(_MODULES).encode())
    # The kernel loads only the modules that were built with it.
    digest.update((kernel / "vmlinuz").read_bytes())
    for source in sorted([*_WRITER.glob("*.go"), _WRITER / "go.mod", _WRITER / "go.sum"]):
        digest.update(f"\n{source.name}\n".encode() + source.read_bytes())
    return digest.hexdigest()[:12]


def _fetch_kernel(destination: Path) -> None:
    print("Fetching the guest's kernel from Debian (once)", file=sys.stderr, flush=True)
    # Renamed into its place when whole: what is interrupted leaves nothing that looks done.
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        unfinished = Path(scratch)
        # Without this, apt's own user could not write here, and apt warns.
        processes.run(["chown", "_apt", unfinished])
        try:
            package = _kernel_package()
        except TestbedError:
            processes.run(["apt-get", "-q", "update"], timeout_seconds=_DOWNLOAD_TIMEOUT_SECONDS)
            package = _kernel_package()
        command = ["apt-get", "-q", "download", package]
        completed = subprocess.run(
            command,
            cwd=unfinished,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
        )
        archives = list(unfinished.glob("*.deb"))
        if completed.returncode != 0 or len(archives) != 1:
            raise TestbedError(f"{' '.join(command)}: {completed.stderr}{completed.stdout}")
        unpacked = unfinished / "unpacked"
        processes.run(["dpkg-deb", "--extract", archives[0], unpacked])
        kept = unfinished / "kept"
        kept.mkdir()
        shutil.move(_only(unpacked, "boot/vmlinuz-*"), kept / "vmlinuz")
        for module in _MODULES:
            shutil.move(_only(unpacked, f"lib/modules/*/kernel/drivers/**/{module}.ko"), kept)
        # One that lacks a module, which an earlier state of this file did not ask for.
        if destination.exists():
            shutil.rmtree(destination)
        kept.rename(destination)


def _kernel_package() -> str:
    answer = processes.run(["apt-cache", "show", "--no-all-versions", _KERNEL_METAPACKAGE])
    depends = re.search(r"^Depends: (linux-image-\S+)", answer, re.MULTILINE)
    if depends is None:
        raise TestbedError(f"The package {_KERNEL_METAPACKAGE} names no kernel:\n{answer}")
    return depends[1]


def _only(root: Path, pattern: str) -> Path:
    found = list(root.glob(pattern))
    if len(found) != 1:
        raise TestbedError(f"Debian's kernel package has {len(found)} files {pattern}, where one was expected.")
    return found[0]


def _build_initrd(kernel: Path, destination: Path) -> None:
    if shutil.which("go") is None:
        raise TestbedError("Go is needed to build the guest's writer: install it.")
    print("Building the guest's writer", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        root = Path(scratch) / "root"
        (root / "modules").mkdir(parents=True)
        completed = subprocess.run(
            ["go", "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", str(root / "init"), "."],
            cwd=_WRITER,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode != 0:
            raise TestbedError(f"The guest's writer could not be built:\n{completed.stderr}")
        for place, module in enumerate(_MODULES):
            shutil.copyfile(kernel / f"{module}.ko", root / "modules" / f"{place:02}-{module}.ko")
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        unfinished = Path(scratch) / destination.name
        # Not compressed: the guest's emulated processor would take longer to unpack it than to read it.
        processes.run(
            ["cpio", "--quiet", "--create", "--format=newc", f"--directory={root}", f"--file={unfinished}"],
            stdin="".join(f"{name}\n" for name in names),
        )
        unfinished.rename(destination)
