"""The node's VMs as they were last read. Immutable."""

from dataclasses import dataclass
from datetime import datetime

from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.api.libvirt_host import VirtualMachineState


@dataclass(frozen=True)
class VmSnapshot:
    """One VM as libvirt described it last. None is what libvirt has not said.

    `description` is the live XML, or the persistent one of a VM that is off. `statistics` are of the last poll, and
    None for a VM that did not run then. `silent_since` is when libvirt, or the VM's QEMU, was first asked something
    that it has not answered since.
    """

    uuid: str
    name: str
    state: VirtualMachineState
    description: DomainDescription | None
    statistics: DomainStatistics | None
    silent_since: datetime | None = None

    @property
    def disks(self) -> tuple[DomainDisk, ...]:
        """Its disks, as far as they are known."""
        return self.description.disks if self.description is not None else ()


@dataclass(frozen=True)
class NodeSnapshot:
    """Every VM of the node, and the versions of libvirt and QEMU."""

    libvirt_version: str
    qemu_version: str
    vms: tuple[VmSnapshot, ...]
