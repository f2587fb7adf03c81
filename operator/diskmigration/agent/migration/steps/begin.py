"""Begin: check everything that can be checked before anything is touched, then write the journal."""

import shlex
from pathlib import Path

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.hypervisor.statistics import of_domain
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import shut_off_disk
from diskmigration.agent.migration.attempt import Node
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.shut_off_disk import MeasuredDisk
from diskmigration.agent.storage import image_locks, qcow2_header, qemu_img, volume_names
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import StorageDriver
from diskmigration.agent.storage.volume_names import volume_name
from diskmigration.api.disk_migration import BackingChain, DiskMigration, Provisioning, Strategy, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.names import SYSTEM_NAMESPACE
from diskmigration.api.quantity import human_readable
from diskmigration.api.storage_domain import StorageType

_FIRST_PRINTABLE = 0x20
_UNDECODED = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""What Python makes of bytes in a file's name that are no UTF-8."""
_LIBVIRT_TYPES = {"file": StorageType.FILE, "block": StorageType.BLOCK}


def begin(node: Node, domain: Domain, migration: DiskMigration, *, attempt: int) -> Journal | None:
    """The journal of a migration that may start, written to the VM; None when the disk is at its destination already.

    Raises:
        MigrationError: it is refused, with the reason; nothing was touched.
    """
    is_running = domain.is_active()
    free = _free_disk(domain, migration)
    found = _disk_in_use(domain, free) if is_running else _unused_disk(node, domain, free)
    source = _source_domain(node, found.disk)
    destination = node.domains.get(migration.spec.destination.storage_domain)
    if source.name == destination.name:
        return None
    for side in (source, destination):
        if not side.domain.allows(migration.metadata.namespace, system_namespace=SYSTEM_NAMESPACE):
            raise MigrationError(
                Reason.NAMESPACE_NOT_ALLOWED,
                f"The storage domain {side.name} does not allow migrations of namespace "
                f"{migration.metadata.namespace}. Ask its administrator to add it to spec.allowedNamespaces.",
            )
        side.driver.check()
    journal = _plan(found, migration, source, destination, attempt=attempt, may_take_snapshot=is_running)
    for volume in journal.may_change:
        source.driver.require_ours(volume.name)
    _require_plain_headers(journal)
    _require_room(journal, source.driver, destination.driver)
    journals.write(domain, journal)
    return journal


def _free_disk(domain: Domain, migration: DiskMigration) -> DomainDisk:
    """The disk, if nobody works on it."""
    target = migration.spec.disk
    description = domain.describe()
    disk = description.disk(target)
    if disk is None:
        known = ", ".join(found.target for found in description.disks) or "none"
        raise MigrationError(
            Reason.DISK_NOT_FOUND, f"The VM {description.name} has no disk {target!r}. Its disks: {known}."
        )
    other = journals.read(domain, target)
    # One that has ended has nothing left to do: its agent is about to erase it, or was ended before it could.
    if other is not None and other.outcome is None:
        raise MigrationError(
            Reason.DISK_BUSY,
            f"The disk {target} carries the journal of the DiskMigration {other.migration.key}. Wait for that one to "
            "end. If there is none of that name any more, nothing works on it: see what it made with "
            f"`virsh metadata {_for_shell(description)} {journals.uri(target)}`, put the VM's chain in order, and "
            "remove the journal with the same command and --remove --live --config.",
        )
    job = block_jobs.current(domain, disk) if domain.is_active() else None
    if job is not None or disk.mirror is not None:
        kind = job.kind if job is not None else "mirror"
        raise MigrationError(
            Reason.DISK_BUSY,
            f"The disk {target} is under a block job already ({kind}). Wait for it, or end it with "
            f"`virsh blockjob {_for_shell(description)} {target} --abort`.",
        )
    if domain.has_checkpoints():
        raise MigrationError(
            Reason.DISK_BUSY,
            f"The VM {description.name} has checkpoints of a backup, which a moved disk would lose. Delete them first "
            f"(`virsh checkpoint-list {_for_shell(description)}`), then back up anew after the move.",
        )
    return disk


