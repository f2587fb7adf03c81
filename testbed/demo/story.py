"""The demo itself: a disk moves from a file to block storage and back, and its records are judged."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.cluster import STORAGE_ROOT
from testbed.demo import manifests, watch
from testbed.demo.disk import RECORD_BYTES, verify_disk
from testbed.demo.extensions import Extended, read_extensions
from testbed.demo.manifests import FILES, LOOPS, NAMESPACE
from testbed.demo.screen import Screen, mebibytes, milliseconds, table
from testbed.demo.stage import VIRTUAL_MACHINE, Stage, set_up
from testbed.processes import TestbedError

_MOVE_TIMEOUT_SECONDS = 90


@dataclass(frozen=True)
class Scale:
    """How large the demo is: the data on the disk from the start, and how long the guest is watched before a move."""

    held_bytes: int
    quiet_seconds: float


WHOLE = Scale(held_bytes=256 * 2**20, quiet_seconds=4.0)
QUICK = Scale(held_bytes=128 * 2**20, quiet_seconds=1.0)


@dataclass(frozen=True)
class Stretch:
    """A part of the demo, and what the guest and its volumes did in it; the gap is between two acknowledged writes."""

    title: str
    seconds: float
    longest_gap_seconds: float
    written_bytes: int
    extensions: tuple[Extended, ...]

    @property
    def extension_count(self) -> int:
        """How often a volume was extended."""
        return sum(volume.times for volume in self.extensions)


class _Meter:
    """Takes note of where the guest and the agent's log are, and tells later what came since."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._start = time.monotonic()
        self._record = stage.guest.console.acknowledged
        self._log_lines = len(stage.agent_log())

    def read(self, title: str) -> Stretch:
        """Return the stretch from the making to now."""
        now = time.monotonic()
        console = self._stage.guest.console
        lines = self._stage.agent_log()[self._log_lines :]
        return Stretch(
            title=title,
            seconds=now - self._start,
            longest_gap_seconds=console.longest_gap_between_seconds(self._start, now),
            written_bytes=(console.acknowledged - self._record) * RECORD_BYTES,
            extensions=read_extensions(lines),
        )


def play(running: ExitStack, directory: Path, screen: Screen, scale: Scale) -> bool:
    """Play the whole demo and return whether nothing was lost.

    Raises:
        TestbedError: a part failed, or a migration did.
    """
    screen.head("Setting the stage")
    stage = set_up(running, directory, screen, held_bytes=scale.held_bytes)
    stretches = [_watch_quietly(stage, "no migration, on files", scale.quiet_seconds)]
    stretches.append(_move(stage, "web-1-to-block", source=FILES, destination=LOOPS))
    stretches.append(_watch_quietly(stage, "no migration, on loops", scale.quiet_seconds))
    stretches.append(_move(stage, "web-1-to-file", source=LOOPS, destination=FILES))
    return _judge(stage, stretches)


def _watch_quietly(stage: Stage, title: str, seconds: float) -> Stretch:
    meter = _Meter(stage)
    stage.guest.console.wait_for_more(1)
    time.sleep(seconds)
    stretch = meter.read(title)
    stage.screen.say(
        f"Watched the guest for {stretch.seconds:.0f} s with no migration: "
        f"longest gap between two writes {milliseconds(stretch.longest_gap_seconds)}."
    )
    _show_extensions(stage, stretch)
    return stretch


def _move(stage: Stage, name: str, *, source: str, destination: str) -> Stretch:
    title = f"{source} -> {destination}"
    stage.screen.head(f"Moving the disk: {title}")
    meter = _Meter(stage)
    stage.show_apply(manifests.disk_migration(name, virtual_machine=VIRTUAL_MACHINE, destination=destination))
    stage.screen.say(f"$ kubectl {' '.join(watch.COMMAND)}")
    with watch.shown_watch(stage.cluster.control_plane, stage.directory, stage.screen) as shown:
        _wait_for_end(stage, name)
        stretch = meter.read(title)
        status = _status(stage, name)
        shown.wait_for(name, str(status.get("phase")))
    if status.get("phase") != "Succeeded":
        failure = status.get("failure", {})
        raise TestbedError(f"The migration {name} is {status.get('phase')}: {failure.get('message', status)}")
    stage.screen.say(
        f"Moved in {stretch.seconds:.1f} s, while the guest wrote {mebibytes(stretch.written_bytes)}; "
        f"longest gap between two writes {milliseconds(stretch.longest_gap_seconds)}."
    )
    _show_extensions(stage, stretch, status)
    return stretch


