"""Volume groups on loop devices, made and removed with lvm2 itself and never with what is tested."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20


def run(*command: str) -> str:
    """What the command printed; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


@dataclass(frozen=True)
class Group:
    """A volume group of one test's own."""

    name: str
    devices: tuple[str, ...]

    def row(self, volume: str, *fields: str) -> dict[str, str] | None:
        """What `lvs` reports of the volume, or None where there is none."""
        wanted = ["lv_name", "lv_size", "lv_tags", "lv_active", *fields]
        printed = run(
            *["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", ",".join(wanted), self.name]
        )
        found: list[dict[str, Any]] = json.loads(printed)["report"][0]["lv"]
        return next((row for row in found if row["lv_name"] == volume), None)

    def tags(self, volume: str) -> set[str]:
        """The volume's tags."""
        row = self.row(volume)
        assert row is not None
        return {tag for tag in row["lv_tags"].split(",") if tag}

    def make(self, volume: str, mebibytes: int, *tags: str) -> Path:
        """A volume as an administrator makes it."""
        added = [word for tag in tags for word in ("--addtag", tag)]
        run("lvcreate", "--yes", "--size", f"{mebibytes}m", *added, "--name", volume, self.name)
        return Path("/dev") / self.name / volume


@contextmanager
def volume_group(scratch: Path, name: str, *, mebibytes: int = 256, devices: int = 1) -> Iterator[Group]:
    """A group on so many devices of that size each; whatever is on it goes at the end."""
    paths = []
    try:
        for number in range(devices):
            file = scratch / f"{name}-{number}"
            with file.open("wb") as made:
                made.truncate(mebibytes * MIB)
            paths.append(run("losetup", "--find", "--show", str(file)).strip())
        run("vgcreate", "--yes", name, *paths)
        yield Group(name, tuple(paths))
    finally:
        subprocess.run(["vgremove", "--yes", "--force", "--force", name], capture_output=True, check=False)
        for path in paths:
            subprocess.run(["pvremove", "--yes", "--force", "--force", path], capture_output=True, check=False)
            run("losetup", "--detach", path)
