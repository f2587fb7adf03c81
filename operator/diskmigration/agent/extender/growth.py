"""Extensions under way: the destination's before a source's that outgrows it while the guest has room; others at once.

A volume group or an array that answers slowly must hold up nobody but its own volumes; the guest least of all.
"""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diskmigration.agent import metrics
from diskmigration.agent.extender import watermark
from diskmigration.agent.extender.paces import Paces
from diskmigration.agent.extender.urgency import UrgentFirst
from diskmigration.agent.extender.watched import WatchedDisk, WatchedVolume
from diskmigration.agent.hypervisor import statistics
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

_WORKERS_PER_DOMAIN = 4

REFUSED_SECONDS = 60.0
"""How long a volume that was not handed over is left alone; only an administrator can change that."""

_LOOKED_AT_AGAIN_SECONDS = 4.0
"""A disk that is replicated is looked at sooner than that, and how long its source may wait is reckoned anew."""

_Disk = tuple[str, str]


@dataclass
class _Pending:
    """An extension that waits for the destination's until `begin` is called, or that has begun."""

    begin: Callable[[], None]
    waits: bool = True


class Growth:
    """Thread-safe. A disk is known by its VM's uuid and its target device, a volume by its path."""

    def __init__(self, paces: Paces, *, look_again: Callable[[str], None]) -> None:
        """`look_again` is called with a VM's uuid when a volume of it has grown; `paces` learns how long that took."""
        self._paces = paces
        self._look_again = look_again
        self._guard = threading.Lock()
        self._is_stopping = False
        self._pools: dict[str, UrgentFirst] = {}
        self._pending: defaultdict[_Disk, dict[str, _Pending]] = defaultdict(dict)
        self._not_before: dict[str, float] = {}
        self._due_since: dict[_Disk, float] = {}
        self._relieved: set[_Disk] = set()
        self._extensions: Counter[str] = Counter()
        self._troubles: dict[str, MigrationError] = {}

    def stop(self) -> None:
        """Ends after the extensions that have begun."""
        with self._guard:
            self._is_stopping = True
            pools = list(self._pools.values())
        for pool in pools:
            pool.stop()

    def start(self, domain: Domain, disk: WatchedDisk, due: tuple[watermark.Extension, ...]) -> None:
        """Extends the disk's volumes in the background, and arms the threshold of each when it has grown.

        While a disk is copied, a source that outgrows the destination waits for it: until that has grown, or cannot
        grow, or the guest has no more room than its own extension will take. Else both grow at the same time. Volumes
        wait for each other only where they are in one storage domain, and there the one that will be full first comes
        first.
        """
        by_path = {volume.thin.path: volume for volume in disk.volumes}
        key = (domain.uuid, disk.target)
        with self._guard:
            for extension in due:
                if self._is_stopping or self._not_before.get(extension.path, 0.0) > time.monotonic():
                    continue
                volume = by_path[extension.path]
                begin = partial(self._submit, domain, disk, volume, extension)
                pending = self._pending[key].setdefault(extension.path, _Pending(begin))
                if pending.waits:
                    # What a later look finds may be more than what was found before.
                    pending.begin = begin
                    self._begin_or_wait(key, disk, volume, extension.size, pending)

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
        """The VM's disks whose active layer has grown since they were last forgotten: none is full any more."""
        with self._guard:
            return frozenset(target for owner, target in self._relieved if owner == uuid)

    def forget_relieved(self, uuid: str) -> None:
        """The VM goes on: a disk that is full from now on has to grow again."""
        with self._guard:
            self._relieved = {disk for disk in self._relieved if disk[0] != uuid}

    def arm(self, domain: Domain, volume: WatchedVolume, size: int) -> None:
        """Sets the volume's threshold if it is not right for one of that size.

        Raises:
            MigrationError: libvirt did not take it.
        """
        wanted = watermark.threshold(volume.thin, physical=size)
        if wanted != volume.statistics.threshold_bytes:
            device = volume.statistics.device
            statistics.set_threshold(domain, device=device, offset_bytes=wanted)
            self._paces.note_armed(domain.uuid, device, wanted)

    def _begin_or_wait(
        self, key: _Disk, disk: WatchedDisk, volume: WatchedVolume, size: int, pending: _Pending
    ) -> None:
        """Under the guard. `size` is what the volume grows to."""
        mirror = disk.mirror if disk.is_copy and volume is disk.active else None
        if mirror is None or mirror.thin.path not in self._pending[key] or size <= mirror.thin.physical:
            self._begin(pending)
            return
        patience = self._paces.patience(key[0], source=volume, mirror=mirror)
        if patience <= 0:
            self._begin(pending)
        elif patience < _LOOKED_AT_AGAIN_SECONDS:
            timer = threading.Timer(patience, self._wait_no_longer, (pending,))
            timer.daemon = True
            timer.start()

    def _begin(self, pending: _Pending) -> None:
        """Under the guard."""
        if not pending.waits or self._is_stopping:
            return
        pending.waits = False
        try:
            pending.begin()
        except RuntimeError:
            # No thread could be started. What is taken for begun would never be tried again.
            pending.waits = True
            _log.exception("an extension could not be begun; the next look tries it again")

    def _wait_no_longer(self, pending: _Pending) -> None:
        with self._guard:
            self._begin(pending)

    def _begin_waiting(self, key: _Disk) -> None:
        """Under the guard: what one of the disk's volumes waited for has grown, or cannot."""
        for pending in self._pending[key].values():
            self._begin(pending)

    def _submit(self, domain: Domain, disk: WatchedDisk, volume: WatchedVolume, extension: watermark.Extension) -> None:
        """Under the guard."""
        name = volume.domain.name
        if name not in self._pools:
            self._pools[name] = UrgentFirst(_WORKERS_PER_DOMAIN, name=f"extend {name}")
        full_at = self._paces.full_at(domain.uuid, disk)
        self._pools[name].submit(full_at, partial(self._run, domain, disk, volume, extension))

    def _run(self, domain: Domain, disk: WatchedDisk, volume: WatchedVolume, extension: watermark.Extension) -> None:
        key = (domain.uuid, disk.target)
        size = None
        try:
            size = self._extend(domain, disk, volume, extension)
            # Before the threshold is armed: a busy QEMU lets that wait.
            with self._guard:
                self._begin_waiting(key)
            if size is not None:
                self.arm(domain, volume, size)
        except DomainGoneError:
            self.forget_due(*key)
        except MigrationError as error:
            _log.warning("a threshold could not be armed", extra={"vm": domain.uuid, "error": error.message})
        except Exception:  # noqa: BLE001 - a worker that dies silently would leave a guest to run full
            _log.exception("the extender failed", extra={"vm": domain.uuid, "disk": disk.target})
        finally:
            self._end(key, extension.path, has_grown=size is not None, is_active=volume is disk.active)
        if size is not None:
            # The guest may have gone past the new threshold while it was being armed: such a one never fires.
            self._look_again(domain.uuid)

    def _end(self, key: _Disk, path: str, *, has_grown: bool, is_active: bool) -> None:
        with self._guard:
            self._pending[key].pop(path, None)
            self._begin_waiting(key)
            if has_grown and is_active:
                self._relieved.add(key)
            if not self._pending[key]:
                del self._pending[key]
                if has_grown:
                    self._due_since.pop(key, None)

    def _extend(
        self, domain: Domain, disk: WatchedDisk, volume: WatchedVolume, extension: watermark.Extension
    ) -> int | None:
        """The size that it has now; None where it could not grow, which is told once and tried at the next look."""
        key = (domain.uuid, disk.target)
        passed_at = self._paces.due_since(domain.uuid, disk)
        with self._guard:
            # What a look finds has sent no event, or not yet: when it was passed is reckoned.
            due_since = self._due_since.setdefault(key, passed_at)
        driver = volume.domain.driver
        began_at = time.monotonic()
        try:
            size = driver.size_bytes(volume.volume)
            if size >= extension.size:
                # An event has had it extended while a look, which is slower, still saw it as it was.
                self._note_no_trouble(extension.path)
                return size
            size = driver.extend(volume.volume, extension.size)
        except MigrationError as error:
            self._note_trouble(domain.uuid, disk.target, extension.path, error)
            return None
        now = time.monotonic()
        self._note_growth(extension.path)
        metrics.EXTENSIONS.labels(volume.domain.name).inc()
        metrics.EXTENSION_SECONDS.labels(volume.domain.name).observe(now - due_since)
        self._paces.note_growth(volume.domain.name, since_due=now - due_since, since_begun=now - began_at)
        _log.info(
            "extended a thin volume",
            extra={
                "vm": domain.uuid,
                "disk": disk.target,
                "volume": volume.volume,
                "storageDomain": volume.domain.name,
                "fromBytes": volume.thin.physical,
                "toBytes": size,
                "allocatedBytes": volume.thin.allocated,
            },
        )
        return size

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
                self._not_before[path] = time.monotonic() + REFUSED_SECONDS
        if before is None or before.message != error.message:
            _log.error(
                "a thin volume could not be extended; it is tried again",
                extra={"vm": uuid, "disk": target, "path": path, "reason": error.reason, "error": error.message},
            )
