"""Keep the history of each thin volume that one VM has open, and judge its disks by it."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from diskmigration.agent.extender import write_rate
from diskmigration.agent.extender.plausibility import Plausibility
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk
from diskmigration.agent.extender.write_rate import WriteRate
from diskmigration.api.errors import MigrationError


@dataclass(frozen=True)
class ArmedThreshold:
    """A write past `offset` sends an event since the time `at`; 0 arms nothing."""

    offset: int
    at: float


@dataclass(frozen=True)
class VolumeHistory:
    """What is known of one open volume over time; `storage_domain` and `head_room` are those that are in force."""

    path: str
    write_rate: WriteRate
    plausibility: Plausibility = field(default_factory=Plausibility)
    armed: ArmedThreshold | None = None
    storage_domain: str = ""
    head_room: int = 0

    @staticmethod
    def begin(path: str, *, at: float) -> "VolumeHistory":
        """Return the history of a volume of which nothing was reported yet."""
        return VolumeHistory(path, WriteRate(at, 0))

    def reported(self, volume: OpenVolume, *, at: float) -> "VolumeHistory":
        """Return the history with one more report; an implausible one leaves nothing to reckon with."""
        plausibility = self.plausibility.updated(volume.thin)
        if plausibility.problem is not None:
            return replace(VolumeHistory.begin(self.path, at=at), plausibility=plausibility)
        rate = self.write_rate.updated(at, volume.thin.allocated)
        return replace(self, plausibility=plausibility, write_rate=rate)

    def written_up_to(self, offset: int, *, at: float) -> "VolumeHistory":
        """Return the history with a write up to that offset."""
        return replace(self, write_rate=self.write_rate.updated(at, offset))

    def rate(self, now: float) -> float:
        """Return how fast the volume fills, in bytes per second."""
        return self.write_rate.rate.now(now)

    def passed_at(self, allocated: int, *, now: float) -> float:
        """Estimate when the threshold was passed, of a volume that is written up to `allocated`."""
        if self.armed is None or self.armed.offset == 0:
            return now
        return write_rate.passed_at(
            allocated=allocated, armed=self.armed.offset, armed_at=self.armed.at, rate=self.rate(now), now=now
        )

    def expected_allocation(self, now: float) -> int:
        """Return how far the volume is probably written by now."""
        return self.write_rate.allocated + int(self.rate(now) * (now - self.write_rate.at))


Histories = Mapping[str, VolumeHistory]
"""By libvirt's device, `vda[2]`, which names one open volume for as long as one run of the VM lasts."""


def updated(before: Histories, volumes: Iterable[OpenVolume], *, at: float, is_whole: bool) -> Histories:
    """Return the histories with one more report of the VM's volumes.

    A report that is whole ends the histories of the volumes that it does not have. One that is not leaves them as they
    were: nothing is known of these volumes at the moment.
    """
    after = {} if is_whole else dict(before)
    for volume in volumes:
        last = before.get(volume.device)
        if last is None or last.path != volume.path:
            last = VolumeHistory.begin(volume.path, at=at)
        after[volume.device] = last.reported(volume, at=at)
    return after


def implausible(histories: Histories) -> frozenset[str]:
    """Return the paths of the volumes whose last report was implausible."""
    return frozenset(history.path for history in histories.values() if history.plausibility.problem is not None)


def lasting_problems(histories: Histories) -> dict[str, MigrationError]:
    """Return what is implausible for so long that the user is told, by the volume's path."""
    errors = {history.path: history.plausibility.error(history.path) for history in histories.values()}
    return {path: error for path, error in errors.items() if error is not None}


def due_since(histories: Histories, disk: ThinDisk, *, now: float) -> float:
    """Estimate when the first of the disk's thresholds was passed."""
    known = ((histories.get(volume.device), volume.thin.allocated) for volume in disk.volumes)
    return min(now if last is None else last.passed_at(allocated, now=now) for last, allocated in known)


def full_at(histories: Histories, disk: ThinDisk, *, now: float) -> float:
    """Return when the first of the disk's volumes is full if it goes on so; infinite where nothing is written."""
    rates = _rates(histories, disk, now)
    return now + min(
        write_rate.seconds_until_full(free=volume.free, rate=rates[volume.device]) for volume in disk.volumes
    )


def seconds_to_spare(histories: Histories, volume: OpenVolume, *, extension_seconds: float, now: float) -> float:
    """Return how long the volume's extension, which takes so long, can be put off."""
    last = histories.get(volume.device)
    allocated = max(volume.thin.allocated, last.expected_allocation(now) if last is not None else 0)
    rate = last.rate(now) if last is not None else 0.0
    free = volume.thin.physical - allocated
    return write_rate.seconds_to_spare(free=free, rate=rate, extension_seconds=extension_seconds)


def adapted(histories: Histories, disk: ThinDisk, latency_of: Callable[[str], float], *, now: float) -> ThinDisk:
    """Return the disk with the head room and the chunks for its write rates.

    `latency_of` returns how long an extension takes in a storage domain. The slowest of the disk's domains counts, as
    one side waits for the other.
    """
    latency = max(latency_of(volume.domain.name) for volume in disk.volumes)
    return disk.adapted(_rates(histories, disk, now), latency=latency)


def _rates(histories: Histories, disk: ThinDisk, now: float) -> dict[str, float]:
    known = {volume.device: histories.get(volume.device) for volume in disk.volumes}
    return {device: last.rate(now) if last is not None else 0.0 for device, last in known.items()}


class VolumeHistories:
    """Holds the histories of one VM. Thread-safe: events and observations come on different threads."""

    def __init__(self) -> None:
        """Start with no volumes."""
        self._lock = threading.Lock()
        self._run: int | None = None
        self._histories: Histories = {}

    def current(self) -> Histories:
        """Return the histories as they are now; what is returned does not change."""
        return self._histories

    def update(self, run: int, volumes: Iterable[OpenVolume], *, at: float, is_whole: bool) -> None:
        """Record a report of the VM's volumes in its run of that number."""
        with self._lock:
            before = self._histories if run == self._run else {}
            self._run, self._histories = run, updated(before, volumes, at=at, is_whole=is_whole)

    def clear(self) -> None:
        """Forget all volumes, as the VM does not run."""
        with self._lock:
            self._histories = {}

    def note_still(self, *, at: float) -> None:
        """Record that no volume was written to since the last report."""
        with self._lock:
            self._histories = {
                device: last.written_up_to(last.write_rate.allocated, at=at) for device, last in self._histories.items()
            }

    def note_written(self, device: str, offset: int, *, at: float) -> None:
        """Record a write up to that offset."""
        self._change(device, lambda last: last.written_up_to(offset, at=at))

    def note_armed(self, device: str, offset: int, *, at: float) -> None:
        """Record that a write past that offset sends an event from now on."""
        self._change(device, lambda last: replace(last, armed=ArmedThreshold(offset, at)))

    def adapt(self, disk: ThinDisk, latency_of: Callable[[str], float]) -> ThinDisk:
        """Return the disk with the head room and the chunks for its write rates, and record that they are in force."""
        found = adapted(self._histories, disk, latency_of, now=time.monotonic())
        for volume in found.volumes:
            name, head_room = volume.domain.name, volume.thin.policy.high_watermark
            self._change(volume.device, partial(replace, storage_domain=name, head_room=head_room))
        return found

    def _change(self, device: str, change: Callable[[VolumeHistory], VolumeHistory]) -> None:
        with self._lock:
            if (last := self._histories.get(device)) is not None:
                self._histories = {**self._histories, device: change(last)}
