"""Which node runs a migration, or why none can. Pure: everything it judges by is handed to it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diskmigration.api.disk_migration import DiskMigrationSpec, Provisioning, Side, VolumeFormat
from diskmigration.api.errors import Reason
from diskmigration.api.libvirt_host import Disk, VirtualMachine
from diskmigration.api.quantity import human_readable
from diskmigration.api.storage_domain import StorageDomain, StorageType
from diskmigration.api.vm_owner import Right, right_of
from diskmigration.controller import dependencies
from diskmigration.controller.cluster_inventory import ClusterInventory, LocatedMachine
from diskmigration.controller.dependencies import Dependency
from diskmigration.controller.machine_search import belongs_to_nobody, find_machine
from diskmigration.controller.placement_outcome import NotPlaceableError, Outcome, Placement, Refusal

_MOVABLE_TYPES = frozenset({"File", "Block"})


@dataclass(frozen=True)
class Surroundings:
    """Besides the inventory, what placement judges by.

    `blocked_by` names another migration that has the disk of these keys, or is None.
    `reserved_bytes` is what other migrations have yet to write to a domain on a node.
    """

    inventory: ClusterInventory
    system_namespace: str
    blocked_by: Callable[[tuple[str, ...]], str | None]
    reserved_bytes: Callable[[str, str], int]


@dataclass
class _Trail:
    """What the checks have come by so far: the dependencies that they judged by, and the disk."""

    depends_on: set[Dependency]
    disk_keys: tuple[str, ...] = ()


def place(namespace: str, spec: DiskMigrationSpec, around: Surroundings) -> Outcome:
    """Find the VM's node and disk, and judge both storage domains.

    The outcome's dependencies are those whose change may lead to another outcome. No refusal is permanent: all
    rest on what nodes and administrators say at the moment.
    """
    trail = _Trail({dependencies.domain(spec.destination.storage_domain_name)})
    try:
        return _place(namespace, spec, around, trail)
    except NotPlaceableError as refused:
        return Refusal(
            refused.reason,
            refused.message,
            disk_keys=trail.disk_keys,
            sides=refused.sides,
            is_provisional=refused.is_provisional,
            depends_on=frozenset(trail.depends_on),
        )


def disk_keys(located: LocatedMachine, target: str) -> tuple[str, ...]:
    """The names of a disk by which two migrations meet; the second outlives a uuid that nobody reports any more."""
    return (f"{located.machine.uuid.lower()}/{target}", f"{located.node}/{located.machine.name}/{target}")


def find_disk(machine: VirtualMachine, target: str) -> Disk | None:
    """The VM's disk with that target device, or None."""
    return next((disk for disk in machine.disks if disk.target == target), None)


def needed_bytes(spec: DiskMigrationSpec, disk: Disk, destination: StorageType) -> int:
    """What the destination must have free: what the guest has written, or the whole disk where it is pre-allocated.

    A size that is not known counts as nothing: the node's agent measures before it begins.
    """
    if _takes_whole_disk(spec, destination):
        return max(disk.capacity_bytes or 0, disk.allocated_bytes or 0)
    return disk.allocated_bytes or 0


def _takes_whole_disk(spec: DiskMigrationSpec, destination: StorageType) -> bool:
    is_raw_on_block = spec.destination.format is VolumeFormat.RAW and destination is StorageType.BLOCK
    return spec.destination.provisioning is Provisioning.THICK or is_raw_on_block


def _may_hold_less(disk: Disk, source: StorageDomain) -> bool:
    """Whether its allocation says nothing of its data: a raw file without holes may have been allocated ahead.

    Its node's agent measures it.
    """
    is_raw_file = disk.format == VolumeFormat.RAW and source.spec.type is StorageType.FILE
    return is_raw_file and (disk.allocated_bytes or 0) >= (disk.size_bytes or 0)


