"""The one directory that the demo works in, and the proof that nothing of it is left."""

import shutil
from pathlib import Path

from testbed import processes, scratch
from testbed.cluster import claims, loops
from testbed.processes import TestbedError

_NEEDED_BYTES = 6 * 2**30


def cluster_directory(directory: Path) -> Path:
    """Return where in the directory the cluster is."""
    return directory / "cluster"


def make_directory() -> Path:
    """Make a directory of the demo's own.

    Raises:
        TestbedError: there is too little room for it.
    """
    free_bytes = shutil.disk_usage(scratch.ON_DISK).free
    if free_bytes < _NEEDED_BYTES:
        raise TestbedError(
            f"{scratch.ON_DISK} has {free_bytes / 2**30:.1f} GiB free, and the demo needs {_NEEDED_BYTES / 2**30:.0f}: "
            "make room there."
        )
    return scratch.make_directory("dm-demo-")


def clear(directory: Path) -> None:
    """Kill what still runs, remove what a cluster that was cut off has left, detach loop devices, remove the directory.

    Raises:
        TestbedError: a loop device could not be detached.
        OSError: a file could not be removed.
    """
    processes.kill_descendants()
    claims.remove_abandoned()
    loops.detach(directory)
    shutil.rmtree(directory)


def traces(directory: Path) -> list[str]:
    """Return what is left, for people: of the cluster, processes, mounts, loop devices, files. Empty when nothing."""
    found = claims.remains(cluster_directory(directory))
    found += [f"loop device {device}" for device in loops.attached(directory)]
    if directory.exists():
        found.append(f"directory {directory}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            # Every process of the libvirt host has the directory mounted over the system's.
            told = (process / "cmdline").read_text() + (process / "mountinfo").read_text()
        except OSError:
            # It ended while it was looked at.
            continue
        if str(directory) in told:
            found.append(f"process {process.name} ({name})")
    return found
