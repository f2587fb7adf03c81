"""The loop devices over files of a directory, as this mount namespace names them; root may detach them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until


def attached(root: Path) -> dict[str, Path]:
    """Each loop device with a file below the root, and that file; a file may have several."""
    printed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE"], capture_output=True, text=True, check=True
    ).stdout
    # One that is being detached by somebody else just now has no file any more.
    pairs = [pair for line in printed.splitlines() if len(pair := line.split(maxsplit=1)) == 2]
    return {device: file for device, name in pairs if (file := Path(name.strip())).is_relative_to(root)}


def detach(root: Path, *, only: Callable[[Path], bool] = lambda _: True) -> None:
    """Detaches all of them, or those of some files, and waits until they are: one that somebody has open stays."""

    def left() -> list[str]:
        return [device for device, file in attached(root).items() if only(file)]

    for device in left():
        # The kernel keeps the owner for whoever gets the number next.
        os.chown(device, 0, 0)
        # It fails of one that was detached before, and went by itself in the meantime.
        subprocess.run(["losetup", "--detach", device], check=False)
    wait_until(lambda: not left(), f"no loop device below {root} is left")
