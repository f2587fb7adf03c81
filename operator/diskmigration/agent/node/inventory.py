"""Make the Hypervisor object's status from the node's snapshot and the storage domains."""

from collections.abc import Callable
from pathlib import Path

from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.node.snapshot import NodeSnapshot, VmSnapshot
from diskmigration.agent.references.usage import Usage
from diskmigration.agent.storage import openers
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.api.errors import MigrationError
from diskmigration.api.hypervisor import Disk, HypervisorStatus, NodeStorageDomain, OrphanedVolume, VirtualMachine

_TYPES = {"file": "File", "block": "Block", "network": "Network", "nvme": "Nvme", "volume": "Volume"}


def inventory(
    node: NodeSnapshot,
    domains: StorageDomains,
    *,
    agent_version: str,
    orphans_of: Callable[[str], tuple[OrphanedVolume, ...]],
    usage: Usage,
) -> HypervisorStatus:
    """Return the Hypervisor's status without conditions; it shows only storage domains that the node serves.

    `orphans_of` has the orphaned volumes of a storage domain by its name.
    """
    machines = tuple(_machine(vm, domains) for vm in node.vms)
    return HypervisorStatus(
        libvirt_version=node.libvirt_version,
        qemu_version=node.qemu_version,
        agent_version=agent_version,
        virtual_machine_count=len(machines),
        storage_domains=tuple(
            _storage_domain(known, orphans_of(known.name), usage.of(known.name)) for known in domains.all()
        ),
        virtual_machines=tuple(sorted(machines, key=lambda machine: machine.uuid)),
        unseen_volumes=usage.unseen,
    )


def _storage_domain(
    known: OpenDomain, orphans: tuple[OrphanedVolume, ...], used: tuple[str, ...] | None
) -> NodeStorageDomain:
    try:
        # Without it no disk of a VM that is off can be moved, and nothing be removed.
        openers.require_sight()
        known.driver.check()
        space = known.driver.space()
        group = known.driver.volume_group()
    except MigrationError as error:
        return NodeStorageDomain(
            name=known.name, ready=False, reason=error.message, orphaned_volumes=orphans, used_volumes=used
        )
    return NodeStorageDomain(
        name=known.name,
        ready=True,
        capacity_bytes=space.capacity_bytes,
        available_bytes=space.available_bytes,
        volume_group=group,
        orphaned_volumes=orphans,
        used_volumes=used,
    )


def _machine(vm: VmSnapshot, domains: StorageDomains) -> VirtualMachine:
    disks = vm.description.disks if vm.description is not None else ()
    return VirtualMachine(
        name=vm.name,
        uuid=vm.uuid,
        state=vm.state,
        not_answering_since=vm.silent_since,
        disks=tuple(_disk(disk, vm.statistics, domains) for disk in disks),
    )


def _disk(disk: DomainDisk, statistics: DomainStatistics | None, domains: StorageDomains) -> Disk:
    """Sizes are those of the active layer; what is allocated is that of the whole chain. One not known is absent."""
    active = disk.active
    kind = _kind(disk)
    try:
        located = domains.locate(Path(active.path)) if active is not None and active.path else None
    except MigrationError:
        located = None
    if active is None or located is None:
        return Disk(target=disk.target, type=kind, format=active.format if active is not None else "")
    domain, volume = located
    layer = statistics.layer(active.path, disk.target) if statistics is not None else None
    try:
        size: int | None = domain.driver.size_bytes(volume)
        allocated: int | None = sum(_allocated(layer.path, domains) for layer in disk.chain)
    except MigrationError:
        size = allocated = None
    return Disk(
        target=disk.target,
        storage_domain=domain.name,
        volume=volume,
        type=kind,
        format=active.format,
        capacity_bytes=layer.capacity_bytes if layer is not None else None,
        size_bytes=size,
        allocated_bytes=allocated,
    )


def _kind(disk: DomainDisk) -> str:
    """What its source is; of what is no disk, a CD-ROM drive say, what it is, as nothing else matters of it."""
    if disk.device != "disk":
        return disk.device.capitalize()
    return _TYPES.get(disk.type, disk.type.capitalize())


def _allocated(path: str, domains: StorageDomains) -> int:
    located = domains.locate(Path(path))
    return located[0].driver.allocated_bytes(located[1]) if located is not None else 0
