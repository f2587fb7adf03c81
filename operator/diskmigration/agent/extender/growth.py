"""Extensions under way: those of one disk in their order, those of different storage domains side by side.

A volume group or an array that answers slowly must hold up nobody but its own volumes.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from diskmigration.agent import metrics
from diskmigration.agent.extender import watermark
from diskmigration.agent.extender.paces import Paces
from diskmigration.agent.extender.urgency import UrgentFirst
from diskmigration.agent.extender.watched import WatchedDisk
from diskmigration.agent.hypervisor import statistics
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

_WORKERS_PER_DOMAIN = 4

REFUSED_SECONDS = 60.0
"""How long a volume that was not handed over is left alone; only an administrator can change that."""

_Disk = tuple[str, str]


class Growth:
    """Thread-safe. A disk is known by its VM's uuid and its target device."""

    def __init__(self, paces: Paces, *, look_again: Callable[[str], None]) -> None:
        """`look_again` is called with a VM's uuid when one of its disks has grown; `paces` learns how long it took."""
        self._paces = paces
        self._look_again = look_again
        self._guard = threading.Lock()
        self._is_stopping = False
        self._pools: dict[frozenset[str], UrgentFirst] = {}
        self._under_way: set[_Disk] = set()
        self._not_before: dict[_Disk, float] = {}
        self._due_since: dict[_Disk, float] = {}
        self._relieved: set[_Disk] = set()
        self._extensions: Counter[str] = Counter()
        self._troubles: dict[str, MigrationError] = {}

    def stop(self) -> None:
        """Ends after the extensions that are under way."""
        with self._guard:
            self._is_stopping = True
            pools = list(self._pools.values())
        for pool in pools:
            pool.stop()

    def may_start(self, uuid: str, target: str) -> bool:
        """Whether the disk is not being extended already, and not left alone for a while."""
        with self._guard:
            disk = (uuid, target)
            return disk not in self._under_way and self._not_before.get(disk, 0.0) <= time.monotonic()

    def start(self, domain: Domain, disk: WatchedDisk, due: tuple[watermark.Extension, ...]) -> None:
        """Extends the disk's volumes in this order, in the background; then its thresholds are armed.

        Disks wait for each other only where they grow on the same storage domains, and there the one that will be full
        first comes first.
        """
        full_at = self._paces.full_at(domain.uuid, disk)
        paths = {extension.path for extension in due}
        place = frozenset(volume.domain.name for volume in disk.volumes if volume.thin.path in paths)
        with self._guard:
            if self._is_stopping or (domain.uuid, disk.target) in self._under_way:
                return
            if place not in self._pools:
                name = f"extend {'+'.join(sorted(place))}"
                self._pools[place] = UrgentFirst(_WORKERS_PER_DOMAIN, name=name)
            self._under_way.add((domain.uuid, disk.target))
            self._pools[place].submit(full_at, partial(self._run, domain, disk, due))

    def note_due(self, uuid: str, target: str) -> None:
        """A threshold of the disk was passed: what it takes from now until the disk has grown is told as a metric."""
        with self._guard:
            self._due_since.setdefault((uuid, target), time.monotonic())

    def forget_due(self, uuid: str, target: str) -> None:
        """The disk was looked at, and nothing is due on it."""
        with self._guard:
            self._due_since.pop((uuid, target), None)

    def extensions_of(self, path: str) -> int:
        """How many times the volume at that path was extended."""
        with self._guard:
            return self._extensions[path]

    def trouble_of(self, path: str) -> MigrationError | None:
        """Why the volume at that path could not be extended when that was last due; None when it could."""
        with self._guard:
            return self._troubles.get(path)

    def relieved(self, uuid: str) -> frozenset[str]:
        """The VM's disks that have grown since they were last forgotten: none of them is full any more."""
        with self._guard:
            return frozenset(target for owner, target in self._relieved if owner == uuid)

    def forget_relieved(self, uuid: str) -> None:
        """The VM goes on: a disk that is full from now on has to grow again."""
        with self._guard:
            self._relieved = {disk for disk in self._relieved if disk[0] != uuid}

    def _run(self, domain: Domain, disk: WatchedDisk, due: tuple[watermark.Extension, ...]) -> None:
        key = (domain.uuid, disk.target)
        has_grown = False
        try:
            has_grown = self._extend(domain, disk, due)
        except DomainGoneError:
            self.forget_due(*key)
        except MigrationError as error:
            _log.warning("a threshold could not be armed", extra={"vm": domain.uuid, "error": error.message})
        except Exception:  # noqa: BLE001 - a worker that dies silently would leave a guest to run full
            _log.exception("the extender failed", extra={"vm": domain.uuid, "disk": disk.target})
        finally:
            with self._guard:
                self._under_way.discard(key)
        if has_grown:
            # The guest may have gone past the new threshold while it was being armed: such a one never fires.
            self._look_again(domain.uuid)

    def _extend(self, domain: Domain, disk: WatchedDisk, due: tuple[watermark.Extension, ...]) -> bool:
        """Whether all that was due has grown; what could not is told once and tried again at the next look."""
        by_path = {volume.thin.path: volume for volume in disk.volumes}
        sizes = {volume.thin.path: volume.thin.physical for volume in disk.volumes}
        passed_at = self._paces.due_since(domain.uuid, disk)
        with self._guard:
            # What a look finds has sent no event, or not yet: when it was passed is reckoned.
            due_since = self._due_since.setdefault((domain.uuid, disk.target), passed_at)
        has_failed = False
        for extension in due:
            volume = by_path[extension.path]
            driver = volume.domain.driver
            try:
                size = driver.size_bytes(volume.volume)
                if size >= extension.size:
                    # An event has had it extended while a look, which is slower, still saw it as it was.
                    sizes[extension.path] = size
                    self._note_no_trouble(extension.path)
                    continue
                sizes[extension.path] = driver.extend(volume.volume, extension.size)
            except MigrationError as error:
                self._note_trouble(domain.uuid, disk.target, extension.path, error)
                has_failed = True
                break
            self._note_growth(extension.path)
            metrics.EXTENSIONS.labels(volume.domain.name).inc()
            took = time.monotonic() - due_since
            metrics.EXTENSION_SECONDS.labels(volume.domain.name).observe(took)
            self._paces.note_latency(volume.domain.name, took)
            _log.info(
                "extended a thin volume",
                extra={
                    "vm": domain.uuid,
                    "disk": disk.target,
                    "volume": volume.volume,
                    "storageDomain": volume.domain.name,
                    "fromBytes": volume.thin.physical,
                    "toBytes": sizes[extension.path],
                    "allocatedBytes": volume.thin.allocated,
                },
            )
        if not has_failed:
            with self._guard:
                self._relieved.add((domain.uuid, disk.target))
                self._due_since.pop((domain.uuid, disk.target), None)
        self.arm(domain, disk, sizes)
        return not has_failed

    def arm(self, domain: Domain, disk: WatchedDisk, sizes: dict[str, int]) -> None:
        """Sets the thresholds that are not right for volumes of these sizes, by path.

        Raises:
            MigrationError: libvirt did not take one.
        """
        for volume in disk.volumes:
            wanted = watermark.threshold(volume.thin, physical=sizes[volume.thin.path])
            if wanted != volume.statistics.threshold_bytes:
                device = volume.statistics.device
                statistics.set_threshold(domain, device=device, offset_bytes=wanted)
                self._paces.note_armed(domain.uuid, device, wanted)

    def _note_growth(self, path: str) -> None:
        with self._guard:
            self._extensions[path] += 1
            self._troubles.pop(path, None)

    def _note_no_trouble(self, path: str) -> None:
        with self._guard:
            self._troubles.pop(path, None)

    def _note_trouble(self, uuid: str, target: str, path: str, error: MigrationError) -> None:
        with self._guard:
            before = self._troubles.get(path)
            self._troubles[path] = error
            if error.reason is Reason.VOLUME_NOT_HANDED_OVER:
                self._not_before[uuid, target] = time.monotonic() + REFUSED_SECONDS
        if before is None or before.message != error.message:
            _log.error(
                "a thin volume could not be extended; it is tried again",
                extra={"vm": uuid, "disk": target, "path": path, "reason": error.reason, "error": error.message},
            )
