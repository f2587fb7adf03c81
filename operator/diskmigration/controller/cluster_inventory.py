"""What the cluster has: VMs, nodes that are alive, storage domains. Fed by events, read by placement.

Everything is found by its name in constant time, and each change tells which dependencies it touches.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from diskmigration.api import conditions
from diskmigration.api.conditions import ConditionStatus
from diskmigration.api.disk_migration import DiskMigrationSpec
from diskmigration.api.libvirt_host import Disk, LibvirtHost, NodeStorageDomain, VirtualMachine, VolumeGroup
from diskmigration.api.model import ObjectMeta
from diskmigration.controller import dependencies
from diskmigration.controller.dependencies import Dependency
from diskmigration.controller.liveness import Liveness
from diskmigration.controller.records import DomainRecord
from diskmigration.controller.thin_volumes import ThinVolumes

_K = TypeVar("_K")
_T = TypeVar("_T")


_Sight = tuple[str, str]
"""A node and the storage domain as which it has a volume group."""


@dataclass(frozen=True, slots=True)
class LocatedMachine:
    """A VM and the node whose agent reports it."""

    node: str
    machine: VirtualMachine


class ClusterInventory:
    """Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        """An empty one."""
        self._hosts: dict[str, LibvirtHost] = {}
        self._machines_by_name: defaultdict[str, dict[str, VirtualMachine]] = defaultdict(dict)
        self._machines_by_uuid: defaultdict[str, dict[str, VirtualMachine]] = defaultdict(dict)
        self._reports: defaultdict[str, dict[str, NodeStorageDomain]] = defaultdict(dict)
        self._groups: defaultdict[str, dict[_Sight, VolumeGroup]] = defaultdict(dict)
        self._domains: dict[str, DomainRecord] = {}
        self._liveness = Liveness()
        self.thin_volumes = ThinVolumes()

    def put_host(self, host: LibvirtHost) -> set[Dependency]:
        """Takes in what a node's agent reports; the dependencies that it changes."""
        node = host.metadata.name
        before = self._hosts.get(node)
        self._hosts[node] = host
        self.thin_volumes.replace(node, host.status.virtual_machines)
        touched = self._replace_machines(node, before, host) | self._replace_reports(node, before, host)
        if _complaint(before) != _complaint(host):
            touched.add(dependencies.node(node))
        return touched

    def remove_host(self, node: str) -> set[Dependency]:
        """Forgets a node; the dependencies that this changes."""
        before = self._hosts.pop(node, None)
        self.thin_volumes.replace(node, ())
        return self._replace_machines(node, before, None) | self._replace_reports(node, before, None)

    def put_domain(self, record: DomainRecord) -> set[Dependency]:
        """Takes in a StorageDomain; its dependency if anything but its status changed.

        A new generation counts although its spec reads the same (`1Gi` for `1024Mi`): the status has to observe it.
        """
        before = self._domains.get(record.metadata.name)
        self._domains[record.metadata.name] = record
        if before is not None and _identity_of(before) == _identity_of(record) and before.error == record.error:
            return set()
        return {dependencies.domain(record.metadata.name)}

    def remove_domain(self, name: str) -> set[Dependency]:
        """Forgets a StorageDomain; its dependency if it was known."""
        return {dependencies.domain(name)} if self._domains.pop(name, None) is not None else set()

    def set_liveness(self, liveness: Liveness) -> set[Dependency]:
        """Say which nodes' agents are alive; return the dependencies of all that came or went with one."""
        before, self._liveness = self._liveness, liveness
        changed = (before.live ^ liveness.live) | (before.unjudged ^ liveness.unjudged)
        touched = {dependencies.node(node) for node in changed}
        for node in changed:
            if (host := self._hosts.get(node)) is not None:
                for machine in host.status.virtual_machines:
                    touched |= {dependencies.machine_name(machine.name), dependencies.machine_uuid(machine.uuid)}
                touched |= {dependencies.domain(report.name) for report in host.status.storage_domains}
        return touched

    def is_live(self, node: str) -> bool:
        """Whether the node's agent renews its Lease."""
        return node in self._liveness.live

    def is_unjudged(self, node: str) -> bool:
        """Whether it is too early to tell if the node's agent is alive."""
        return node in self._liveness.unjudged

    def is_away(self, node: str) -> bool:
        """Whether the node's agent is known not to be alive."""
        return not self.is_live(node) and not self.is_unjudged(node)

    def count_away(self) -> int:
        """Return how many nodes have agents that are known not to be alive."""
        return sum(self.is_away(node) for node in list(self._hosts))

    def complaint(self, node: str) -> str:
        """Return why the node's agent does not know its VMs at the moment, say as libvirtd does not answer; or nothing.

        What the node reports is then what was known before.
        """
        return _complaint(self._hosts.get(node))

    def machines_named(self, name: str) -> list[LocatedMachine]:
        """The VMs of that name, by node."""
        return _by_node(self._machines_by_name.get(name, {}))

    def machines_with_uuid(self, uuid: str) -> list[LocatedMachine]:
        """The VM of that uuid, on every node that defines it."""
        return _by_node(self._machines_by_uuid.get(uuid.lower(), {}))

    def located_on(self, node: str, spec: DiskMigrationSpec) -> LocatedMachine | None:
        """The VM that a spec means on the node that it was handed to."""
        wanted = spec.virtual_machine
        index = self._machines_by_uuid if wanted.uuid else self._machines_by_name
        machine = index.get((wanted.uuid or "").lower() or wanted.name or "", {}).get(node)
        return LocatedMachine(node, machine) if machine is not None else None

    def domain(self, name: str) -> DomainRecord | None:
        """The StorageDomain of that name."""
        return self._domains.get(name)

    def domain_names(self) -> list[str]:
        """Every StorageDomain's name."""
        return list(self._domains)

    def metadata(self) -> list[ObjectMeta]:
        """Return the metadata of all that is kept."""
        hosts = [one.metadata for one in self._hosts.values()]
        return [*hosts, *(one.metadata for one in self._domains.values())]

    def host_metadata(self, node: str) -> ObjectMeta | None:
        """The metadata of a node's LibvirtHost."""
        host = self._hosts.get(node)
        return host.metadata if host is not None else None

    def host_names(self) -> list[str]:
        """Every node that has a LibvirtHost."""
        return list(self._hosts)

    def report(self, node: str, domain_name: str) -> NodeStorageDomain | None:
        """What the node's agent says of a storage domain; None if it says nothing."""
        return self._reports.get(domain_name, {}).get(node)

    def reports(self, domain_name: str) -> dict[str, NodeStorageDomain]:
        """What the agents say of a storage domain, by node, but for those that are known to be away."""
        nodes = self._liveness.live | self._liveness.unjudged
        return {node: report for node, report in self._reports.get(domain_name, {}).items() if node in nodes}

    def unlocked_sharers(self, group_uuid: str) -> list[str]:
        """The nodes that have a volume group without a lock manager between them; none where that is one node only.

        A node whose agent is away counts: it may come back any moment, with what it knew of the group.
        """
        sights = self._groups.get(group_uuid, {})
        nodes = sorted({node for node, _ in sights})
        return nodes if len(nodes) > 1 and not all(group.is_locked for group in sights.values()) else []

    def _replace_machines(self, node: str, before: LibvirtHost | None, after: LibvirtHost | None) -> set[Dependency]:
        old = {machine.uuid: machine for machine in before.status.virtual_machines} if before is not None else {}
        new = {machine.uuid: machine for machine in after.status.virtual_machines} if after is not None else {}
        touched: set[Dependency] = set()
        # Everything old goes first: a name may have passed from one uuid to another.
        for uuid, machine in old.items():
            if uuid not in new:
                _drop(self._machines_by_uuid, uuid.lower(), node)
            if uuid not in new or new[uuid].name != machine.name:
                _drop(self._machines_by_name, machine.name, node)
                touched |= {dependencies.machine_name(machine.name), dependencies.machine_uuid(uuid)}
        for uuid, machine in new.items():
            self._machines_by_name[machine.name][node] = machine
            self._machines_by_uuid[uuid.lower()][node] = machine
            known = old.get(uuid)
            if known is None or _shape(known) != _shape(machine):
                touched |= {dependencies.machine_name(machine.name), dependencies.machine_uuid(uuid)}
        return touched

    def _replace_reports(self, node: str, before: LibvirtHost | None, after: LibvirtHost | None) -> set[Dependency]:
        old = {report.name: report for report in before.status.storage_domains} if before is not None else {}
        new = {report.name: report for report in after.status.storage_domains} if after is not None else {}
        touched: set[Dependency] = set()
        for name in old.keys() - new.keys():
            _drop(self._reports, name, node)
            touched |= {dependencies.domain(name)} | self._replace_group((node, name), old[name].volume_group, None)
        for name, report in new.items():
            known = old.get(name)
            self._reports[name][node] = report
            if known is None or (known.ready, known.reason) != (report.ready, report.reason):
                touched.add(dependencies.domain(name))
            known_group = known.volume_group if known is not None else None
            touched |= self._replace_group((node, name), known_group, report.volume_group)
            if known is None or known.available_bytes != report.available_bytes:
                touched.add(dependencies.space(name, node))
        return touched

    def _replace_group(self, sight: _Sight, before: VolumeGroup | None, after: VolumeGroup | None) -> set[Dependency]:
        """The dependencies of every domain on a group that is seen in another way now."""
        if before == after:
            return set()
        touched: set[Dependency] = set()
        if before is not None:
            touched |= {dependencies.domain(domain) for _, domain in self._groups[before.uuid]}
            _drop(self._groups, before.uuid, sight)
        if after is not None:
            self._groups[after.uuid][sight] = after
            touched |= {dependencies.domain(domain) for _, domain in self._groups[after.uuid]}
        return touched


def _by_node(machines: dict[str, VirtualMachine]) -> list[LocatedMachine]:
    return [LocatedMachine(node, machine) for node, machine in sorted(machines.items())]


def _drop(index: defaultdict[str, dict[_K, _T]], name: str, key: _K) -> None:
    if name in index:
        index[name].pop(key, None)
        if not index[name]:
            del index[name]


def _complaint(host: LibvirtHost | None) -> str:
    ready = conditions.find(host.status.conditions, "Ready") if host is not None else None
    if ready is None or ready.status is not ConditionStatus.FALSE:
        return ""
    return ready.message or ready.reason


def _identity_of(record: DomainRecord) -> tuple[object, ...]:
    spec = record.domain.spec if record.domain is not None else None
    return record.metadata.uid, record.metadata.generation, spec


def _shape(machine: VirtualMachine) -> tuple[object, ...]:
    """What placement judges a VM by; its disks' bytes change all the time."""
    return (machine.name, machine.state, _shapes(machine.disks))


def _shapes(disks: Iterable[Disk]) -> tuple[object, ...]:
    return tuple((disk.target, disk.storage_domain_name, disk.type) for disk in disks)