def _disk_in_use(domain: Domain, disk: DomainDisk) -> MeasuredDisk:
    """The disk of a running VM, as libvirt knows it."""
    _require_supported(disk)
    return MeasuredDisk(disk, _capacities(domain, disk))


def _unused_disk(node: Node, domain: Domain, disk: DomainDisk) -> MeasuredDisk:
    """The disk of a VM that is shut off, with its whole chain, if nobody can write to it unseen."""
    if domain.has_saved_state():
        raise MigrationError(
            Reason.DISK_BUSY,
            f"The VM {domain.uuid} is shut off with its memory saved, and what was saved names its disks. Start the "
            f"VM, or drop what was saved with `virsh managedsave-remove {domain.uuid}`.",
        )
    if (obstacle := _obstacle_of_disk(disk)) is not None:
        raise _unsupported(disk, obstacle)
    found = shut_off_disk.read(disk, node.domains)
    _require_supported(found.disk)
    with image_locks.writers_kept_out(Path(found.disk.chain[0].path)):
        return found


def _for_shell(description: DomainDescription) -> str:
    """What a user can paste: a VM may have been given a name that a shell, or virsh, takes for something else."""
    name = description.name
    return description.uuid if name.startswith("-") else shlex.quote(name)


def _require_supported(disk: DomainDisk) -> None:
    obstacle = _obstacle_of_disk(disk) or next(filter(None, map(_obstacle_of_layer, disk.chain)), None)
    if obstacle is None and not disk.chain_is_known:
        obstacle = "libvirt does not know its whole backing chain"
    if obstacle is not None:
        raise _unsupported(disk, obstacle)


def _unsupported(disk: DomainDisk, obstacle: str) -> MigrationError:
    return MigrationError(Reason.DISK_NOT_SUPPORTED, f"The disk {disk.target} cannot be moved: {obstacle}.")


def _obstacle_of_disk(disk: DomainDisk) -> str | None:
    obstacles = {
        f"it is a {disk.device}, not a disk": disk.device != "disk",
        f"its source is of type {disk.type}; only file and block can be moved": disk.type not in _LIBVIRT_TYPES,
        "it is read-only": disk.readonly,
        "it is shareable, and another VM may write to it": disk.shareable,
        "it is transient": disk.transient,
    }
    return next((obstacle for obstacle, applies in obstacles.items() if applies), None)


def _obstacle_of_layer(layer: Layer) -> str | None:
    if layer.type not in _LIBVIRT_TYPES:
        return f"the volume {layer.path} of its chain is of type {layer.type}"
    if layer.format not in list(VolumeFormat):
        return f"the volume {layer.path} has format {layer.format or 'unknown'}; only qcow2 and raw can be moved"
    if layer.has_special_access:
        return f"the volume {layer.path} is encrypted, a slice, or has its data in another file"
    if any(ord(character) < _FIRST_PRINTABLE for character in layer.path):
        return f"the name of the volume {layer.path!r} has a control character, which libvirt does not keep"
    return None


def _require_plain_headers(journal: Journal) -> None:
    """What libvirt does not tell, or not as it is, of what a volume's own header names.

    Raises:
        MigrationError: DiskNotSupported, StorageFailed.
    """
    for volume in journal.source:
        if volume.format is not VolumeFormat.QCOW2:
            continue
        header = qcow2_header.read(Path(volume.path))
        if header.has_data_file:
            obstacle = f"the volume {volume.path} has its data in another file"
        elif any(ord(character) < _FIRST_PRINTABLE or character in _UNDECODED for character in header.backing_name):
            obstacle = f"libvirt does not keep the name of the volume below {volume.path}, {header.backing_name!r}"
        else:
            continue
        raise MigrationError(Reason.DISK_NOT_SUPPORTED, f"The disk cannot be moved: {obstacle}.")


