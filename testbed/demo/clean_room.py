"""The one directory that the demo works in, and the proof that nothing of it is left."""

import shutil
import tempfile
from pathlib import Path

from testbed import processes
from testbed.processes import TestbedError

# On a disk, as tmpfs knows no O_DIRECT; and short, as libvirt's socket lies in it.
_ROOT = Path("/var/tmp")  # noqa: S108 - the directory in it is made by mkdtemp
_NEEDED_BYTES = 6 * 2**30


def make_directory() -> Path:
    """Make a directory of the demo's own.

    Raises:
        TestbedError: there is too little room for it.
    """
    free_bytes = shutil.disk_usage(_ROOT).free
    if free_bytes < _NEEDED_BYTES:
        raise TestbedError(
            f"{_ROOT} has {free_bytes / 2**30:.1f} GiB free, and the demo needs {_NEEDED_BYTES / 2**30:.0f}: "
            "make room there."
        )
    return Path(tempfile.mkdtemp(prefix="dm-demo-", dir=_ROOT))


def clear(directory: Path) -> None:
    """Kill what still runs, detach the loop devices of the directory's files, and remove it.

    Raises:
        TestbedError: a loop device could not be detached.
        OSError: a file could not be removed.
    """
    processes.kill_descendants()
    for device, _ in _loop_devices(directory):
        processes.run(["losetup", "--detach", device])
    shutil.rmtree(directory)


def traces(directory: Path) -> list[str]:
    """Return what is left, for people: processes, mounts in any namespace, loop devices, files. Empty when nothing."""
    found = [f"loop device {device} of {file}" for device, file in _loop_devices(directory)]
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


def _loop_devices(directory: Path) -> list[tuple[str, str]]:
    """Each loop device of a file in the directory, a deleted one too, with the file's name."""
    printed = processes.run(["losetup", "--list", "--noheadings", "--raw", "--output=NAME,BACK-FILE"])
    attached = (line.partition(" ")[::2] for line in printed.splitlines())
    return [(device, file) for device, file in attached if Path(file).is_relative_to(directory)]
