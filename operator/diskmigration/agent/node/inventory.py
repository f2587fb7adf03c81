"""Make the LibvirtHost object's status from the node's snapshot and the storage domains."""

import os.path
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path

from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.node.vm_snapshot import NodeSnapshot, VmSnapshot
from diskmigration.agent.references.usage import Usage
from diskmigration.agent.storage import openers
from diskmigration.agent.storage.bounded_reads import NoAnswerError
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import Space
from diskmigration.agent.storage.locations import Located, Locations
from diskmigration.agent.storage.paths import exists
from diskmigration.agent.storage.repeated_reads import RepeatedReads
from diskmigration.api.errors import MigrationError
from diskmigration.api.libvirt_host import (
    Disk,
    LibvirtHostStatus,
    NodeStorageDomain,
    OrphanedVolume,
    VirtualMachine,
    VolumeGroup,
)
from diskmigration.api.model import rfc3339

_TYPES = {"file": "File", "block": "Block", "network": "Network", "nvme": "Nvme", "volume": "Volume"}

_ANSWER_SECONDS = 10.0
"""How long a storage is waited for once; until it has answered, it is not asked again. A slow one, as lvm2 is on a busy
storage, is shown as it was."""

_reads = RepeatedReads("inventory")


def inventory(
    node: NodeSnapshot,
    domains: StorageDomains,
    locations: Locations,
    *,
    agent_version: str,
    orphans_of: Callable[[str], tuple[OrphanedVolume, ...]],
    usage: Usage,
    before: LibvirtHostStatus,
    describe: Callable[[str], DomainDescription | None],
) -> LibvirtHostStatus:
    """Return the LibvirtHost's status without conditions; it shows only storage domains that the node serves.

    `orphans_of` has the orphaned volumes of a storage domain by its name. A storage that does not answer is waited for
    once, and its disks stay as they were `before`. `locations` knows those of the domains that this node serves.
    `describe` returns a VM's XML by its uuid, or None where it may have changed since it was read.
    """
    running = [vm for vm in node.vms if vm.statistics is not None]
    locations.keep_only({vm.uuid for vm in running})
    for vm in running:
        locations.keep_open(vm.uuid, _opened(vm))
    known = {machine.uuid: machine.disks for machine in before.virtual_machines}
    groups = _by_directories(node.vms)
    _reads.keep_only({*map(_key, domains.all()), *map(_key_of_disks, groups)})
    disks = _disks(groups, domains, locations, known, describe)
    machines = tuple(_machine(vm, disks[vm.uuid]) for vm in node.vms)
    return LibvirtHostStatus(
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
        space, group = _reads.read(_key(known), partial(_look_at, known), seconds=_ANSWER_SECONDS)
    except MigrationError as error:
        return NodeStorageDomain(
            name=known.name, ready=False, reason=error.message, orphaned_volumes=orphans, used_volumes=used
        )
    except NoAnswerError as error:
        reason = f"Its storage has not answered since {rfc3339(error.since)}. Check it and its mount or devices."
        return NodeStorageDomain(
            name=known.name, ready=False, reason=reason, orphaned_volumes=orphans, used_volumes=used
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


def _key(known: OpenDomain) -> Hashable:
    return "domain", known.name, known.domain.metadata.uid


def _look_at(known: OpenDomain) -> tuple[Space, VolumeGroup | None]:
    known.driver.check()
    return known.driver.space(), known.driver.volume_group()


_Groups = Mapping[tuple[str, ...], Sequence[VmSnapshot]]


def _by_directories(vms: Sequence[VmSnapshot]) -> _Groups:
    """Return the VMs by the directories in which their volumes lie."""
    groups: defaultdict[tuple[str, ...], list[VmSnapshot]] = defaultdict(list)
    for vm in vms:
        groups[_directories(vm)].append(vm)
    return groups


def _key_of_disks(directories: tuple[str, ...]) -> Hashable:
    return "disks", directories


def _disks(
    groups: _Groups,
    domains: StorageDomains,
    locations: Locations,
    before: Mapping[str, tuple[Disk, ...]],
    describe: Callable[[str], DomainDescription | None],
) -> Mapping[str, tuple[Disk, ...]]:
    """Return each VM's disks by its uuid. VMs whose volumes lie in the same directories are asked for together."""
    found: dict[str, tuple[Disk, ...]] = {}
    for directories, group in groups.items():
        look = partial(_disks_of, group, domains, locations, before, describe)
        try:
            disks = _reads.read(_key_of_disks(directories), look, seconds=_ANSWER_SECONDS)
        except NoAnswerError:
            disks = {}
        for vm in group:
            found[vm.uuid] = disks[vm.uuid] if vm.uuid in disks else _as_before(vm, before)
    return found


def _as_before(vm: VmSnapshot, before: Mapping[str, tuple[Disk, ...]]) -> tuple[Disk, ...]:
    return before.get(vm.uuid) or tuple(map(_unseen, vm.disks))


def _directories(vm: VmSnapshot) -> tuple[str, ...]:
    return tuple(sorted({os.path.dirname(layer.path) for disk in vm.disks for layer in disk.chain}))  # noqa: PTH120 - no path of another's is resolved, and Path would cost several times as much


def _disks_of(
    vms: Sequence[VmSnapshot],
    domains: StorageDomains,
    locations: Locations,
    before: Mapping[str, tuple[Disk, ...]],
    describe: Callable[[str], DomainDescription | None],
) -> dict[str, tuple[Disk, ...]]:
    found = {}
    for vm in vms:
        disks = tuple(_disk(disk, vm, _locator(vm, domains, locations)) for disk in vm.disks)
        lost = {disk.target for disk, shown in zip(vm.disks, disks, strict=True) if _is_nowhere(disk, shown)}
        # A migration that has ended removes volumes, a moment before the VM is read again. To say that the disk lies in
        # no storage domain would have its next migration refused.
        if lost and describe(vm.uuid) is not vm.description:
            known = {disk.target: disk for disk in before.get(vm.uuid, ())}
            disks = tuple(known.get(disk.target, disk) if disk.target in lost else disk for disk in disks)
        found[vm.uuid] = disks
    return found


def _is_nowhere(disk: DomainDisk, shown: Disk) -> bool:
    return disk.active is not None and not shown.storage_domain_name and not exists(Path(disk.active.path))


def _opened(vm: VmSnapshot) -> set[tuple[int, str]]:
    return {(layer.index, layer.path) for disk in vm.disks for layer in disk.chain if layer.index is not None}


def _locator(vm: VmSnapshot, domains: StorageDomains, locations: Locations) -> Callable[[Layer], Located | None]:
    run = vm.statistics.run if vm.statistics is not None else None

    def locate(layer: Layer) -> Located | None:
        if run is None or layer.index is None:
            return domains.locate(Path(layer.path))
        return locations.of_run(vm.uuid, run)(layer.index, layer.path)

    return locate


def _unseen(disk: DomainDisk) -> Disk:
    """Return what is known of a disk without its storage."""
    return Disk(target=disk.target, type=_kind(disk), format=disk.active.format if disk.active is not None else "")


def _machine(vm: VmSnapshot, disks: tuple[Disk, ...]) -> VirtualMachine:
    return VirtualMachine(
        name=vm.name,
        uuid=vm.uuid,
        state=vm.state,
        owner_namespace=(vm.description.owner or None) if vm.description is not None else None,
        not_answering_since=vm.silent_since,
        disks=disks,
    )


def _disk(disk: DomainDisk, vm: VmSnapshot, locate: Callable[[Layer], Located | None]) -> Disk:
    """Sizes are those of the active layer; what is allocated is that of the whole chain. One not known is absent."""
    active = disk.active
    kind = _kind(disk)
    try:
        located = locate(active) if active is not None and active.path else None
    except MigrationError:
        located = None
    if active is None or located is None:
        return _unseen(disk)
    domain, volume = located
    layer = vm.statistics.layer(active.path, disk.target) if vm.statistics is not None else None
    size = layer.physical_bytes if layer is not None else None
    try:
        # libvirt's poll has it of a VM that runs. To ask the storage of 100 VMs takes much of a processor.
        size = domain.driver.size_bytes(volume) if size is None else size
        allocated: int | None = sum(_allocated(locate(layer)) for layer in disk.chain)
    except MigrationError:
        size = allocated = None
    return Disk(
        target=disk.target,
        storage_domain_name=domain.name,
        volume=volume,
        type=kind,
        format=active.format,
        capacity_bytes=layer.capacity_bytes if layer is not None else None,
        size_bytes=size,
        allocated_bytes=allocated,
    )


def _kind(disk: DomainDisk) -> str:
    """Return the type of its source, or what device it is where that is no disk, as a CD-ROM drive."""
    if disk.device != "disk":
        return disk.device.capitalize()
    return _TYPES.get(disk.type, disk.type.capitalize())


def _allocated(located: Located | None) -> int:
    return located[0].driver.allocated_bytes(located[1]) if located is not None else 0