def _place(namespace: str, spec: DiskMigrationSpec, around: Surroundings, trail: _Trail) -> Placement:
    destination = _usable_domain(spec.destination.storage_domain_name, "destination", namespace, around)
    right_to = partial(_right_to, namespace=namespace, around=around, watched=trail.depends_on)
    located = find_machine(spec, around.inventory, trail.depends_on, namespace=namespace, right_to=right_to)
    disk = _movable_disk(spec, located)
    keys = trail.disk_keys = disk_keys(located, spec.disk)
    trail.depends_on |= {dependencies.disk(key) for key in keys}
    if not disk.storage_domain_name:
        raise NotPlaceableError(
            Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
            f"Disk {spec.disk} of VM {spec.virtual_machine} on node {located.node} lies in no StorageDomain. "
            "Ask an administrator for a StorageDomain that holds its volume.",
        )
    trail.depends_on.add(dependencies.domain(disk.storage_domain_name))
    source = _usable_domain(disk.storage_domain_name, "source", namespace, around)
    _check_owner(located.machine, namespace, (source, destination), around)
    source_side = Side(storage_domain_name=source.metadata.name, type=source.spec.type)
    destination_side = Side(storage_domain_name=destination.metadata.name, type=destination.spec.type)
    if (holder := around.blocked_by(keys)) is not None:
        raise NotPlaceableError(
            Reason.DISK_BUSY,
            f"{_called(holder, namespace, around)} already moves disk {spec.disk} of VM {spec.virtual_machine}. "
            "Wait until it has ended, or cancel it.",
            sides=(source_side, destination_side),
        )
    expected = spec.source.storage_domain_name if spec.source is not None else source.metadata.name
    if source.metadata.name != expected or source.metadata.name == destination.metadata.name:
        return Placement(
            located.node,
            keys,
            source_side,
            destination_side,
            0,
            moves_nothing=True,
            depends_on=frozenset(trail.depends_on),
        )
    for side in (source, destination):
        _check_ready(side, located.node, around.inventory)
    needed = needed_bytes(spec, disk, destination.spec.type)
    may_fit = not _takes_whole_disk(spec, destination.spec.type) and _may_hold_less(disk, source)
    # Once it is placed, the space is judged again when its turn has come, and not at each change of a byte count.
    judged_once = frozenset(trail.depends_on)
    trail.depends_on.add(dependencies.space(destination.metadata.name, located.node))
    _check_space(destination, located.node, 0 if may_fit else needed, around)
    return Placement(located.node, keys, source_side, destination_side, needed, depends_on=judged_once)


def _usable_domain(name: str, role: str, namespace: str, around: Surroundings) -> StorageDomain:
    record = around.inventory.domain(name)
    if record is None:
        raise NotPlaceableError(
            Reason.STORAGE_DOMAIN_NOT_FOUND,
            f"There is no StorageDomain {name} (the {role}). See `kubectl get storagedomains` for those that exist.",
        )
    if record.domain is None:
        raise NotPlaceableError(
            Reason.STORAGE_DOMAIN_NOT_READY,
            f"The spec of StorageDomain {name} (the {role}) cannot be read: {record.error}. "
            "Ask an administrator to correct it.",
        )
    if not record.domain.allows(namespace, system_namespace=around.system_namespace):
        raise NotPlaceableError(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"StorageDomain {name} (the {role}) does not allow namespace {namespace}. "
            "Ask an administrator to add it to spec.allowedNamespaces.",
        )
    return record.domain


def _right_to(machine: VirtualMachine, namespace: str, around: Surroundings, watched: set[Dependency]) -> Right:
    """Return what the namespace may do at most with some disk of a VM."""
    domains = {disk.storage_domain_name for disk in machine.disks if disk.storage_domain_name}
    watched |= {dependencies.domain(name) for name in domains}
    records = map(around.inventory.domain, domains)
    known = [record.domain for record in records if record is not None and record.domain is not None]
    owner = machine.owner_namespace or ""
    rights = {
        right_of(namespace, owner=owner, sides=sides, system_namespace=around.system_namespace)
        for sides in ((), *((each,) for each in known))
    }
    return next(right for right in Right if right in rights)


