"""Begin: read what can be checked before anything is touched, have it judged, then write the journal."""

from pathlib import Path

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.hypervisor.statistics import of_domain
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import shut_off_disk
from diskmigration.agent.migration.attempt import Node
from diskmigration.agent.migration.checks.disk import STORAGE_TYPES, require_movable_chain, require_movable_disk
from diskmigration.agent.migration.checks.headers import require_movable_headers
from diskmigration.agent.migration.checks.occupation import (
    require_no_block_job,
    require_no_checkpoints,
    require_no_journal,
    require_no_saved_state,
)
from diskmigration.agent.migration.checks.placement import require_allowed, source_domain
from diskmigration.agent.migration.checks.room import require_room
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.shut_off_disk import MeasuredDisk
from diskmigration.agent.migration.volume_access import require_files_openable
from diskmigration.agent.storage import image_locks, qcow2_header, qemu_img, volume_names
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import Owner, StorageDriver
from diskmigration.agent.storage.volume_names import volume_name
from diskmigration.api.disk_migration import BackingChain, DiskMigration, Provisioning, Strategy, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


def begin(node: Node, domain: Domain, migration: DiskMigration, *, attempt: int) -> Journal | None:
    """Write the journal of a migration that may start, and return it; None if the disk is at its destination already.

    Raises:
        MigrationError: it is refused, with the reason; nothing was touched.
    """
    is_running = domain.is_active()
    free = _free_disk(domain, migration, is_running=is_running)
    found = _disk_in_use(domain, free) if is_running else _unused_disk(node, domain, free)
    source = _source_domain(node, found.disk)
    destination = node.domains.get(migration.spec.destination.storage_domain)
    if source.name == destination.name:
        return None
    for side in (source, destination):
        require_allowed(side.domain, migration.metadata.namespace)
        side.driver.check()
    journal = _plan(found, migration, source, destination, attempt=attempt, may_take_snapshot=is_running)
    for volume in journal.may_change:
        source.driver.require_ours(volume.name)
    require_movable_headers(migration.spec.disk, _headers(journal))
    _require_room(journal, source.driver, destination.driver)
    _require_access(node, domain, journal, source.driver, destination.driver)
    journals.write(domain, journal)
    return journal


def _free_disk(domain: Domain, migration: DiskMigration, *, is_running: bool) -> DomainDisk:
    """The disk, if nobody works on it."""
    target = migration.spec.disk
    description = domain.describe()
    disk = description.disk(target)
    if disk is None:
        known = ", ".join(found.target for found in description.disks) or "none"
        raise MigrationError(
            Reason.DISK_NOT_FOUND, f"The VM {description.name} has no disk {target!r}. Its disks: {known}."
        )
    require_no_journal(description, target, journals.read(domain, target))
    require_no_block_job(description, disk, block_jobs.current(domain, disk) if is_running else None)
    require_no_checkpoints(description, has_checkpoints=domain.has_checkpoints())
    return disk


def _disk_in_use(domain: Domain, disk: DomainDisk) -> MeasuredDisk:
    """The disk of a running VM, as libvirt knows it."""
    require_movable_disk(disk)
    require_movable_chain(disk)
    return MeasuredDisk(disk, _capacities(domain, disk))


def _unused_disk(node: Node, domain: Domain, disk: DomainDisk) -> MeasuredDisk:
    """The disk of a VM that is shut off, with its whole chain, if nobody can write to it unseen."""
    require_no_saved_state(domain.uuid, has_saved_state=domain.has_saved_state())
    require_movable_disk(disk)
    found = shut_off_disk.read(disk, node.domains)
    require_movable_chain(found.disk)
    with image_locks.writers_kept_out(Path(found.disk.chain[0].path)):
        return found


def _headers(journal: Journal) -> tuple[tuple[str, qcow2_header.Header], ...]:
    """The headers of the source's qcow2 volumes, with their paths.

    Raises:
        MigrationError: StorageFailed; DiskNotSupported, where one has none.
    """
    return tuple(
        (volume.path, qcow2_header.read(Path(volume.path)))
        for volume in journal.source
        if volume.format is VolumeFormat.QCOW2
    )


def _source_domain(node: Node, disk: DomainDisk) -> OpenDomain:
    located = [node.domains.locate(Path(layer.path)) for layer in disk.chain]
    return source_domain(disk, [found[0] if found is not None else None for found in located])


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
            type=STORAGE_TYPES[layer.type],
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


def _require_access(
    node: Node, domain: Domain, journal: Journal, source: StorageDriver, destination: StorageDriver
) -> None:
    owner = Owner(migration=journal.uid, virtual_machine=domain.uuid, node=node.name)
    for driver in (source, destination) if journal.takes_snapshot else (destination,):
        require_files_openable(domain, journal, owner, driver)


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
    """Raise DestinationFull if the data of now does not fit; volumes are extended for what the guest adds."""
    spec = journal.migration.spec
    whole_size = journal.source[-1].capacity_bytes
    is_thick = spec.destination.provisioning is Provisioning.THICK
    if is_thick or (spec.destination.format is VolumeFormat.RAW and destination.type is StorageType.BLOCK):
        needed = whole_size
    else:
        needed = sum(source.allocated_bytes(volume.name) for volume in journal.source)
    require_room(
        Reason.DESTINATION_FULL,
        subject=f"The disk {spec.disk}",
        storage_domain=destination.name,
        needed=needed,
        available=destination.space().available_bytes,
    )
    for volume in journal.destination:
        qemu_img.require_exact_size(volume.image, destination.rounded(whole_size), whole_size)
