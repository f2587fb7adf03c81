"""Collect what this node tells other nodes: the volumes of each storage domain that it needs, and what it cannot see.

Looked at in a thread of its own, as images may lie on a storage that hangs.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.references.graph import Graph, User
from diskmigration.agent.references.users import users_on_node
from diskmigration.agent.storage import domain_reads
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.openers import openers_of_any
from diskmigration.api.errors import MigrationError
from diskmigration.api.libvirt_host import UnseenVolume
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
SOONEST_SECONDS = 5.0
"""How often it is looked at where VMs come and go."""
LATE_SECONDS = 180.0
"""What was seen so long ago says nothing: the storage of some image hangs."""

_MOST_UNSEEN = 20


@dataclass(frozen=True)
class Usage:
    """The volumes that are needed, by storage domain, and whoever may need others; unknown of a domain without any."""

    volumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unseen: tuple[UnseenVolume, ...] = ()

    def of(self, domain_name: str) -> tuple[str, ...] | None:
        """Return the volumes of the storage domain that are needed; None if that is unknown."""
        return self.volumes.get(domain_name)


@dataclass
class UsageReader:
    """Keeps what was seen last. Thread-safe."""

    connection: Connection
    domains: StorageDomains
    _wake: threading.Event = field(default_factory=threading.Event)
    _read: Usage = field(default_factory=Usage)
    _read_at: float = 0.0

    def start(self) -> None:
        """Start looking."""
        threading.Thread(target=self._run, name="usage", daemon=True).start()

    def look_soon(self) -> None:
        """Look without waiting for the next turn: a VM was defined, started or undefined."""
        self._wake.set()

    def current(self) -> Usage:
        """Return what was seen last, or that nothing is known."""
        return self._read if time.monotonic() - self._read_at < LATE_SECONDS else Usage()

    def _run(self) -> None:
        while True:
            with surviving("the thread that looks who needs volumes"):
                self._look()
            time.sleep(SOONEST_SECONDS)
            self._wake.wait(LOOK_SECONDS - SOONEST_SECONDS)
            self._wake.clear()

    def _look(self) -> None:
        began = time.monotonic()
        try:
            found = usage_of(users_on_node(self.connection, self.domains), self.domains.all())
        except MigrationError as error:
            _log.warning("who needs volumes cannot be told yet", extra={"error": error.message})
            return
        self._read, self._read_at = found, began


def usage_of(graph: Graph, domains: tuple[OpenDomain, ...]) -> Usage:
    """Return what the users of the graph need of these storage domains; of one that cannot tell, nothing is known."""
    paths = [Path(location.path) for location, image in graph.images.items() if image.identity is not None]
    is_open_unseen = any(_is_open_unseen(user, graph) for user in graph.users)
    volumes = {}
    for domain in domains:
        try:
            names = {name for path in paths if (name := _name_in(domain, path)) is not None}
            volumes[domain.name] = tuple(sorted(names.union(_open_volumes(domain) if is_open_unseen else ())))
        except MigrationError as error:
            _log.warning(
                "who needs its volumes is unknown", extra={"storageDomainName": domain.name, "error": str(error)}
            )
    unseen = dict.fromkeys(found for user in graph.users if (found := _unseen(user, graph)) is not None)
    # One is enough to keep a volume, and one that may be any volume before one that is raw.
    return Usage(volumes, tuple(sorted(unseen, key=lambda volume: volume.is_raw_medium)[:_MOST_UNSEEN]))


def _name_in(domain: OpenDomain, path: Path) -> str | None:
    volume = domain_reads.volume_at(domain.name, domain.driver, path)
    if volume is not None:
        return volume
    stored = domain_reads.image_at(domain.name, domain.driver, path)
    return stored.name if stored is not None else None


def _is_open_unseen(user: User, graph: Graph) -> bool:
    """Return whether a QEMU has a volume open at a path that is not seen here, which may be any volume."""
    return user.is_open and user.start is not None and graph.images[user.start].identity is None


def _open_volumes(domain: OpenDomain) -> list[str]:
    stored = {
        image.path: image.name for image in domain_reads.images(domain.name, domain.driver) if image.path is not None
    }
    return [stored[path] for path, openers in openers_of_any(stored).items() if openers]


def _unseen(user: User, graph: Graph) -> UnseenVolume | None:
    if user.start is None:
        return UnseenVolume(used_by=user.description, reason=user.obstacle)
    if _is_open_unseen(user, graph):
        return None
    reason = next((image.obstacle for image in graph.reached_by(user) if image.obstacle), None)
    if reason is None:
        return None
    is_medium = user.is_raw_medium and graph.images[user.start].identity is None
    return UnseenVolume(used_by=user.description, reason=reason, is_raw_medium=is_medium)
