"""The loop devices over files of a directory: they are the machine's, and outlive those who made them."""

import json
import os
from pathlib import Path

from testbed import processes


def attached(directory: Path) -> list[str]:
    """Return the devices whose backing file is in `directory`, known by its inode.

    The file's name is no help: it is the one that it had in the mount namespace of who attached it.
    """
    listing = processes.run(["losetup", "--list", "--json", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"])
    # It prints nothing at all when there is none.
    devices = json.loads(listing)["loopdevices"] if listing.strip() else []
    if not devices or not directory.exists():
        return []
    device = directory.stat().st_dev
    file_system = f"{os.major(device)}:{os.minor(device)}"
    inodes = {path.lstat().st_ino for path in directory.rglob("*")}
    return [
        each["name"]
        for each in devices
        # Padded with spaces.
        if each["back-maj:min"].strip() == file_system and int(each["back-ino"]) in inodes
    ]


def detach(directory: Path) -> None:
    """Detach all of them.

    Raises:
        TestbedError: losetup could not.
    """
    for device in attached(directory):
        processes.run(["losetup", "--detach", device])
