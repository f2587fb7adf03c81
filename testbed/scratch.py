"""Directories for volumes and for what the testbed's programs keep."""

import tempfile
from pathlib import Path

# On a disk, as tmpfs knows no O_DIRECT; and short, as libvirt's sockets lie in it.
ON_DISK = Path("/var/tmp")  # noqa: S108 - each directory in it is made by mkdtemp


def make_directory(prefix: str, *, root: Path = ON_DISK) -> Path:
    """Make a new directory that QEMU's user can pass, and return its path; the caller removes it."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    directory.chmod(0o755)
    return directory
