"""The storage domains that this node knows, each with its driver."""

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage import domain_reads, volume_search
from diskmigration.agent.storage.driver import StorageDriver, StoredImage
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.kept_domains import KeptDomains
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.lvm import group as lvm_groups
from diskmigration.agent.storage.lvm.lvm_driver import LvmDriver
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain

Place = tuple[str, str]


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

    All methods are questions and news about one table of domains behind one lock, so they are one class.

    This node serves the domains that are not deleted and whose nodeSelector its labels match. The others take no new
    migration, but their volumes stay known: a guest on a thin one still writes, and a migration that runs still has to
    end. Two domains of one path that select different nodes are local storage of each. A deleted domain whose name
    another one has taken, at another path, is a former one.
    """

    def __init__(self, node_labels: Mapping[str, str]) -> None:
        """Empty: domains are put as they are seen."""
        self._tell_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._labels = dict(node_labels)
        self._open: dict[str, OpenDomain] = {}
        self._deleted: set[str] = set()
        self._former: dict[tuple[str, Place], OpenDomain] = {}
        self._version = 0

    def version(self) -> int:
        """Return a number that is another one after whatever may change where a volume is located."""
        with self._lock:
            return self._version

    def _note_change(self) -> None:
        with self._lock:
            self._version += 1
        self._tell_change()

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have this called now and whenever something else may be known; it returns at once."""
        self._tell_change = tell
        tell()

    def known(self) -> KeptDomains:
        """Return what an agent that starts next is to know.

        A deleted domain in whose place this node serves another one is left out: its volumes are in that one.
        """
        with self._lock:
            served = {_place(self._open[name].domain) for name in self._open if self._serves(name)}
            kept = {
                name: known.domain
                for name, known in self._open.items()
                if name not in self._deleted or _place(known.domain) not in served
            }
            former = tuple(known.domain for (_, place), known in self._former.items() if place not in served)
            return KeptDomains(
                node_labels=self._labels,
                storage_domains=tuple(kept.values()),
                deleted=frozenset(self._deleted & kept.keys()),
                former=former,
            )

    def restore(self, kept: KeptDomains) -> None:
        """Take in what the agent before this one knew."""
        with self._lock:
            self._labels = dict(kept.node_labels)
            for domain in kept.storage_domains:
                self._open[domain.metadata.name] = OpenDomain(domain, open_driver(domain))
            self._deleted = set(kept.deleted & self._open.keys())
            self._former = {
                (domain.metadata.name, _place(domain)): OpenDomain(domain, open_driver(domain))
                for domain in kept.former
            }
            self._version += 1

    def update_all(self, domains: Collection[StorageDomain], node_labels: Mapping[str, str]) -> None:
        """Take in all domains that there are and the labels of this node: what else is known was deleted."""
        with self._lock:
            self._labels = dict(node_labels)
            for domain in domains:
                self._put(domain)
            self._deleted |= self._open.keys() - {domain.metadata.name for domain in domains}
        self._note_change()

    def update_node_labels(self, node_labels: Mapping[str, str]) -> None:
        """Take in the labels that this node has from now on."""
        with self._lock:
            if self._labels == node_labels:
                return
            self._labels = dict(node_labels)
        self._note_change()

    def put(self, domain: StorageDomain) -> bool:
        """Take in a domain, and return whether it is new or another one than was known; its status does not count."""
        with self._lock:
            before = self._known_as(domain)
            self._put(domain)
            has_changed = before != self._known_as(domain)
        if has_changed:
            self._note_change()
        return has_changed

    def _known_as(self, domain: StorageDomain) -> object:
        """Under the lock: return all that is known by the domain's name and place."""
        name = domain.metadata.name
        known = self._open.get(name)
        identity = known and (known.domain.metadata.uid, known.domain.spec)
        return identity, name in self._deleted, (name, _place(domain)) in self._former

    def _put(self, domain: StorageDomain) -> None:
        """Under the lock."""
        name, place = domain.metadata.name, _place(domain)
        known = self._open.get(name)
        if known is not None and _place(known.domain) != place:
            self._former[name, _place(known.domain)] = known
        self._former.pop((name, place), None)
        self._deleted.discard(name)
        same = known is not None and known.domain.spec == domain.spec
        driver = known.driver if known is not None and same else open_driver(domain)
        self._open[name] = OpenDomain(domain, driver)

    def adopt(self, domain: StorageDomain) -> OpenDomain:
        """Return the domain of a journal, for a migration that goes on although it was deleted or is not seen yet.

        It is the place that the journal names: another domain may have the name now, and volumes of the same names.
        """
        with self._lock:
            name, place = domain.metadata.name, _place(domain)
            known = self._open.get(name)
            if known is not None and _place(known.domain) == place:
                return known
            if known is None:
                adopted = self._open[name] = OpenDomain(domain, open_driver(domain))
                self._deleted.add(name)
            elif (name, place) in self._former:
                return self._former[name, place]
            else:
                adopted = self._former[name, place] = OpenDomain(domain, open_driver(domain))
        self._note_change()
        return adopted

    def remove(self, name: str, uid: str) -> None:
        """Take no new migration to or from it; its volumes stay known. Another one that has its name is left alone."""
        with self._lock:
            known = self._open.get(name)
            if known is None or known.domain.metadata.uid != uid:
                return
            self._deleted.add(name)
        self._note_change()

    def uids(self) -> Mapping[str, str]:
        """Return the uids of those that are not deleted, by their names."""
        with self._lock:
            return {name: self._open[name].domain.metadata.uid for name in self._open.keys() - self._deleted}

    def is_deleted(self, domain: OpenDomain) -> bool:
        """Return whether no StorageDomain has this name and place any more, so that no other node tells of it."""
        with self._lock:
            known = self._open.get(domain.name)
            return domain.name in self._deleted or known is None or _place(known.domain) != _place(domain.domain)

    def all(self) -> tuple[OpenDomain, ...]:
        """Return every domain that this node serves, by name."""
        with self._lock:
            return tuple(self._open[name] for name in sorted(self._open) if self._serves(name))

    def get(self, name: str) -> OpenDomain:
        """Return the domain of that name.

        Raises:
            MigrationError: StorageDomainNotFound; StorageDomainNotReady, where it does not select this node.
        """
        with self._lock:
            if name not in self._open or name in self._deleted:
                raise MigrationError(
                    Reason.STORAGE_DOMAIN_NOT_FOUND,
                    f"There is no storage domain {name!r} that this node's agent serves. "
                    "Create the StorageDomain, or correct the name.",
                )
            if not self._serves(name):
                raise MigrationError(
                    Reason.STORAGE_DOMAIN_NOT_READY,
                    f"The StorageDomain {name} does not select this node. Correct its spec.nodeSelector, the node's "
                    "labels, or the name.",
                )
            return self._open[name]

    def wait_until_idle(self, *, timeout: float) -> bool:
        """Whether no command of ours changes a volume group, within that many seconds."""
        return lvm_groups.wait_until_all_are_idle(timeout=timeout)

    def locate(self, path: Path) -> tuple[OpenDomain, str] | None:
        """Return the domain that has the volume at that path, of those that this node serves, and the volume's name.

        The innermost where directories are nested.

        Raises:
            MigrationError: StorageFailed, no domain has it, and one could not tell.
        """
        return volume_search.innermost(self.all(), path)

    def locate_in_any(self, path: Path) -> tuple[OpenDomain, str] | None:
        """As `locate`; where no domain that this node serves has the volume, one counts that it served before.

        For who goes on with what was begun: a guest on a thin volume writes on, whatever became of its StorageDomain.
        """
        if (located := self.locate(path)) is not None:
            return located
        with self._lock:
            others = [self._open[name] for name in sorted(self._open) if not self._serves(name)]
            others += self._former.values()
        return volume_search.innermost(others, path)

    def names_of(self, path: Path) -> frozenset[tuple[str, str]]:
        """Return each domain that has the volume at that path, with the volume's name in it, of those of this node.

        A domain that cannot tell, or whose storage hangs, is none of them: the path itself could just be read.
        """
        names = set()
        with suppress(MigrationError):
            domain_reads.look_at(path)
            for known in self.all():
                with suppress(MigrationError):
                    volume = domain_reads.volume_at(known.name, known.driver, path)
                    if volume is not None:
                        names.add((known.name, volume))
        return frozenset(names)

    def image_at(self, path: Path) -> StoredImage | None:
        """Return the volume that a path means at which nothing is now; see StorageDriver.

        Raises:
            MigrationError: StorageFailed.
        """
        with self._lock:
            known_domains = (*self._open.values(), *self._former.values())
        return volume_search.image_at(known_domains, path)

    def _serves(self, name: str) -> bool:
        """Under the lock."""
        return name not in self._deleted and self._open[name].domain.selects(self._labels)


def _place(domain: StorageDomain) -> Place:
    """Return where its volumes lie."""
    spec = domain.spec
    if spec.lvm is not None:
        return "lvm", spec.lvm.volume_group
    return ("file", spec.file.path) if spec.file is not None else ("loop", spec.loop.path if spec.loop else "")
