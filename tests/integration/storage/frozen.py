"""A file system that hangs."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until


@contextmanager
def file_system(scratch: Path) -> Iterator[Path]:
    """A small ext4, mounted until the end of the block."""
    image, mount = scratch / "image", scratch / "mount"
    with image.open("wb") as opened:
        opened.truncate(16 * 2**20)
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        wait_until(lambda: subprocess.run(["umount", str(mount)], check=False).returncode == 0, "nobody uses it")


@contextmanager
def frozen(mount: Path) -> Iterator[None]:
    """For the block a write to it waits, and cannot be interrupted."""
    subprocess.run(["fsfreeze", "--freeze", str(mount)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(mount)], check=True)
