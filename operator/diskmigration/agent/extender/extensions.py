"""The extensions that are under way for one VM.

The destination is extended before a source that outgrows it, while the guest has room; all others begin at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from diskmigration.agent.extender import histories, watermark
from diskmigration.agent.extender.extension_scheduler import ExtensionScheduler
from diskmigration.agent.extender.histories import VolumeHistories
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk
from diskmigration.agent.extender.write_rate import SAFETY
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""How long a volume that was not handed over is left alone; only an administrator can change that."""

_OBSERVED_AGAIN_SECONDS = 4.0
"""A disk that is replicated is observed again sooner, and how long its source may wait is computed again."""


@dataclass(frozen=True)
class Outcome:
    """How often a volume was extended, and why it could not be extended when that was last due; None if it could."""

    extensions: int = 0
    trouble: MigrationError | None = None
    not_before: float = 0.0


@dataclass
class _Pending:
    """An extension that waits for the destination's until `begin` is called, or that has begun."""

    begin: Callable[[], None]
    waits: bool = True


class DiskExtensions:
    """Thread-safe. The extensions of one disk's volumes by path, and since when one of them is due."""

    def __init__(self, scheduler: ExtensionScheduler) -> None:
        """Start with nothing under way."""
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._due_since: float | None = None
        self._has_grown = False

    @property
    def are_under_way(self) -> bool:
        """Whether one waits or has begun."""
        return bool(self._pending)

    @property
    def has_grown(self) -> bool:
        """Whether the active layer has grown since `forget_grown`."""
        return self._has_grown

    def request(self, path: str, begin: Callable[[], None], *, after: str | None, seconds: float) -> None:
        """Begin an extension now; or after that of the volume at `after`, if that is under way, within that time.

        A newer request replaces one that waits for the same volume: more may be due.
        """
        with self._lock:
            pending = self._pending.setdefault(path, _Pending(begin))
            if not pending.waits:
                return
            pending.begin = begin
            if after not in self._pending or seconds <= 0:
                self._begin(pending)
            elif seconds < _OBSERVED_AGAIN_SECONDS:
                timer = threading.Timer(seconds, self._begin_now, (pending,))
                timer.daemon = True
                timer.start()

    def end(self, path: str, *, has_grown: bool, is_active: bool) -> None:
        """Record that an extension has ended, and begin those that waited for it."""
        with self._lock:
            self._pending.pop(path, None)
            for pending in self._pending.values():
                self._begin(pending)
            if has_grown and is_active:
                self._has_grown = True
            if has_grown and not self._pending:
                self._due_since = None

    def note_due(self, since: float) -> float:
        """Record that an extension is due, and return since when one is: until the disk has grown is a metric."""
        with self._lock:
            if self._due_since is None:
                self._due_since = since
            return self._due_since

    def forget_due(self) -> None:
        """Record that nothing is due."""
        with self._lock:
            self._due_since = None

    def forget_grown(self) -> None:
        """Record that the VM goes on: a disk that is full from now on has to grow again."""
        with self._lock:
            self._has_grown = False

    def _begin(self, pending: _Pending) -> None:
        """Under the lock."""
        if not pending.waits or self._scheduler.is_stopping:
            return
        pending.waits = False
        try:
            pending.begin()
        except RuntimeError:
            # No thread could be started. What is taken for begun would never be tried again.
            pending.waits = True
            _log.exception("an extension could not be begun; the next observation tries it again")

    def _begin_now(self, pending: _Pending) -> None:
        with self._lock:
            self._begin(pending)


