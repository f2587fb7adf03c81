"""Guests that QEMU paused as they met ENOSPC: which wait for room in their storage domain, and when one is resumed.

To extend a volume helps no guest whose storage domain is full. It is resumed as soon as there is room, in a domain of
kind file too, where nothing is extended.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from diskmigration.agent.extender.thin_disk import ThinDisk
from diskmigration.agent.extender.watermark import limit_of
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.api.errors import MigrationError
from diskmigration.backoff import Backoff

BACKOFF = Backoff(first_seconds=1.0, longest_seconds=60.0)

RAN_SECONDS = 10.0
"""A guest that ran for so long since it was resumed had room meanwhile."""


@dataclass(frozen=True)
class DiskRoom:
    """A disk that met ENOSPC, where its active layer lies, and whether the storage domain has no room for it."""

    target: str
    path: str
    storage_domain: str
    is_full: bool


@dataclass(frozen=True)
class Relief:
    """The targets of a VM's disks that met ENOSPC: those that wait for room, and those that need only a retry."""

    waiting: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()


def rooms_of(disks: Iterable[DomainDisk], domains: StorageDomains) -> tuple[DiskRoom, ...]:
    """Ask the storage for the room of these disks; leave out those in no known domain, or of one that cannot tell."""
    rooms = []
    for disk in disks:
        if disk.active is None:
            continue
        try:
            located = domains.locate_in_any(Path(disk.active.path))
            if located is not None:
                domain, volume = located
                rooms.append(DiskRoom(disk.target, disk.active.path, domain.name, domain.driver.is_full(volume)))
        except MigrationError:
            continue  # the next observation asks again
    return tuple(rooms)


def relief_for(rooms: Iterable[DiskRoom], disks: Iterable[ThinDisk]) -> Relief:
    """Return what can be done for disks that met ENOSPC; `disks` are the VM's thin ones. Pure.

    A volume that can grow has to grow first.
    """
    growing = {disk.target for disk in disks if _can_grow(disk) or not disk.is_known}
    waiting = {room.target for room in rooms if room.is_full}
    ready = {room.target for room in rooms if not room.is_full and room.target not in growing}
    return Relief(waiting=frozenset(waiting), ready=frozenset(ready))


def _can_grow(disk: ThinDisk) -> bool:
    active = disk.active
    return active is not None and active.thin.physical < limit_of(active.thin)


@dataclass(frozen=True)
class Resumes:
    """How often a guest was resumed in vain: it met the end of its volume again at once, and nothing has grown.

    A domain that shows room may refuse it all the same, by a quota of its server for example. Each resume lets the
    guest repeat the write that is refused, so the delay doubles. Times are in seconds on one monotonic clock.
    """

    in_vain: int = 0
    resumed_at: float | None = None
    paused_at: float | None = None

    def paused(self, at: float) -> "Resumes":
        """Return the state after the guest was seen paused."""
        if self.paused_at is not None:
            return self
        has_run = self.resumed_at is None or at - self.resumed_at >= RAN_SECONDS
        return replace(self, in_vain=0 if has_run else self.in_vain, paused_at=at)

    def resumed(self, at: float, *, has_grown: bool) -> "Resumes":
        """Return the state after the guest was resumed, which was not in vain if its volume has grown meanwhile."""
        return Resumes(self.in_vain if has_grown else self.in_vain + 1, resumed_at=at)

    def may_resume(self, at: float) -> bool:
        """Return whether the guest may be resumed then: at once after its first pause."""
        return self.paused_at is None or at >= self.paused_at + self.delay_seconds

    @property
    def delay_seconds(self) -> float:
        """How long a guest that was paused waits until it is resumed."""
        return BACKOFF.seconds(self.in_vain)
