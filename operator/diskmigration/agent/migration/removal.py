"""The one place that removes volumes: what somebody needs, may need or has open is kept, and told.

The rules: a volume goes only if it is the migration's own, or the user's top layer, or a layer below that is proven to
be this disk's alone. For the first two it is enough that nobody is known to need them; for a lower layer every image
that could stand on it must have been read.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.migration.host_needs import Wanted, is_silent, judge_hosts
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.other_hosts import HostsUnknownError, OtherHost, OtherHosts
from diskmigration.agent.references.graph import Candidate, Graph, Judgement, judge
from diskmigration.agent.references.users import users_in_domain, users_on_node
from diskmigration.agent.storage import image_locks
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import Identity, StorageDriver, StoredImage, VolumeInUseError
from diskmigration.agent.storage.openers import openers_of_any
from diskmigration.api.disk_migration import RetainedVolume, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

_CLOSING_SECONDS = 10.0
"""How long a process that has a volume open, as a QEMU that has just left it, is given to close it."""
_ASK_SECONDS = 0.5
_HOSTS_SECONDS = 40.0
"""How long a node is waited for whose agent does not answer, as after an outage of the API server.

Its Lease is renewed, and what it needs is told, well within that time.
"""
_DOUBT_SECONDS = 3.0
"""How long a chain is given whose images cannot all be read: somebody may just be making or removing them."""
_FRESH_SECONDS = 2.0
"""How long what was seen of the users is good for: a chain of hundreds would be looked at hundreds of times."""


class Standing(Enum):
    """What a volume is to the migration that removes it."""

    OWN = "own"
    TOP = "top"
    LOWER = "lower"


@dataclass(frozen=True)
class Doomed:
    """A volume that is to be removed; `is_expected` tells that it must be there, as nobody has removed it yet."""

    name: str
    path: str
    is_qcow2: bool
    standing: Standing
    is_expected: bool = False


def own(volume: JournalVolume) -> Doomed:
    """Return a volume that the migration made."""
    return _doomed(volume, Standing.OWN)


def source_chain(journal: Journal) -> tuple[Doomed, ...]:
    """Return the user's volumes of the source, top first."""
    top, *lower = reversed(journal.source)
    standings = [(top, Standing.TOP), *((volume, Standing.LOWER) for volume in lower)]
    return tuple(_doomed(volume, standing, is_expected=not journal.removes_source) for volume, standing in standings)


def _doomed(volume: JournalVolume, standing: Standing, *, is_expected: bool = False) -> Doomed:
    is_qcow2 = volume.format is VolumeFormat.QCOW2
    return Doomed(volume.name, volume.path, is_qcow2, standing, is_expected=is_expected)


def remove_probe(driver: StorageDriver, name: str) -> None:
    """Remove a file that was made just now to see what can be made, and that nobody was told of.

    Raises:
        MigrationError: StorageFailed.
    """
    driver.remove(name)


class Remover:
    """Removes volumes of the storage domains of this node. Thread-safe."""

    def __init__(self, connection: Connection, domains: StorageDomains, hosts: OtherHosts) -> None:
        """`connection` is to libvirt, which knows the VMs of this node; `hosts` are the others."""
        self._connection = connection
        self._domains = domains
        self._hosts = hosts

    def remove(
        self, home: OpenDomain, chain: Sequence[Doomed], *, wait: Callable[[float], object] = time.sleep
    ) -> tuple[RetainedVolume, ...]:
        """Remove a chain or a part of one, top first, and return what was kept, with why.

        All that lies below a kept volume is kept. `wait` waits for so many seconds, or less.

        Raises:
            MigrationError: StorageFailed, HypervisorUnavailable; some volumes may be gone by then.
        """
        needs = _Needs(self._connection, self._domains, home, self._hosts, wait)
        for position, doomed in enumerate(chain):
            reason = _remove(home, doomed, needs, wait)
            if reason is not None:
                below = (_retained(lower, f"It lies below {doomed.name}.") for lower in chain[position + 1 :])
                kept = (_retained(doomed, reason), *below)
                for volume in kept:
                    extra = {"volume": volume.name, "storageDomain": home.name, "reason": volume.reason}
                    _log.info("kept a volume", extra=extra)
                return kept
        return ()

    def need_of(self, home: OpenDomain, doomed: Doomed) -> str | None:
        """Return who needs a volume, as a sentence; None where nobody is known to, or it is not there.

        Raises:
            MigrationError: StorageFailed, HypervisorUnavailable.
        """
        image = home.driver.image(doomed.name)
        needs = _Needs(self._connection, self._domains, home, self._hosts, time.sleep)
        return needs.of(doomed, image) if image is not None else None


def _remove(home: OpenDomain, doomed: Doomed, needs: "_Needs", wait: Callable[[float], object]) -> str | None:
    """Why the volume is kept, or None once it is gone."""
    image = home.driver.image(doomed.name)
    if image is not None:
        reason = needs.of(doomed, image) or _opener_of(home, doomed, wait)
        if reason is not None:
            return reason
    elif doomed.is_expected:
        return "It was not there when it was to be removed. See whether its file system is mounted on the node."
    try:
        home.driver.remove(doomed.name)
    except VolumeInUseError as error:
        return error.message
    except MigrationError as error:
        if error.reason is Reason.VOLUME_NOT_HANDED_OVER:
            return error.message
        raise
    if image is not None:
        needs.gone.add(image.identity)
    return None


