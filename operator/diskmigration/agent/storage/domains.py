"""The storage domains that this node knows, each with its driver."""

import threading
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage.driver import StorageDriver
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.lvm import group as lvm_groups
from diskmigration.agent.storage.lvm.driver import LvmDriver
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain


def open_driver(domain: StorageDomain) -> StorageDriver:
    """The driver for the domain's kind; nothing on the node is touched."""
    spec = domain.spec
    if spec.file is not None:
        return FileDriver(domain.metadata.name, Path(spec.file.path))
    if spec.loop is not None:
        return LoopDriver(domain.metadata.name, Path(spec.loop.path))
    assert spec.lvm is not None  # noqa: S101 - the model holds that exactly one is set
    return LvmDriver(domain.metadata.name, spec.lvm.volume_group, spec.lvm.wipe_after_delete)


@dataclass(frozen=True)
class OpenDomain:
    """A storage domain and its driver."""

    domain: StorageDomain
    driver: StorageDriver

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.domain.metadata.name


class StorageDomains:
    """Thread-safe. A driver is kept for as long as its spec stays the same, as it may hold locks.

    A StorageDomain that is deleted takes no new migration, but its volumes stay known: a guest on a thin one still
    writes, and a migration that runs still has to end.
    """

    def __init__(self) -> None:
        """Empty: domains are put as they are seen."""
        self._lock = threading.Lock()
        self._open: dict[str, OpenDomain] = {}
        self._deleted: set[str] = set()

    def put(self, domain: StorageDomain) -> None:
        """Takes in a new or changed domain."""
        with self._lock:
            self._deleted.discard(domain.metadata.name)
            known = self._open.get(domain.metadata.name)
            if known is not None and known.domain.spec == domain.spec:
                self._open[domain.metadata.name] = OpenDomain(domain, known.driver)
                return
            self._open[domain.metadata.name] = OpenDomain(domain, open_driver(domain))

    def adopt(self, domain: StorageDomain) -> OpenDomain:
        """The domain as a journal holds it, for a migration that goes on although it was deleted or is not seen yet."""
        with self._lock:
            name = domain.metadata.name
            if name not in self._open:
                self._open[name] = OpenDomain(domain, open_driver(domain))
                self._deleted.add(name)
            return self._open[name]

    def remove(self, name: str) -> None:
        """Takes no new migration to or from it."""
        with self._lock:
            self._deleted.add(name)

    def all(self) -> tuple[OpenDomain, ...]:
        """Every domain that is not deleted, by name."""
        with self._lock:
            return tuple(self._open[name] for name in sorted(self._open) if name not in self._deleted)

    def get(self, name: str) -> OpenDomain:
        """The domain of that name.

        Raises:
            MigrationError: StorageDomainNotFound.
        """
        with self._lock:
            if name not in self._open or name in self._deleted:
                raise MigrationError(
                    Reason.STORAGE_DOMAIN_NOT_FOUND,
                    f"There is no storage domain {name!r} that this node's agent serves. "
                    "Create the StorageDomain, or correct the name.",
                )
            return self._open[name]

    def wait_until_idle(self, *, timeout: float) -> bool:
        """Whether no command of ours changes a volume group, within that many seconds."""
        return lvm_groups.wait_until_all_are_idle(timeout=timeout)

    def locate(self, path: Path) -> tuple[OpenDomain, str] | None:
        """The domain and the name of the volume at that path; the innermost where directories are nested.

        Raises:
            MigrationError: StorageFailed, no domain has it, and one could not tell.
        """
        with self._lock:
            known_domains = tuple(self._open.values())
        found, failures = [], []
        for known in known_domains:
            try:
                if (volume := known.driver.volume_at(path)) is not None:
                    found.append((known, volume))
            except MigrationError as error:
                failures.append(error)
        if failures and not found:
            raise failures[0]
        return min(found, key=lambda pair: len(pair[1]), default=None)
