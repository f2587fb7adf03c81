"""All that is known, kept whole through every observation. In memory only, no requests.

Call `observe_…` or `forget_…` for each watch event, list item and answer: it is kept if it is news, the objects that it
concerns are woken, and the scheduler grants the places that it frees.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.api.model import ObjectMeta
from diskmigration.controller import dependencies
from diskmigration.controller.cluster_inventory import ClusterInventory
from diskmigration.controller.dependencies import Dependency
from diskmigration.controller.freshness import Freshness, version_of
from diskmigration.controller.liveness import Liveness
from diskmigration.controller.migration_cache import Change, MigrationCache
from diskmigration.controller.outcome_metrics import OutcomeMetrics
from diskmigration.controller.records import Migration, read_domain, read_metadata, read_migration
from diskmigration.controller.scheduler import Scheduler
from diskmigration.controller.throughput import Throughput

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wake:
    """How to have an object looked at: a migration by its key, a storage domain by its name."""

    migration: Callable[[str], None]
    domain: Callable[[str], None]


class ControllerState:
    """Not thread-safe: one event loop owns it."""

    def __init__(self, *, system_namespace: str, wake: Wake) -> None:
        """Start with nothing known; nothing is granted before the scheduler is opened."""
        self.migrations = MigrationCache()
        self.inventory = ClusterInventory()
        self.throughput = Throughput()
        self._outcome_metrics = OutcomeMetrics(self.throughput)
        self.scheduler = Scheduler(
            self.migrations, self.inventory, system_namespace=system_namespace, wake=wake.migration
        )
        self._freshness = Freshness()
        self._wake = wake

    # What is observed

    def observe_migration(self, body: Mapping[str, Any]) -> None:
        """Takes in a DiskMigration as an event, a list or an answer has it."""
        known = self.migrations.active.get(_key(body))
        if (change := self.migrations.observe(body)) is not None:
            self._follow(known, body)
            self._take_in(change)

    def forget_migration(self, key: str, uid: str) -> None:
        """Takes in that a DiskMigration is deleted."""
        self._outcome_metrics.forget(uid)
        if (change := self.migrations.forget(key, uid)) is not None:
            self._take_in(change)

    def observe_host(self, body: Mapping[str, Any]) -> None:
        """Takes in a LibvirtHost. One that cannot be read leaves what was known."""
        metadata = read_metadata(body)
        if not self._freshness.is_news(self.inventory.host_metadata(metadata.name), body["metadata"]):
            return
        try:
            host = LibvirtHost.from_wire({"metadata": metadata, "status": body.get("status") or {}})
        except ValidationError as error:
            _log.warning("a LibvirtHost cannot be read", extra={"node": metadata.name, "error": str(error)})
            return
        self._touch(self.inventory.put_host(host))

    def forget_host(self, node: str, uid: str = "") -> None:
        """Takes in that a LibvirtHost is deleted; without a uid the one that is kept."""
        kept = self.inventory.host_metadata(node)
        self._bury(uid, kept)
        if kept is not None and uid in ("", kept.uid):
            self._touch(self.inventory.remove_host(node))

    def observe_domain(self, body: Mapping[str, Any]) -> None:
        """Takes in a StorageDomain."""
        kept = self.inventory.domain(body["metadata"]["name"])
        if self._freshness.is_news(kept.metadata if kept is not None else None, body["metadata"]):
            self._touch(self.inventory.put_domain(read_domain(body)))

    def forget_domain(self, name: str, uid: str = "") -> None:
        """Takes in that a StorageDomain is deleted; without a uid the one that is kept."""
        record = self.inventory.domain(name)
        kept = record.metadata if record is not None else None
        self._bury(uid, kept)
        if kept is not None and uid in ("", kept.uid):
            self._touch(self.inventory.remove_domain(name))

    def set_liveness(self, liveness: Liveness) -> None:
        """Takes in which nodes' agents are alive."""
        self._touch(self.inventory.set_liveness(liveness))

    def versions(self) -> dict[str, float]:
        """Return the newest known version of every object, by uid; see `freshness.require_no_step_back`."""
        kept = {one.uid: version_of(one) for one in self.inventory.metadata()}
        return self.migrations.versions() | self._freshness.versions() | kept

    # How it is kept

    def _follow(self, known: Migration | None, body: Mapping[str, Any]) -> None:
        before = known if known is not None and known.uid == body["metadata"]["uid"] else None
        self._outcome_metrics.observe(
            before, self.migrations.active.get(_key(body)) or read_migration(body), body.get("status") or {}
        )

    def _take_in(self, change: Change) -> None:
        if change.replaced_uid:
            self.scheduler.release(change.replaced_uid, change.key)
        migration = self.migrations.active.get(change.key)
        if migration is None:
            self.scheduler.release(change.uid, change.key)
        elif migration.is_delegated:
            self.scheduler.account(migration)
        self._wake.migration(change.key)
        self.scheduler.grant()

    def _bury(self, uid: str, kept: ObjectMeta | None) -> None:
        """Another one may have its name already, as the event of a deletion may come late."""
        if uid or kept is not None:
            self._freshness.bury(uid or (kept.uid if kept is not None else ""))

    def _touch(self, changed: set[Dependency]) -> None:
        for name in dependencies.domains_among(changed):
            self._wake.domain(name)
        self.scheduler.touch(changed)
        self.scheduler.grant()


def _key(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"
