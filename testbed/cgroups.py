"""Control groups, in every hierarchy of the system: one tree for each node of a cluster, and those of libvirt."""

import errno
import os
import time
from pathlib import Path

from testbed.processes import TestbedError

_SYSTEM = Path("/sys/fs/cgroup")
_TIMEOUT_SECONDS = 30


def make(name: str) -> None:
    """Make the group `name`, a path from the root of each hierarchy."""
    for hierarchy in _hierarchies():
        group = hierarchy
        for part in Path(name).parts:
            group /= part
            group.mkdir(exist_ok=True)
            # In version 1 a cpuset without processors and memory takes no process.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists() and not (group / setting).read_text().strip():
                    (group / setting).write_text((group.parent / setting).read_text())


def existing(name: str) -> list[Path]:
    """Return the directories of the group `name`."""
    return [hierarchy / name for hierarchy in _hierarchies() if (hierarchy / name).exists()]


def remove(name: str) -> None:
    """Remove the group `name` and all in it; the last of its processes may be about to end.

    Raises:
        TestbedError: there is a process in it still.
    """
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    for top in existing(name):
        for group in _tree(top):
            while not _removed(group):
                if time.monotonic() > deadline:
                    raise TestbedError(f"The control group {group} cannot be removed: {_processes(group)} are in it.")
                time.sleep(0.02)


def remove_unused(name: str) -> None:
    """Remove the group `name` and all in it from each hierarchy where no process is in it."""
    for top in existing(name):
        if not any(map(_processes, _tree(top))):
            for group in _tree(top):
                _removed(group)


def _tree(top: Path) -> list[Path]:
    """Return the group and all in it, the innermost first."""
    return [Path(directory) for directory, _, _ in os.walk(top, topdown=False)]


def _processes(group: Path) -> list[str]:
    """Return the numbers of the processes in the group; those of a threaded one are told of the group above it."""
    try:
        return (group / "cgroup.procs").read_text().split()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        return []


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _hierarchies() -> list[Path]:
    if (_SYSTEM / "cgroup.controllers").exists():
        return [_SYSTEM]
    return [each for each in sorted(_SYSTEM.iterdir()) if not each.is_symlink() and (each / "cgroup.procs").exists()]
