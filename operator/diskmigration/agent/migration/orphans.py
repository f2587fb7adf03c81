"""Volumes of migrations that nobody works on any more: found, told, and removed where nothing is lost with them.

Only a storage domain that marks its volumes as being made can tell: see StorageDriver.leftovers. A mark goes before a
guest first writes to a volume, so what still carries one holds nothing that is not elsewhere too; and what is marked as
being removed was found to be used by nobody before.

So is the journal of a migration that has ended, which an agent leaves that is killed before it could erase it.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain, every_domain
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.removal import Remover
from diskmigration.agent.migration.unneeded_volumes import Standing, UnneededVolume
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import Leftover
from diskmigration.api.errors import MigrationError
from diskmigration.api.libvirt_host import OrphanedVolume
from diskmigration.backoff import Backoff
from diskmigration.cluster.errors import ClusterError
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
"""How long a look is good for: what was in use then may be free by now."""

BACKOFF = Backoff(first_seconds=10.0, longest_seconds=SWEEP_SECONDS)
"""How soon a domain is looked at again that could not be looked at: its group, libvirtd or the API server was away.

Twice as long each time in which nothing has changed, as a node may be without the domain for good.
"""


@dataclass(frozen=True)
class AtWork:
    """What is not orphaned: the uids of migrations that have not ended, and the volumes that their journals name.

    A user's volume that is being removed carries no uid; the journal of the migration that removes it has its name.
    """

    migrations: frozenset[str]
    volumes: frozenset[tuple[str, str]] = frozenset()


def orphans_among(domain_name: str, leftovers: Iterable[Leftover], at_work: AtWork) -> tuple[Leftover, ...]:
    """Return those of a storage domain's leftovers that nobody works on. Pure."""
    return tuple(
        leftover
        for leftover in leftovers
        if leftover.migration not in at_work.migrations and (domain_name, leftover.volume) not in at_work.volumes
    )


def volumes_of(journal: Journal) -> frozenset[tuple[str, str]]:
    """Return each volume that the journal names, behind its storage domain's name. Pure."""
    sides = (
        (journal.source_domain, journal.at_source),
        (journal.destination_domain, journal.at_destination),
    )
    return frozenset((domain.metadata.name, volume.name) for domain, volumes in sides for volume in volumes)


def journals_by_vm(connection: Connection) -> tuple[tuple[Domain, Journal], ...]:
    """Return every journal in a VM of this node, behind its VM.

    Raises:
        MigrationError: libvirt could not be asked, or a journal cannot be read, so that nothing is known.
    """
    found = []
    for domain in every_domain(connection):
        try:
            found += [(domain, journals.read(domain, disk.target)) for disk in domain.describe().disks]
        except DomainGoneError:
            continue
    return tuple((domain, journal) for domain, journal in found if journal is not None)


class Orphans:
    """Looks after the agent's start, and again from time to time, in a thread of its own."""

    def __init__(
        self,
        *,
        node_name: str,
        connection: Connection,
        domains: StorageDomains,
        remover: Remover,
        migrations_at_work: Callable[[], frozenset[str]],
    ) -> None:
        """`migrations_at_work` has the uids of the node's migrations that have not ended; it may raise ClusterError."""
        self._node_name = node_name
        self._connection = connection
        self._domains = domains
        self._remover = remover
        self._migrations_at_work = migrations_at_work
        self._stopping = threading.Event()
        self._found: Mapping[str, tuple[OrphanedVolume, ...]] = {}
        self._told: Mapping[str, str] = {}
        self._failures = 0

    def start(self) -> None:
        """Start to look for orphans."""
        threading.Thread(target=self._run, name="orphans", daemon=True).start()

    def stop(self) -> None:
        """Stop looking for orphans."""
        self._stopping.set()

    def of(self, domain_name: str) -> tuple[OrphanedVolume, ...]:
        """Return the orphans of a storage domain that were found and could not be removed."""
        return self._found.get(domain_name, ())

    def _run(self) -> None:
        while not self._stopping.is_set():
            with surviving("the search for orphans", pause=self._stopping.wait):
                self._stopping.wait(SWEEP_SECONDS if self._sweep_all() else BACKOFF.seconds(self._failures))

    def _sweep_all(self) -> bool:
        """Return whether every domain could be looked at."""
        found, obstacles = {}, {}
        try:
            self._erase_ended_journals()
        except (MigrationError, ClusterError) as error:
            obstacles["every"] = str(error)
        for domain in self._domains.all():
            try:
                found[domain.name] = self._sweep(domain)
            except (MigrationError, ClusterError) as error:
                found[domain.name], obstacles[domain.name] = self.of(domain.name), str(error)
        for name, obstacle in obstacles.items():
            if self._told.get(name) != obstacle:
                _log.warning("orphans cannot be looked for yet", extra={"storageDomainName": name, "error": obstacle})
        self._failures = self._failures + 1 if obstacles == self._told else 1
        self._found, self._told = found, obstacles
        return not obstacles

    def _erase_ended_journals(self) -> None:
        """Those of migrations whose last word the API server has: see Worker, which erases its own."""
        known = journals_by_vm(self._connection)
        ended = [(domain, journal) for domain, journal in known if journal.outcome is not None]
        at_work = self._migrations_at_work() if ended else frozenset()
        for domain, journal in ended:
            if journal.uid not in at_work:
                journals.erase(domain, journal)
                _log.info("erased the journal of an ended migration", extra={"migration": journal.migration.key})

    def _sweep(self, domain: OpenDomain) -> tuple[OrphanedVolume, ...]:
        # The volumes first: a migration that begins after that has none among them.
        leftovers = domain.driver.leftovers(self._node_name)
        if not leftovers:
            return ()
        known = [journal for _, journal in journals_by_vm(self._connection)]
        at_work = AtWork(
            migrations=self._migrations_at_work() | {journal.uid for journal in known},
            volumes=frozenset().union(*map(volumes_of, known)),
        )
        orphans = orphans_among(domain.name, leftovers, at_work)
        return tuple(kept for orphan in orphans if (kept := self._remove(domain, orphan)) is not None)

    def _remove(self, domain: OpenDomain, orphan: Leftover) -> OrphanedVolume | None:
        """Remove it and return None, or return why it is still there."""
        extra = {"storageDomainName": domain.name, "volume": orphan.volume, "migrationUid": orphan.migration}
        try:
            path = str(domain.driver.path(orphan.volume))
            # A user's volume that is marked as being removed was proven to be needed by nobody before it was marked.
            unneeded = UnneededVolume(orphan.volume, path, is_qcow2=True, standing=Standing.OWN)
            retained = self._remover.remove(domain, (unneeded,), wait=self._stopping.wait)
        except MigrationError as error:
            reason = error.message
        else:
            if not retained:
                _log.warning("removed an orphaned volume", extra={**extra, "sizeBytes": orphan.size_bytes})
                return None
            reason = retained[0].reason
        _log.warning("an orphaned volume cannot be removed", extra={**extra, "reason": reason})
        return OrphanedVolume(name=orphan.volume, size_bytes=orphan.size_bytes, reason=reason)