def _wait_for_end(stage: Stage, name: str) -> None:
    # It is False only at the end, good or bad.
    end = ("--for=condition=Reconciling=False", f"--timeout={_MOVE_TIMEOUT_SECONDS}s")
    try:
        stage.kubectl("wait", f"diskmigration/{name}", "-n", NAMESPACE, *end)
    except TestbedError as error:
        raise TestbedError(f"The migration {name} did not come to an end: {error}") from error


def _status(stage: Stage, name: str) -> dict[str, Any]:
    found = json.loads(stage.kubectl("get", "diskmigration", name, "-n", NAMESPACE, "--output=json"))
    status: dict[str, Any] = found.get("status", {})
    return status


def _show_extensions(stage: Stage, stretch: Stretch, status: dict[str, Any] | None = None) -> None:
    if not stretch.extensions:
        return
    told = {
        volume["name"]: str(volume.get("extensions", 0))
        for side in ("source", "destination")
        for volume in (status or {}).get(side, {}).get("volumes", [])
    }
    rows = [
        (
            volume.volume,
            volume.storage_domain,
            str(volume.times),
            *((told.get(volume.volume, "-"),) if status else ()),
            f"{mebibytes(volume.from_bytes)} -> {mebibytes(volume.to_bytes)}",
        )
        for volume in stretch.extensions
    ]
    titles = ("VOLUME", "DOMAIN", "EXTENDED", *(("IN STATUS",) if status else ()), "SIZE")
    stage.screen.show(table(titles, *rows))


def _judge(stage: Stage, stretches: Sequence[Stretch]) -> bool:
    screen = stage.screen
    screen.head("Looking for every record")
    guest = stage.guest
    guest.power_off()
    screen.say(f"The guest is off; the last record that its disk acknowledged is number {guest.console.acknowledged}.")
    volume = _only_volume(stage)
    on_this_machine = stage.node.on_this_machine(volume)
    verdict = verify_disk(stage.disk, on_this_machine, acknowledged=guest.console.acknowledged, scratch=stage.directory)
    for problem in verdict.records.problems:
        screen.show(problem)
    bad = verdict.records.problem_count
    found = f"{bad} are lost or damaged" if bad else "all are there, whole"
    screen.say(f"Read {verdict.records.slots_checked} records back from {volume.name}: {found}.")
    held = "unchanged" if verdict.held_is_whole else "changed"
    screen.say(f"The {mebibytes(stage.disk.held_bytes)} that the disk held before are {held}.")
    screen.gap()
    rows = [
        (
            stretch.title,
            f"{stretch.seconds:.1f} s",
            mebibytes(stretch.written_bytes),
            milliseconds(stretch.longest_gap_seconds),
            str(stretch.extension_count),
        )
        for stretch in stretches
    ]
    screen.show(table(("PART", "TIME", "WRITTEN", "LONGEST GAP", "EXTENSIONS"), *rows))
    screen.gap()
    return verdict.ok


def _only_volume(stage: Stage) -> Path:
    """The volume that the persistent definition names: the only one that is left in either storage domain."""
    left = [
        STORAGE_ROOT / path.relative_to(stage.node.storage)
        for domain in (FILES, LOOPS)
        for path in (stage.node.storage / domain).rglob("*")
        if not path.is_dir()
    ]
    disks = [line.split() for line in stage.node.libvirt.virsh("domblklist", VIRTUAL_MACHINE).splitlines()]
    if disks != [["vda", str(path)] for path in left]:
        raise TestbedError(f"The VM's disks are {disks}, but the storage domains hold {[str(path) for path in left]}.")
    return left[0]
