"""Keep the statuses of StorageDomains: each says what the nodes report."""

import time

from diskmigration import clock
from diskmigration.api import names
from diskmigration.cluster.client import Cluster
from diskmigration.controller import metrics, storage_domain_pacing, storage_domain_status
from diskmigration.controller.request import Request
from diskmigration.controller.state import ControllerState
from diskmigration.controller.storage_domain_status import DomainUse


class DomainReconciler:
    """Not thread-safe: one event loop owns it."""

    def __init__(self, cluster: Cluster, state: ControllerState, *, request: Request) -> None:
        """`request` makes a request beside the event loop."""
        self._cluster = cluster
        self._state = state
        self._request = request
        self._written_at: dict[str, float] = {}

    async def reconcile_domain(self, name: str) -> None:
        """Write a StorageDomain's status if what the nodes report is worth a write by now.

        The caller looks again every `storage_domain_pacing.COUNTS_SECONDS`.

        Raises:
            ClusterError: the step could not be made; make it again.
        """
        record = self._state.inventory.domain(name)
        if record is None:
            self._written_at.pop(name, None)
            metrics.forget_domain(name)
            return
        now = clock.now().replace(microsecond=0)
        use = self._use_of(name)
        wanted = storage_domain_status.status_of(record, use, now)
        orphans = sum(len(report.orphaned_volumes) for report in use.reports.values())
        metrics.describe_domain(name, wanted, orphans=orphans)
        seconds = storage_domain_pacing.interval(record.status, wanted)
        written_at = self._written_at.get(name)
        if seconds is None or (written_at is not None and time.monotonic() - written_at < seconds):
            return
        body = await self._request(
            self._cluster.apply_status,
            names.STORAGE_DOMAINS,
            name,
            wanted.to_wire(),
            uid=record.metadata.uid,
            field_manager=names.OPERATOR_FIELD_MANAGER,
        )
        self._written_at[name] = time.monotonic()
        self._state.observe_domain(body)

    def _use_of(self, name: str) -> DomainUse:
        inventory = self._state.inventory
        reports = inventory.reports(name)
        groups = {node: report.volume_group.uuid for node, report in reports.items() if report.volume_group is not None}
        sharers = {uuid: inventory.unlocked_sharers(uuid) for uuid in set(groups.values())}
        return DomainUse(
            reports=reports,
            unlocked_sharers={node: sharers[uuid] for node, uuid in groups.items()},
            active_migrations=self._state.scheduler.active_on(name),
            in_use=inventory.thin_volumes.use_of(name).model_copy(
                update={"migrations": self._state.scheduler.migrations_on(name)}
            ),
        )
