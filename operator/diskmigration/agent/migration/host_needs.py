"""What other nodes need of a storage domain that they have too, as their agents publish it. Pure.

A node whose agent does not live may have VMs that nobody tells of, so it may need anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from diskmigration.agent.other_hosts import OtherHost
from diskmigration.agent.references.graph import Judgement
from diskmigration.api.libvirt_host import NodeStorageDomain, VolumeGroup


@dataclass(frozen=True)
class Wanted:
    """A volume by each name that this node has for it: storage domains, and its name in each."""

    names: frozenset[tuple[str, str]]
    is_qcow2: bool


def judge_hosts(wanted: Wanted, group: VolumeGroup | None, hosts: Iterable[OtherHost]) -> Judgement:
    """Return which nodes need the volume, and which may. `group` is the volume group that the domain is."""
    users, doubts = [], []
    for host in hosts:
        reports = _reports(host, wanted, group)
        if not reports:
            continue
        node = f"the node {host.name}"
        used = {(report.name, volume) for report in reports for volume in report.used_volumes or ()}
        unseen = [
            volume for volume in host.reported.status.unseen_volumes if not (volume.is_raw_medium and wanted.is_qcow2)
        ]
        if used & wanted.names or (group is not None and _volumes(used) & _volumes(wanted.names)):
            users.append(f"a VM, definition or snapshot on {node}")
        elif not host.is_current:
            doubts.append(f"{node}: its agent or its libvirtd does not answer")
        elif any(report.used_volumes is None for report in reports):
            doubts.append(f"{node}: its agent has not told yet which volumes it needs")
        elif unseen:
            doubts.append(f"{unseen[0].used_by} on {node}: {unseen[0].reason}")
    return Judgement(tuple(users), tuple(doubts))


def is_silent(host: OtherHost, wanted: Wanted, group: VolumeGroup | None) -> bool:
    """Return whether a node that has the storage domain does not tell, now or yet, what it needs of it."""
    reports = _reports(host, wanted, group)
    return bool(reports) and not (host.is_current and all(report.used_volumes is not None for report in reports))


def _reports(host: OtherHost, wanted: Wanted, group: VolumeGroup | None) -> list[NodeStorageDomain]:
    """Return what the node tells of the storage domain, or of others on the same volume group."""
    return [report for report in host.reported.status.storage_domains if _is_same(report, wanted, group)]


def _is_same(report: NodeStorageDomain, wanted: Wanted, group: VolumeGroup | None) -> bool:
    """Return whether the node's domain may be the same storage; groups of one name are told apart by their uuid."""
    if group is not None and report.volume_group is not None:
        return report.volume_group.uuid == group.uuid
    return any(report.name == domain for domain, _ in wanted.names)


def _volumes(names: Iterable[tuple[str, str]]) -> set[str]:
    return {volume for _, volume in names}