def _check_owner(
    machine: VirtualMachine, namespace: str, sides: tuple[StorageDomain, ...], around: Surroundings
) -> None:
    owner = machine.owner_namespace or ""
    if right_of(namespace, owner=owner, sides=sides, system_namespace=around.system_namespace) is not Right.MOVE:
        raise NotPlaceableError(Reason.NAMESPACE_NOT_ALLOWED, belongs_to_nobody(machine.name, namespace))


def _called(holder: str, namespace: str, around: Surroundings) -> str:
    """Return how another migration is called to somebody who may know of those of his own namespace alone."""
    may_know = namespace in (holder.partition("/")[0], around.system_namespace)
    return f"DiskMigration {holder}" if may_know else "A DiskMigration of another namespace"


def _movable_disk(spec: DiskMigrationSpec, located: LocatedMachine) -> Disk:
    disk = find_disk(located.machine, spec.disk)
    if disk is None:
        targets = ", ".join(disk.target for disk in located.machine.disks) or "none"
        raise NotPlaceableError(
            Reason.DISK_NOT_FOUND,
            f"VM {spec.virtual_machine} on node {located.node} has no disk {spec.disk}; its disks: {targets}.",
        )
    if disk.type not in _MOVABLE_TYPES:
        raise NotPlaceableError(
            Reason.DISK_NOT_SUPPORTED,
            f"Disk {spec.disk} of VM {spec.virtual_machine} is of type {disk.type}. "
            "Only disks on files and block devices can be moved.",
        )
    return disk


def _check_ready(domain: StorageDomain, node: str, inventory: ClusterInventory) -> None:
    name = domain.metadata.name
    report = inventory.report(node, name)
    if report is None:
        raise NotPlaceableError(
            Reason.STORAGE_DOMAIN_NOT_READY,
            f"StorageDomain {name} is not known on node {node}, where the VM is. "
            "Check its spec.nodeSelector against the node's labels.",
        )
    if not report.ready:
        raise NotPlaceableError(
            Reason.STORAGE_DOMAIN_NOT_READY,
            f"StorageDomain {name} is not ready on node {node}: {report.reason or 'no reason given'}. "
            "Mend it on the node, or choose another one.",
        )
    if report.volume_group is not None and (sharers := inventory.unlocked_sharers(report.volume_group.uuid)):
        raise NotPlaceableError(
            Reason.SHARED_VOLUME_GROUP_UNLOCKED,
            f"The volume group of StorageDomain {name} (uuid {report.volume_group.uuid}) is seen by the nodes "
            f"{', '.join(sharers)} with no lock manager, so that they could destroy its metadata. Share it under "
            "lvmlockd (`vgchange --lock-type sanlock`), or connect its devices to one node only.",
        )


def _check_space(destination: StorageDomain, node: str, needed: int, around: Surroundings) -> None:
    name = destination.metadata.name
    report = around.inventory.report(node, name)
    available = (report.available_bytes or 0) if report is not None else 0
    floor = destination.spec.available_floor
    kept = floor.of((report.capacity_bytes or 0) if report is not None else 0)
    reserved = around.reserved_bytes(name, node)
    if needed > available - reserved - kept:
        floor_part = f" and {human_readable(kept)} have to stay free (spec.minAvailable: {floor})" if kept else ""
        raise NotPlaceableError(
            Reason.DESTINATION_FULL,
            f"StorageDomain {name} on node {node} has {human_readable(available)} free, of which other migrations need "
            f"{human_readable(reserved)}{floor_part}; this disk needs {human_readable(needed)}. "
            "Free or add space, or choose another StorageDomain.",
        )
