"""A StorageDomain's status, from what the nodes' agents report. Pure.

The conditions are those of kstatus (sigs.k8s.io/cli-utils), by which GitOps tools wait for an object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from diskmigration.api.conditions import ConditionStatus, conditions_of
from diskmigration.api.errors import Reason
from diskmigration.api.libvirt_host import NodeStorageDomain
from diskmigration.api.quantity import human_readable
from diskmigration.api.storage_domain import StorageDomainDisplay, StorageDomainStatus, StorageDomainUse
from diskmigration.controller.records import DomainRecord

_NAMED_NODES = 3


class DomainCondition(StrEnum):
    """The conditions of a StorageDomain."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


@dataclass(frozen=True)
class DomainUse:
    """What is known of a storage domain besides its spec.

    `reports` has what the nodes' agents say, by node. `unlocked_sharers` has, by the node that reports it, the nodes
    that share its volume group with no lock manager. `active_migrations` occupy a place in it. `in_use` is what
    keeps it from being deleted.
    """

    reports: Mapping[str, NodeStorageDomain] = field(default_factory=dict)
    unlocked_sharers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    active_migrations: int = 0
    in_use: StorageDomainUse = field(default_factory=StorageDomainUse)


def status_of(record: DomainRecord, use: DomainUse, now: datetime) -> StorageDomainStatus:
    """Return its status: ready on at least one node, with the first reasons of the nodes that are not."""
    reports = use.reports
    shared = {node: sharers for node, sharers in use.unlocked_sharers.items() if node in reports and sharers}
    usable = [report for node, report in reports.items() if report.ready and node not in shared]
    ready = len(usable)
    if record.domain is None:
        reason, message = "InvalidSpec", f"The spec cannot be read: {record.error}. Correct it."
        usable, ready = [], 0
    elif not reports:
        reason = "NoNode"
        message = "No node with a live agent reports it: check spec.nodeSelector and the agents' pods."
    elif shared and not ready:
        reason = Reason.SHARED_VOLUME_GROUP_UNLOCKED.value
        message = f"Ready on no node.{_sharing(shared)}"
    else:
        reason = "NodesReady" if ready else "NoNodeReady"
        message = f"Ready on {ready} of {len(reports)} nodes.{_complaints(reports)}{_sharing(shared)}"
    states: dict[str, ConditionStatus | bool] = {
        DomainCondition.READY: ready > 0,
        # A node may reach it any moment; a spec that cannot be read stays so until somebody corrects it.
        DomainCondition.RECONCILING: record.domain is not None and not ready,
        DomainCondition.STALLED: record.domain is None,
    }
    available, capacity = _room(usable)
    limit = f"/{record.domain.spec.max_concurrent_migrations}" if record.domain is not None else ""
    return StorageDomainStatus(
        observed_generation=record.metadata.generation,
        conditions=conditions_of(
            record.status.conditions,
            states,
            reason=reason,
            message=message,
            generation=record.metadata.generation,
            now=now,
        ),
        ready_nodes=ready,
        type=record.domain.spec.type if record.domain is not None else None,
        capacity_bytes=capacity,
        available_bytes=available,
        active_migrations=use.active_migrations,
        in_use=use.in_use,
        display=StorageDomainDisplay(
            available=human_readable(available) if available is not None else None,
            capacity=human_readable(capacity) if capacity is not None else None,
            active=f"{use.active_migrations}{limit}",
        ),
    )


def _room(reports: Sequence[NodeStorageDomain]) -> tuple[int | None, int | None]:
    """Return what the node with the least room reports: its available bytes, and its capacity."""
    known = [
        (report.available_bytes, report.capacity_bytes)
        for report in reports
        if report.available_bytes is not None and report.capacity_bytes is not None
    ]
    return min(known, default=(None, None))


def _sharing(shared: Mapping[str, Sequence[str]]) -> str:
    if not shared:
        return ""
    nodes = sorted({node for sharers in shared.values() for node in sharers})
    return (
        f" Its volume group is seen by the nodes {', '.join(nodes)} with no lock manager, so nothing is moved onto "
        "it or off it there. Share it under lvmlockd, or connect its devices to one node only."
    )


def _complaints(reports: Mapping[str, NodeStorageDomain]) -> str:
    complaining = sorted((node, report.reason) for node, report in reports.items() if not report.ready)
    if not complaining:
        return ""
    named = "; ".join(f"{node}: {reason or 'no reason given'}" for node, reason in complaining[:_NAMED_NODES])
    more = len(complaining) - _NAMED_NODES
    return f" Not ready on {named}{f' and {more} more' if more > 0 else ''}."
