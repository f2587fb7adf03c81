"""A StorageDomain's status, from what the nodes' agents report. Pure."""

from collections.abc import Mapping
from datetime import datetime

from diskmigration.api.conditions import condition
from diskmigration.api.hypervisor import NodeStorageDomain
from diskmigration.api.storage_domain import StorageDomainStatus
from diskmigration.controller.records import DomainRecord

READY = "Ready"
_NAMED_NODES = 3


def status_of(record: DomainRecord, reports: Mapping[str, NodeStorageDomain], now: datetime) -> StorageDomainStatus:
    """Ready on at least one node, with the number of nodes and the first reasons of those that are not."""
    ready = sum(report.ready for report in reports.values())
    if record.domain is None:
        reason, message = "InvalidSpec", f"The spec cannot be read: {record.error}. Correct it."
        ready = 0
    elif not reports:
        reason = "NoNode"
        message = "No node with a live agent reports it: check spec.nodeSelector and the agents' pods."
    else:
        reason = "NodesReady" if ready else "NoNodeReady"
        message = f"Ready on {ready} of {len(reports)} nodes.{_complaints(reports)}"
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


def _complaints(reports: Mapping[str, NodeStorageDomain]) -> str:
    complaining = sorted((node, report.reason) for node, report in reports.items() if not report.ready)
    if not complaining:
        return ""
    named = "; ".join(f"{node}: {reason or 'no reason given'}" for node, reason in complaining[:_NAMED_NODES])
    more = len(complaining) - _NAMED_NODES
    return f" Not ready on {named}{f' and {more} more' if more > 0 else ''}."