class _Needs:
    """The users of the volumes of one chain, looked at again before each volume unless that was done just now."""

    def __init__(
        self,
        connection: Connection,
        domains: StorageDomains,
        home: OpenDomain,
        hosts: OtherHosts,
        wait: Callable[[float], object],
    ) -> None:
        self._connection = connection
        self._domains = domains
        self._home = home
        self._hosts = hosts
        self._wait = wait
        self._hosts_until: float | None = None
        self._doubted_until: float | None = None
        self._looked_at = -math.inf
        self._graphs: list[Graph] = []
        self.gone: set[Identity] = set()

    def of(self, doomed: Doomed, image: StoredImage) -> str | None:
        """Return who needs the volume or may need it, as a sentence; None where it may go."""
        reason = self._on_node(doomed, image)
        if reason is not None or doomed.standing is not Standing.LOWER:
            return reason
        # The other nodes may have been waited for: what was seen here before counts no more then.
        return self._elsewhere(doomed, image) or self._on_node(doomed, image)

    def _on_node(self, doomed: Doomed, image: StoredImage) -> str | None:
        candidate = Candidate(image.identity, doomed.is_qcow2)
        while True:
            graphs = self._look(doomed.standing)
            judgements = [judge(candidate, graph, gone=frozenset(self.gone)) for graph in graphs]
            reason = _why_kept(doomed, judgements)
            if reason is None or any(judgement.users for judgement in judgements):
                return reason
            if self._doubted_until is None:
                self._doubted_until = time.monotonic() + _DOUBT_SECONDS
            if time.monotonic() > self._doubted_until:
                return reason
            self._wait(_ASK_SECONDS)
            self._looked_at = -math.inf

    def _elsewhere(self, doomed: Doomed, image: StoredImage) -> str | None:
        group = self._home.driver.volume_group()
        if group is not None and not group.is_locked:
            # Two nodes never share it: see SharedVolumeGroupUnlocked.
            return None
        wanted = Wanted(self._names(doomed, image), doomed.is_qcow2)
        if self._hosts_until is None:
            self._hosts_until = time.monotonic() + _HOSTS_SECONDS
        while True:
            hosts = self._other_hosts(doomed)
            if hosts and self._domains.is_deleted(self._home):
                return (
                    f"Whether another node needs it is not known, as the StorageDomain {self._home.name} was deleted. "
                    "Remove it if nobody needs it."
                )
            judgement = judge_hosts(wanted, group, hosts)
            is_told = judgement.users or not any(is_silent(host, wanted, group) for host in hosts)
            if is_told or time.monotonic() > self._hosts_until:
                return _why_kept(doomed, [judgement])
            self._wait(_ASK_SECONDS)

    def _other_hosts(self, doomed: Doomed) -> tuple[OtherHost, ...]:
        try:
            return self._hosts.all()
        except HostsUnknownError as error:
            raise MigrationError(
                Reason.STORAGE_FAILED,
                f"Whether another node needs {doomed.path} is not known, as {error}. It is removed or kept when the "
                "Kubernetes API answers.",
            ) from error

    def _names(self, doomed: Doomed, image: StoredImage) -> frozenset[tuple[str, str]]:
        """Return the volume's name in each storage domain that it lies in: their directories may lie in one another."""
        paths = [path for path in (image.path, Path(doomed.path)) if path is not None]
        return frozenset({(self._home.name, doomed.name)}).union(*map(self._domains.names_of, paths))

    def _look(self, standing: Standing) -> list[Graph]:
        now = time.monotonic()
        needed = 1 if standing is Standing.OWN else 2
        if now - self._looked_at > _FRESH_SECONDS or len(self._graphs) < needed:
            self._graphs = [users_on_node(self._connection, self._domains)]
            if standing is not Standing.OWN:
                self._graphs.append(users_in_domain(self._home, self._domains))
            self._looked_at = now
        return self._graphs


def _why_kept(doomed: Doomed, judgements: Sequence[Judgement]) -> str | None:
    users = [user for judgement in judgements for user in judgement.users]
    if users:
        return f"It is used by {_listed(users)}."
    doubts = [doubt for judgement in judgements for doubt in judgement.doubts]
    if doubts and doomed.standing is Standing.LOWER:
        return f"It may be used by {_listed(doubts)}. Remove it if nobody needs it."
    return None


def _opener_of(home: OpenDomain, doomed: Doomed, wait: Callable[[float], object]) -> str | None:
    """Return who has the volume open, as a sentence; None where nobody has."""
    paths = home.driver.paths(doomed.name)
    until = time.monotonic() + _CLOSING_SECONDS
    while True:
        openers = {opener for found in openers_of_any(paths).values() for opener in found}
        if not openers:
            break
        if time.monotonic() > until:
            return (
                f"It is open: {_listed(sorted(map(str, openers)))}. Remove it when that has ended, if nobody needs it."
            )
        wait(_ASK_SECONDS)
    try:
        is_held = any(map(image_locks.is_held, paths))
    except OSError as error:
        return f"Whether a QEMU has it open cannot be told: {error}."
    return "A QEMU has it open, maybe on another node: QEMU's lock is on it." if is_held else None


def _listed(clauses: Sequence[str]) -> str:
    """Return the first few of them, as a message must stay readable."""
    shown, left = clauses[:3], len(clauses) - 3
    return "; ".join(shown) + (f"; and {left} more" if left > 0 else "")


def _retained(doomed: Doomed, reason: str) -> RetainedVolume:
    return RetainedVolume(name=doomed.name, path=doomed.path, reason=reason)
