"""One observation of a VM: extend what is due, arm the thresholds, and resume a guest that a full volume has paused."""

import logging
import time
from dataclasses import dataclass, field, replace

from diskmigration.agent import metrics
from diskmigration.agent.extender import enospc, histories, watermark
from diskmigration.agent.extender.enospc import Resumes
from diskmigration.agent.extender.extension_scheduler import ExtensionScheduler
from diskmigration.agent.extender.extensions import VmExtensions
from diskmigration.agent.extender.histories import VolumeHistories
from diskmigration.agent.extender.observation import IdleObservation, Observation, is_enough
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk, thin_disks
from diskmigration.agent.hypervisor import statistics
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Locate, Locations

_log = logging.getLogger(__name__)


@dataclass
class RunState:
    """What observations have found of the VM while it runs.

    `believed` has the figures by which events are answered. `waiting_for` is the storage domain without room by the
    path of the paused guest's active layer. `idle` is set while nothing is to be done.
    """

    observed_at: float | None = None
    believed: DomainStatistics | None = None
    idle: IdleObservation | None = None
    volume_count: int = 0
    is_paused: bool = False
    waiting_for: dict[str, str] = field(default_factory=dict)
    resumes: Resumes = field(default_factory=Resumes)


class Observer:
    """Used by one thread at a time, but for `arm`."""

    def __init__(
        self,
        domains: StorageDomains,
        locations: Locations,
        scheduler: ExtensionScheduler,
        known: VolumeHistories,
        extensions: VmExtensions,
    ) -> None:
        """Observe a VM with these histories and extensions."""
        self._domains = domains
        self._locations = locations
        self._scheduler = scheduler
        self._known = known
        self._extensions = extensions

    def observe(self, domain: Domain, state: RunState, offered: Observation | None) -> None:
        """Do what is due on the VM, by what is `offered` or else by asking libvirt. No extension is waited for.

        Raises:
            MigrationError: libvirt failed; the next observation tries again.
        """
        state.idle = None
        specs = {known.name: known.domain.spec for known in self._domains.all()}
        observation, without_space, grown = self._read(domain, state, offered)
        description, found = observation.description, observation.found
        state.observed_at = observation.found_at
        _count_pause(state, is_full=bool(without_space))
        self._locations.keep_open(domain.uuid, {(layer.index, layer.path) for layer in found.layers})
        locate = self._locations.of_run(domain.uuid, found.run)
        relief = self._relief(state, observation, without_space, locate)
        disks = thin_disks(description, found, locate, without_space=without_space - grown - relief.waiting)
        is_whole = all(disk.is_known for disk in disks)
        if is_whole:
            state.volume_count = sum(len(disk.volumes) for disk in disks)
        implausible = self._update(domain, found, disks, at=observation.found_at)
        state.believed = _believed(found, disks, implausible)
        # A damaged destination must not stop the guest: each side grows without the other.
        believed = [rest for disk in disks if (rest := disk.without(implausible)).volumes]
        needs_nothing = [self._tend(domain, disk) for disk in believed]
        if without_space and without_space <= (grown | relief.ready) - relief.waiting:
            # A disk that is full for another reason would pause the guest again at once.
            if self._resume(domain, state, has_grown=bool(grown & without_space)):
                self._extensions.forget_grown()
        elif grown and not without_space:
            self._extensions.forget_grown()
        elif (
            is_whole
            and all(needs_nothing)
            and not (implausible or without_space or any(disk.mirror for disk in description.disks))
        ):
            state.idle = IdleObservation(found, specs, at=observation.found_at)

    def arm(self, domain: Domain, volume: OpenVolume, size: int) -> None:
        """Set the volume's threshold unless it is right for one of that size.

        Raises:
            MigrationError: libvirt refused.
        """
        desired = watermark.threshold(volume.thin, physical=size)
        if desired != volume.statistics.threshold_bytes:
            statistics.set_threshold(domain, device=volume.device, offset_bytes=desired)
            self._known.note_armed(volume.device, desired, at=time.monotonic())

    def _read(
        self, domain: Domain, state: RunState, offered: Observation | None
    ) -> tuple[Observation, frozenset[str], frozenset[str]]:
        """Return the observation, the disks that met ENOSPC, and those that have grown since they may have met it."""
        grown = self._extensions.grown()
        if not (grown or state.is_paused) and is_enough(offered, observed_at=state.observed_at):
            return offered, frozenset(), grown
        asked_at = time.monotonic()
        description, found = statistics.with_description(domain)
        observation = Observation(description, found, asked_at, time.monotonic())
        without_space = domain.disks_without_space() if found.is_paused_by_io_error else frozenset()
        # Only now: a disk that grows after it met ENOSPC is not full any more.
        return observation, without_space, self._extensions.grown()

    def _relief(
        self, state: RunState, observation: Observation, without_space: frozenset[str], locate: Locate
    ) -> enospc.Relief:
        disks = [disk for disk in observation.description.disks if disk.target in without_space]
        rooms = enospc.rooms_of(disks, self._domains)
        state.waiting_for = {room.path: room.storage_domain for room in rooms if room.is_full}
        thin = thin_disks(observation.description, observation.found, locate) if disks else ()
        return enospc.relief_for(rooms, thin)

    def _update(
        self, domain: Domain, found: DomainStatistics, disks: tuple[ThinDisk, ...], *, at: float
    ) -> frozenset[str]:
        """Record the report, and return the paths of the volumes of which it is implausible."""
        before = histories.lasting_problems(self._known.current())
        volumes = [volume for disk in disks for volume in disk.volumes]
        self._known.update(found.run, volumes, at=at, is_whole=all(disk.is_known for disk in disks))
        current = self._known.current()
        for path, error in histories.lasting_problems(current).items():
            if path not in before:
                _log.error(
                    "libvirt reports of a thin volume what cannot be; it is not extended on it",
                    extra={"vm": domain.uuid, "path": path, "reason": error.reason, "error": error.message},
                )
        return histories.implausible(current)

    def _tend(self, domain: Domain, disk: ThinDisk) -> bool:
        """Return whether the disk needs nothing, and will not for as long as nobody writes to it."""
        adapted = self._known.adapt(disk, self._scheduler.latency.latency)
        due = adapted.plan()
        self._extensions.start(adapted, due)
        paths = {extension.path for extension in due}
        for volume in adapted.volumes:
            if volume.path not in paths:
                self.arm(domain, volume, volume.thin.physical)
        if due:
            return False
        self._extensions.disk(disk.target).forget_due()
        return adapted == disk

    def _resume(self, domain: Domain, state: RunState, *, has_grown: bool) -> bool:
        """Resume a guest that was seen paused, and return True; or return False, as that was in vain a moment ago."""
        paused_at = state.observed_at if state.observed_at is not None else time.monotonic()
        state.resumes = state.resumes.paused(paused_at)
        if not state.resumes.may_resume(time.monotonic()):
            return False
        domain.resume()
        state.resumes = state.resumes.resumed(time.monotonic(), has_grown=has_grown)
        metrics.RESUMED.inc()
        _log.log(
            logging.WARNING if state.resumes.in_vain else logging.INFO,
            "resumed the VM that had met a full volume, as there is room now",
            extra={"vm": domain.uuid, "inVain": state.resumes.in_vain},
        )
        return True


def _count_pause(state: RunState, *, is_full: bool) -> None:
    if is_full and not state.is_paused:
        metrics.GUEST_PAUSES.inc()
    state.is_paused = is_full


def _believed(found: DomainStatistics, disks: tuple[ThinDisk, ...], implausible: frozenset[str]) -> DomainStatistics:
    """Return the statistics of the disks whose figures are all known and plausible."""
    sure = {d.target for d in disks if d.is_known and implausible.isdisjoint(volume.path for volume in d.volumes)}
    return replace(found, layers=tuple(row for row in found.layers if row.target in sure))