class VmExtensions:
    """Thread-safe. A disk is known by its target device, a volume by its path.

    An extension's way is here from its start to its outcome: to divide it would divide what one lock guards.
    """

    def __init__(
        self,
        uuid: str,
        scheduler: ExtensionScheduler,
        known: VolumeHistories,
        on_grown: Callable[[OpenVolume, int], None],
    ) -> None:
        """`on_grown` is called with a volume that has grown and its size now."""
        self._uuid = uuid
        self._scheduler = scheduler
        self._known = known
        self._on_grown = on_grown
        self._lock = threading.Lock()
        self._disks: dict[str, DiskExtensions] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._running = 0

    def disk(self, target: str) -> DiskExtensions:
        """Return the extensions of one disk."""
        with self._lock:
            return self._disks.setdefault(target, DiskExtensions(self._scheduler))

    def start(self, disk: ThinDisk, due: tuple[watermark.Extension, ...]) -> None:
        """Extend the disk's volumes in the background.

        While a disk is copied, a source that outgrows the destination waits for it: until the destination has grown, or
        cannot grow, or the guest has no more room than its own extension will take.
        """
        by_path = {volume.path: volume for volume in disk.volumes}
        extensions = self.disk(disk.target)
        full_at = histories.full_at(self._known.current(), disk, now=time.monotonic())
        for extension in due:
            volume = by_path[extension.path]
            if (self.outcome(volume.path) or Outcome()).not_before > time.monotonic():
                continue
            run = partial(self._run, disk, volume, extension.size)
            begin = partial(self._scheduler.submit, volume.domain.name, full_at, run)
            mirror = disk.mirror if disk.is_copy and volume is disk.active else None
            if mirror is None or extension.size <= mirror.thin.physical:
                extensions.request(volume.path, begin, after=None, seconds=0.0)
            else:
                seconds = self._seconds_to_spare(volume, mirror)
                extensions.request(volume.path, begin, after=mirror.path, seconds=seconds)

    def grown(self) -> frozenset[str]:
        """Return the disks whose active layer has grown since `forget_grown`: none of them is full any more."""
        with self._lock:
            return frozenset(target for target, disk in self._disks.items() if disk.has_grown)

    def forget_grown(self) -> None:
        """Record that the VM goes on."""
        with self._lock:
            for disk in self._disks.values():
                disk.forget_grown()

    def reset(self) -> None:
        """Forget what is due and what has grown, as the VM does not run."""
        self.forget_grown()
        with self._lock:
            for disk in self._disks.values():
                disk.forget_due()

    def outcome(self, path: str) -> Outcome | None:
        """Return what came of the extensions of the volume at that path; None where none has ended."""
        with self._lock:
            return self._outcomes.get(path)

    def forget(self, paths: Iterable[str]) -> None:
        """Forget what came of the extensions of volumes that nobody asks for any more."""
        with self._lock:
            for path in paths:
                self._outcomes.pop(path, None)

    def are_under_way(self) -> bool:
        """Return whether a volume of the VM is being extended, or what follows from that is still to be posted."""
        with self._lock:
            return self._running > 0 or any(disk.are_under_way for disk in self._disks.values())

    def _seconds_to_spare(self, source: OpenVolume, mirror: OpenVolume) -> float:
        """Return how long the source's extension may wait for the destination's.

        A guest on a full source stands still anyway: it goes on beside a destination that has grown, or that takes
        longer than it ever did.
        """
        latency = self._scheduler.latency
        if source.thin.is_full:
            return SAFETY * latency.duration(mirror.domain.name)
        duration = latency.duration(source.domain.name)
        return histories.seconds_to_spare(
            self._known.current(), source, extension_seconds=duration, now=time.monotonic()
        )

    def _run(self, disk: ThinDisk, volume: OpenVolume, size: int) -> None:
        with self._lock:
            self._running += 1
        try:
            self._extend_and_follow(disk, volume, size)
        finally:
            with self._lock:
                self._running -= 1

    def _extend_and_follow(self, disk: ThinDisk, volume: OpenVolume, size: int) -> None:
        grown: int | None = None
        try:
            grown = self._extend(disk, volume, size)
        except MigrationError as error:
            self._note_trouble(disk.target, volume.path, error)
        except Exception:  # noqa: BLE001 - a worker that dies silently would leave a guest to run full
            _log.exception("the extender failed", extra={"vm": self._uuid, "disk": disk.target})
        finally:
            self.disk(disk.target).end(volume.path, has_grown=grown is not None, is_active=volume is disk.active)
        if grown is not None:
            self._on_grown(volume, grown)

    def _extend(self, disk: ThinDisk, volume: OpenVolume, size: int) -> int:
        passed_at = histories.due_since(self._known.current(), disk, now=time.monotonic())
        # An observation finds what no event has told. The time at which the threshold was passed is estimated then.
        due_since = self.disk(disk.target).note_due(passed_at)
        name, driver = volume.domain.name, volume.domain.driver
        began_at = time.monotonic()
        # An event may have had it extended while an observation, which is slower, still saw it as it was.
        grown = driver.size_bytes(volume.volume)
        is_due = grown < size
        if is_due:
            grown = driver.extend(volume.volume, size)
            self._scheduler.latency.note_extension(name, due_since=due_since, began_at=began_at)
            _log.info(
                "extended a thin volume",
                extra={
                    "vm": self._uuid,
                    "disk": disk.target,
                    "volume": volume.volume,
                    "storageDomainName": name,
                    "fromBytes": volume.thin.physical,
                    "toBytes": grown,
                    "allocatedBytes": volume.thin.allocated,
                },
            )
        with self._lock:
            before = self._outcomes.get(volume.path, Outcome())
            self._outcomes[volume.path] = Outcome(before.extensions + is_due)
        return grown

    def _note_trouble(self, target: str, path: str, error: MigrationError) -> None:
        with self._lock:
            before = self._outcomes.get(path, Outcome())
            is_refused = error.reason is Reason.VOLUME_NOT_HANDED_OVER
            not_before = time.monotonic() + REFUSED_SECONDS if is_refused else before.not_before
            self._outcomes[path] = Outcome(before.extensions, error, not_before)
        if before.trouble is None or before.trouble.message != error.message:
            _log.error(
                "a thin volume could not be extended; it is tried again",
                extra={"vm": self._uuid, "disk": target, "path": path, "reason": error.reason, "error": error.message},
            )
