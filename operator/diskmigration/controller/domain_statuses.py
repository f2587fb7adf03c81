"""A StorageDomain's status, from what the nodes' agents report. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from diskmigration.api.conditions import condition
from diskmigration.api.errors import Reason
from diskmigration.api.libvirt_host import NodeStorageDomain
from diskmigration.api.storage_domain import StorageDomainStatus
from diskmigration.controller.records import DomainRecord

READY = "Ready"
_NAMED_NODES = 3


def status_of(
    record: DomainRecord,
    reports: Mapping[str, NodeStorageDomain],
    now: datetime,
    *,
    unlocked_sharers: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> StorageDomainStatus:
    """Ready on at least one node, with the number of nodes and the first reasons of those that are not.

    `unlocked_sharers` has, by the node that reports it, the nodes that share its volume group with no lock manager.
    """
    shared = {node: sharers for node, sharers in unlocked_sharers.items() if node in reports and sharers}
    ready = sum(report.ready for node, report in reports.items() if node not in shared)
    if record.domain is None:
        reason, message = "InvalidSpec", f"The spec cannot be read: {record.error}. Correct it."
        ready = 0
    elif not reports:
        reason = "NoNode"
        message = "No node with a live agent reports it: check spec.nodeSelector and the agents' pods."
    elif shared and not ready:
        reason = Reason.SHARED_VOLUME_GROUP_UNLOCKED.value
        message = f"Ready on no node.{_sharing(shared)}"
    else:
        reason = "NodesReady" if ready else "NoNodeReady"
        message = f"Ready on {ready} of {len(reports)} nodes.{_complaints(reports)}{_sharing(shared)}"
    return StorageDomainStatus(
        conditions=(
            condition(
                record.status.conditions,
                READY,
                ready > 0,
                reason=reason,
                message=message,
                generation=record.metadata.generation,
                now=now,
            ),
        ),
        ready_nodes=ready,
        type=record.domain.spec.type if record.domain is not None else None,
    )


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
