"""The pace of every open volume and the latency of every storage domain, as they were seen; exported as metrics."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from diskmigration.agent import metrics
from diskmigration.agent.extender import pace
from diskmigration.agent.extender.pace import Pace, Peak
from diskmigration.agent.extender.watched import WatchedDisk, WatchedVolume

_Opened = tuple[str, str]


@dataclass(frozen=True)
class _Armed:
    offset: int
    at: float


class Paces:
    """Thread-safe. An open volume is known by its VM's uuid and by libvirt's device."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._guard = threading.Lock()
        self._paces: dict[_Opened, Pace] = {}
        self._armed: dict[_Opened, _Armed] = {}
        self._paths: dict[_Opened, str] = {}
        self._latencies: dict[str, Peak] = {}
        self._durations: dict[str, Peak] = {}
        self._in_force: dict[_Opened, tuple[str, int]] = {}

    def see(self, uuid: str, volumes: Iterable[WatchedVolume], *, at: float, is_whole: bool = True) -> None:
        """Takes in how far the VM's volumes are written; of all of them, those that are not told of are forgotten."""
        with self._guard:
            found = {(uuid, volume.statistics.device): volume for volume in volumes}
            for opened in [opened for opened in self._paces if opened[0] == uuid]:
                is_gone = is_whole and opened not in found
                if is_gone or (opened in found and self._paths[opened] != found[opened].thin.path):
                    self._drop(opened)
            for opened, volume in found.items():
                self._paths[opened] = volume.thin.path
                before = self._paces.get(opened, Pace(at, 0))
                self._paces[opened] = before.seen(at, volume.thin.allocated) if at >= before.at else before

    def see_still(self, uuid: str, *, at: float) -> None:
        """Takes in that nothing was written to any of the VM's volumes: a rate is that of the time since."""
        with self._guard:
            for opened, before in self._paces.items():
                if opened[0] == uuid and at >= before.at:
                    self._paces[opened] = before.seen(at, before.allocated)

    def see_passed(self, uuid: str, device: str, offset: int, *, at: float) -> None:
        """Takes in a write that went up to that offset."""
        with self._guard:
            before = self._paces.get((uuid, device))
            if before is not None and at >= before.at:
                self._paces[uuid, device] = before.seen(at, offset)

    def note_armed(self, uuid: str, device: str, offset: int) -> None:
        """A write past that offset sends an event from now on."""
        with self._guard:
            if (uuid, device) in self._paces:
                self._armed[uuid, device] = _Armed(offset, time.monotonic())

    def note_growth(self, storage_domain: str, *, since_due: float, since_begun: float) -> None:
        """A volume of the storage domain has grown so long after its threshold was passed, and after it was begun."""
        with self._guard:
            now = time.monotonic()
            latency = self._latencies.get(storage_domain, Peak()).raised_to(since_due, now)
            self._latencies[storage_domain] = latency
            self._durations[storage_domain] = self._durations.get(storage_domain, Peak()).raised_to(since_begun, now)
            metrics.EXTENSION_LATENCY.labels(storage_domain).set(latency.now(now))

    def due_since(self, uuid: str, disk: WatchedDisk) -> float:
        """When the first of the disk's thresholds was passed, as far as can be told of those that sent no event."""
        with self._guard:
            now = time.monotonic()
            return min(self._passed_at(uuid, volume, now) for volume in disk.volumes)

    def full_at(self, uuid: str, disk: WatchedDisk) -> float:
        """When the first of the disk's volumes is full if it goes on so; infinite where nothing is written."""
        with self._guard:
            now = time.monotonic()
            return now + min(
                pace.seconds_until_full(
                    free=volume.thin.physical - volume.thin.allocated,
                    rate=self._rate((uuid, volume.statistics.device), now),
                )
                for volume in disk.volumes
            )

    def patience(self, uuid: str, *, source: WatchedVolume, mirror: WatchedVolume) -> float:
        """How long the source's extension may wait for the destination's, in seconds.

        Until the guest would run full before its own is done. Where it has, it stands still anyway, and goes on beside
        a destination that has grown, or that takes longer than it ever did.
        """
        with self._guard:
            if source.thin.is_full:
                return pace.SAFETY * self._duration(mirror)
            now = time.monotonic()
            opened = (uuid, source.statistics.device)
            rate = self._rate(opened, now)
            seen = self._paces.get(opened, Pace(now, 0))
            allocated = max(source.thin.allocated, seen.allocated + int(rate * (now - seen.at)))
            return pace.patience(free=source.thin.physical - allocated, rate=rate, seconds=self._duration(source))

    def adapted(self, uuid: str, disk: WatchedDisk) -> WatchedDisk:
        """The disk with the head room and the chunks that its pace asks for.

        The slowest of its domains counts, as one side waits for the other. A mirror gets what its source gets, as all
        that is written to the source comes to the mirror; the copy itself fills the mirror alone.
        """
        with self._guard:
            now = time.monotonic()
            latency = max(self._latencies.get(volume.domain.name, Peak()).now(now) for volume in disk.volumes)
            fastest = max(self._rate((uuid, volume.statistics.device), now) for volume in disk.volumes)

            def change(volume: WatchedVolume | None) -> WatchedVolume | None:
                if volume is None:
                    return None
                own = self._rate((uuid, volume.statistics.device), now)
                rate = fastest if volume is disk.mirror else own
                policy = pace.adapted(volume.thin.policy, rate=rate, latency=latency)
                if (opened := (uuid, volume.statistics.device)) in self._paces:
                    self._in_force[opened] = (volume.domain.name, policy.high_watermark)
                return replace(volume, thin=replace(volume.thin, policy=policy))

            return replace(disk, active=change(disk.active), mirror=change(disk.mirror))

    def export(self, storage_domains: Iterable[str]) -> None:
        """Sets the gauges of these domains to what is true now."""
        with self._guard:
            now = time.monotonic()
            for name in storage_domains:
                opened = [key for key, (domain, _) in self._in_force.items() if domain == name]
                rate = max((self._rate(key, now) for key in opened), default=0.0)
                metrics.WRITE_RATE.labels(name).set(rate)
                metrics.HEAD_ROOM.labels(name).set(max((self._in_force[key][1] for key in opened), default=0))
                metrics.EXTENSION_LATENCY.labels(name).set(self._latencies.get(name, Peak()).now(now))

    def forget(self, uuid: str) -> None:
        """The VM does not run any more."""
        with self._guard:
            for opened in [opened for opened in self._paces if opened[0] == uuid]:
                self._drop(opened)

    def _drop(self, opened: _Opened) -> None:
        for known in (self._paces, self._armed, self._paths, self._in_force):
            known.pop(opened, None)

    def _rate(self, opened: _Opened, now: float) -> float:
        found = self._paces.get(opened)
        return found.rate.now(now) if found is not None else 0.0

    def _duration(self, volume: WatchedVolume) -> float:
        """Without the time that it waited, and not faded: a domain that was slow a minute ago is slow still."""
        found = self._durations.get(volume.domain.name)
        return found.value if found is not None else pace.UNMEASURED_SECONDS

    def _passed_at(self, uuid: str, volume: WatchedVolume, now: float) -> float:
        opened = (uuid, volume.statistics.device)
        armed = self._armed.get(opened)
        if armed is None or armed.offset == 0:
            return now
        return pace.passed_at(
            allocated=volume.thin.allocated,
            armed=armed.offset,
            armed_at=armed.at,
            rate=self._rate(opened, now),
            now=now,
        )
