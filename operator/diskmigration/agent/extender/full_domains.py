"""Guests that QEMU paused as their storage domain is full: to extend a volume helps none of them.

Such a guest is let go on as soon as there is room, in a domain of kind file too, where nothing is extended.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.extender.watched import WatchedDisk
from diskmigration.agent.extender.watermark import limit_of
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.api.errors import MigrationError


@dataclass(frozen=True)
class Relief:
    """Of a VM's disks that met ENOSPC: those that wait for room, and those that need no more than to be tried again."""

    waiting: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()


class FullDomains:
    """Thread-safe. Knows which paused guest waits for which storage domain."""

    def __init__(self, domains: StorageDomains) -> None:
        """Nobody waits yet."""
        self._domains = domains
        self._guard = threading.Lock()
        self._waiting: dict[str, dict[str, str]] = {}

    def judge(self, uuid: str, disks: Iterable[DomainDisk], watched: Iterable[WatchedDisk]) -> Relief:
        """What can be done for the VM's disks that met ENOSPC, which `disks` are; `watched` may be of others too."""
        growing = frozenset(disk.target for disk in watched if _can_grow(disk) or not disk.is_known)
        waiting: dict[str, tuple[str, str]] = {}
        ready = set()
        for disk in disks:
            try:
                located = self._domains.locate_in_any(Path(disk.active.path)) if disk.active is not None else None
                is_full = located is not None and located[0].driver.is_full(located[1])
            except MigrationError:
                continue  # the next look may tell
            if disk.active is None or located is None:
                continue  # it lies in no domain of ours
            if is_full:
                waiting[disk.target] = (disk.active.path, located[0].name)
            elif disk.target not in growing:
                ready.add(disk.target)
        with self._guard:
            self._waiting[uuid] = dict(waiting.values())
        return Relief(waiting=frozenset(waiting), ready=frozenset(ready))

    def forget(self, uuid: str) -> None:
        """The VM does not run any more."""
        with self._guard:
            self._waiting.pop(uuid, None)

    def awaited_by(self, path: str) -> str | None:
        """The storage domain in which there must be room before the guest on that active layer goes on, or None."""
        with self._guard:
            every: tuple[Mapping[str, str], ...] = tuple(self._waiting.values())
        return next((waiting[path] for waiting in every if path in waiting), None)


def _can_grow(disk: WatchedDisk) -> bool:
    active = disk.active
    return active is not None and active.thin.physical < limit_of(active.thin)
