"""Who needs a volume that is to be removed: a VM, a definition or an image of this node, or another node."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.migration.activity import Doing
from diskmigration.agent.migration.host_needs import Wanted, is_silent, judge_hosts
from diskmigration.agent.migration.unneeded_volumes import Standing, UnneededVolume
from diskmigration.agent.other_hosts import HostsUnknownError, OtherHost, OtherHosts
from diskmigration.agent.references.graph import Candidate, Graph, Judgement, judge
from diskmigration.agent.references.users import users_in_domain, users_on_node
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import Identity, StoredImage
from diskmigration.api.errors import MigrationError, Reason

_ASK_SECONDS = 0.5
_HOSTS_SECONDS = 40.0
"""How long a node is waited for whose agent does not answer, as after an outage of the API server.

Its Lease is renewed, and what it needs is told, well within that time.
"""
_DOUBT_SECONDS = 3.0
"""How long a chain is given whose images cannot all be read: somebody may just be making or removing them."""
_FRESH_SECONDS = 2.0
"""How long what was seen of the users is good for: a chain of hundreds would be looked at hundreds of times."""


class VolumeNeeds:
    """The users of the volumes of one chain, looked at again before each volume unless that was done just now."""

    def __init__(
        self,
        connection: Connection,
        domains: StorageDomains,
        home: OpenDomain,
        hosts: OtherHosts,
        *,
        wait: Callable[[float], object],
        doing: Doing,
    ) -> None:
        self._connection = connection
        self._domains = domains
        self._home = home
        self._hosts = hosts
        self._wait = wait
        self._doing = doing
        self._hosts_until: float | None = None
        self._doubted_until: float | None = None
        self._looked_at = -math.inf
        self._graphs: list[Graph] = []
        self.gone: set[Identity] = set()

    def of(self, unneeded: UnneededVolume, image: StoredImage) -> str | None:
        """Who needs the volume or may need it, as a sentence; None where it may go."""
        reason = self._on_node(unneeded, image)
        if reason is not None or unneeded.standing is not Standing.LOWER:
            return reason
        # The other nodes may have been waited for: what was seen here before counts no more then.
        return self._elsewhere(unneeded, image) or self._on_node(unneeded, image)

    def _on_node(self, unneeded: UnneededVolume, image: StoredImage) -> str | None:
        candidate = Candidate(image.identity, unneeded.is_qcow2)
        while True:
            graphs = self._look(unneeded.standing)
            judgements = [judge(candidate, graph, gone=frozenset(self.gone)) for graph in graphs]
            reason = _why_kept(unneeded, judgements)
            if reason is None or any(judgement.users for judgement in judgements):
                return reason
            if self._doubted_until is None:
                self._doubted_until = time.monotonic() + _DOUBT_SECONDS
            if time.monotonic() > self._doubted_until:
                return reason
            self._wait(_ASK_SECONDS)
            self._looked_at = -math.inf

    def _elsewhere(self, unneeded: UnneededVolume, image: StoredImage) -> str | None:
        group = self._home.driver.volume_group()
        if group is not None and not group.is_locked:
            # Two nodes never share it: see SharedVolumeGroupUnlocked.
            return None
        wanted = Wanted(self._names(unneeded, image), unneeded.is_qcow2)
        if self._hosts_until is None:
            self._hosts_until = time.monotonic() + _HOSTS_SECONDS
        told = ""
        with ExitStack() as waiting:
            while True:
                hosts = self._other_hosts(unneeded)
                if hosts and self._domains.is_deleted(self._home):
                    return (
                        f"Whether another node needs it is not known, as the StorageDomain {self._home.name} was "
                        "deleted. Remove it if nobody needs it."
                    )
                judgement = judge_hosts(wanted, group, hosts)
                silent = [host.name for host in hosts if is_silent(host, wanted, group)]
                if judgement.users or not silent or time.monotonic() > self._hosts_until:
                    return _why_kept(unneeded, [judgement])
                what = f"Waiting for the agent on {listed(silent)} to tell whether it needs {unneeded.path}"
                if what != told:
                    told = what
                    waiting.close()
                    waiting.enter_context(self._doing(what))
                self._wait(_ASK_SECONDS)

    def _other_hosts(self, unneeded: UnneededVolume) -> tuple[OtherHost, ...]:
        try:
            return self._hosts.all()
        except HostsUnknownError as error:
            raise MigrationError(
                Reason.STORAGE_FAILED,
                f"Whether another node needs {unneeded.path} is not known, as {error}. It is removed or kept when the "
                "Kubernetes API answers.",
            ) from error

    def _names(self, unneeded: UnneededVolume, image: StoredImage) -> frozenset[tuple[str, str]]:
        """Return the volume's name in each storage domain that it lies in: their directories may lie in one another."""
        paths = [path for path in (image.path, Path(unneeded.path)) if path is not None]
        return frozenset({(self._home.name, unneeded.name)}).union(*map(self._domains.names_of, paths))

    def _look(self, standing: Standing) -> list[Graph]:
        now = time.monotonic()
        needed = 1 if standing is Standing.OWN else 2
        if now - self._looked_at > _FRESH_SECONDS or len(self._graphs) < needed:
            self._graphs = [users_on_node(self._connection, self._domains)]
            if standing is not Standing.OWN:
                self._graphs.append(users_in_domain(self._home, self._domains))
            self._looked_at = now
        return self._graphs


def _why_kept(unneeded: UnneededVolume, judgements: Sequence[Judgement]) -> str | None:
    users = [user for judgement in judgements for user in judgement.users]
    if users:
        return f"It is used by {listed(users)}."
    doubts = [doubt for judgement in judgements for doubt in judgement.doubts]
    if doubts and unneeded.standing is Standing.LOWER:
        return f"It may be used by {listed(doubts)}. Remove it if nobody needs it."
    return None


def listed(clauses: Sequence[str]) -> str:
    """Return the first few of them, as a message must stay readable."""
    shown, left = clauses[:3], len(clauses) - 3
    return "; ".join(shown) + (f"; and {left} more" if left > 0 else "")