def _source_domain(node: Node, disk: DomainDisk) -> OpenDomain:
    """The one storage domain in which the whole chain lies."""
    found: dict[str, OpenDomain] = {}
    for layer in disk.chain:
        located = node.domains.locate(Path(layer.path))
        if located is None:
            raise MigrationError(
                Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
                f"The volume {layer.path} of disk {disk.target} lies in no StorageDomain of this node. "
                "Create one for the place where it lies.",
            )
        domain = located[0]
        if domain.domain.spec.type is not _LIBVIRT_TYPES[layer.type]:
            raise MigrationError(
                Reason.DISK_NOT_SUPPORTED,
                f"The VM uses the volume {layer.path} as {layer.type}, but the storage domain {domain.name} is of type "
                f"{domain.domain.spec.type}. Correct the VM's definition.",
            )
        found[domain.name] = domain
    if len(found) != 1:
        raise MigrationError(
            Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
            f"The chain of disk {disk.target} is spread over several storage domains: {', '.join(sorted(found))}. "
            "Only a chain within one can be moved.",
        )
    return found.popitem()[1]


def _plan(
    found: MeasuredDisk,
    migration: DiskMigration,
    source: OpenDomain,
    destination: OpenDomain,
    *,
    attempt: int,
    may_take_snapshot: bool,
) -> Journal:
    chain = tuple(
        JournalVolume(
            name=source.driver.volume_at(Path(layer.path)) or "",
            path=layer.path,
            format=VolumeFormat(layer.format),
            type=_LIBVIRT_TYPES[layer.type],
            capacity_bytes=capacity,
        )
        for layer, capacity in reversed(list(zip(found.disk.chain, found.capacities, strict=True)))
    )

    def made(side: OpenDomain, role: str, image_format: VolumeFormat, capacity: int) -> JournalVolume:
        name = volume_name(migration.metadata.uid, attempt, role, image_format)
        return JournalVolume(
            name=name,
            path=str(side.driver.path(name)),
            format=image_format,
            type=side.driver.type,
            capacity_bytes=capacity,
        )

    spec = migration.spec
    capacity = chain[-1].capacity_bytes
    copied = chain if spec.backing_chain is BackingChain.PRESERVE else chain[-1:]
    takes_snapshot = spec.strategy is Strategy.SNAPSHOT and may_take_snapshot
    return Journal(
        migration=DiskMigration(metadata=migration.metadata, spec=spec),
        attempt=attempt,
        source_domain=source.domain,
        destination_domain=destination.domain,
        source=chain,
        snapshot=made(source, volume_names.SNAPSHOT, VolumeFormat.QCOW2, capacity) if takes_snapshot else None,
        destination=tuple(
            made(destination, str(position), spec.destination.format, volume.capacity_bytes)
            for position, volume in enumerate(copied)
        ),
        overlay=made(destination, volume_names.OVERLAY, VolumeFormat.QCOW2, capacity) if takes_snapshot else None,
    )


def _capacities(domain: Domain, disk: DomainDisk) -> tuple[int, ...]:
    """The virtual size of each layer, active layer first, as QEMU has them open."""
    by_index = {layer.index: layer.capacity_bytes for layer in of_domain(domain).layers if layer.target == disk.target}
    found = tuple(by_index.get(layer.index if layer.index is not None else -1, 0) for layer in disk.chain)
    if not all(found):
        raise MigrationError(
            Reason.HYPERVISOR_UNAVAILABLE, f"libvirt does not tell the virtual size of each volume of {disk.target}."
        )
    return found


def _require_room(journal: Journal, source: StorageDriver, destination: StorageDriver) -> None:
    """Raises DestinationFull when what is there now does not fit; what the guest adds meanwhile is extended for."""
    spec = journal.migration.spec
    whole_size = journal.source[-1].capacity_bytes
    is_thick = spec.destination.provisioning is Provisioning.THICK
    if is_thick or (spec.destination.format is VolumeFormat.RAW and destination.type is StorageType.BLOCK):
        needed = whole_size
    else:
        needed = sum(source.allocated_bytes(volume.name) for volume in journal.source)
    available = destination.space().available_bytes
    if needed > available:
        raise MigrationError(
            Reason.DESTINATION_FULL,
            f"The disk {spec.disk} needs {human_readable(needed)}, but the storage domain {destination.name} has "
            f"{human_readable(available)} left. Free some room, or choose another destination.",
        )
    for volume in journal.destination:
        qemu_img.require_exact_size(volume.image, destination.rounded(whole_size), whole_size)
