"""Which running VMs have thin volumes in which storage domain, from what the nodes' agents report. In memory only."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.libvirt_host import Disk, VirtualMachine
from diskmigration.api.storage_domain import StorageDomainUse

_NAMED_MACHINES = 5


@dataclass(frozen=True, slots=True)
class _NodeUse:
    """How many thin volumes the VMs of one node have in a storage domain, and the first of the VMs by name."""

    count: int
    names: tuple[str, ...]


class ThinVolumes:
    """A node whose agent is away counts with what it reported last: its guests may run. Not thread-safe."""

    def __init__(self) -> None:
        """Nothing is in use."""
        self._by_domain: defaultdict[str, dict[str, _NodeUse]] = defaultdict(dict)

    def replace(self, node: str, machines: Iterable[VirtualMachine]) -> None:
        """Take in the VMs that a node has now; none forgets the node."""
        counts: Counter[str] = Counter()
        names: defaultdict[str, set[str]] = defaultdict(set)
        for machine in machines:
            if machine.state.has_process:
                for disk in filter(_is_thin, machine.disks):
                    counts[disk.storage_domain_name] += 1
                    names[disk.storage_domain_name].add(machine.name)
        for name in [name for name, nodes in self._by_domain.items() if node in nodes and name not in counts]:
            del self._by_domain[name][node]
            if not self._by_domain[name]:
                del self._by_domain[name]
        for name, count in counts.items():
            self._by_domain[name][node] = _NodeUse(count, tuple(sorted(names[name])[:_NAMED_MACHINES]))

    def use_of(self, domain: str) -> StorageDomainUse:
        """Return what a storage domain's status says of its thin volumes."""
        uses = self._by_domain.get(domain, {}).values()
        names = sorted({name for use in uses for name in use.names})
        return StorageDomainUse(
            thin_volumes=sum(use.count for use in uses), virtual_machines=tuple(names[:_NAMED_MACHINES])
        )


def _is_thin(disk: Disk) -> bool:
    """Whether the agent extends its volume as the guest writes."""
    return bool(disk.storage_domain_name) and disk.type == "Block" and disk.format == VolumeFormat.QCOW2
