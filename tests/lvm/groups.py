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


@dataclass(frozen=True)
class Suspendable:
    """A device of device-mapper that can be told to answer nothing."""

    name: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path("/dev/mapper") / self.name

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Have it hang for the time of the block: requests wait in the kernel."""
        run("dmsetup", "suspend", "--nolockfs", "--noflush", self.name)
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        """Have it answer again."""
        run("dmsetup", "resume", self.name)


@contextmanager
def suspendable_device(scratch: Path, name: str, *, mebibytes: int) -> Iterator[Suspendable]:
    """A device of that size."""
    with loop_device(scratch / name, mebibytes=mebibytes + 1) as loop:
        # Not from the loop device's start: LVM would take that device for another one of the same physical volume.
        run("dmsetup", "create", name, f"--table=0 {mebibytes * 2048} linear {loop} 2048")
        try:
            yield Suspendable(name)
        finally:
            run("dmsetup", "remove", "--retry", name)


@contextmanager
def loop_device(file: Path, *, mebibytes: int) -> Iterator[str]:
    """A loop device on a file of that size."""
    with file.open("wb") as made:
        made.truncate(mebibytes * MIB)
    loop = run("losetup", "--find", "--show", str(file)).strip()
    try:
        yield loop
    finally:
        run("losetup", "--detach", loop)
        file.unlink()


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
