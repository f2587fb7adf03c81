"""The control groups of a cluster: one tree a node, in every hierarchy of the system."""

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
        for directory, _, _ in os.walk(top, topdown=False):
            while not _removed(Path(directory)):
                if time.monotonic() > deadline:
                    processes = (Path(directory) / "cgroup.procs").read_text().split()
                    raise TestbedError(f"The control group {directory} cannot be removed; its processes: {processes}.")
                time.sleep(0.02)


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
