"""Begin: read what can be checked before anything is touched, have it judged, then write the journal."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diskmigration.agent.hypervisor import block_jobs, domain_xml
from diskmigration.agent.hypervisor.bounded_calls import LibvirtReader
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.hypervisor.source_xml import named_sources
from diskmigration.agent.hypervisor.statistics import of_domain
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import shut_off_disk
from diskmigration.agent.migration.activity import Activity
from diskmigration.agent.migration.checks.capabilities import require_possible
from diskmigration.agent.migration.checks.disk import (
    require_chain_of_headers,
    require_movable_chain,
    require_movable_disk,
    require_movable_layers,
)
from diskmigration.agent.migration.checks.headers import require_movable_headers
from diskmigration.agent.migration.checks.managers import require_not_managed_elsewhere
from diskmigration.agent.migration.checks.occupation import (
    require_no_block_job,
    require_no_journal,
    require_no_saved_state,
)
from diskmigration.agent.migration.checks.room import require_room_above_floor, require_volume_size
from diskmigration.agent.migration.checks.snapshots import require_carried_bitmaps, require_no_snapshots
from diskmigration.agent.migration.checks.storage_domains import require_may_move, source_domain
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.node_services import NodeServices
from diskmigration.agent.migration.plan import plan
from diskmigration.agent.migration.shut_off_disk import MeasuredDisk
from diskmigration.agent.migration.steps.find_vm import require_nothing_left
from diskmigration.agent.migration.volume_access import libvirt_changes_owners, require_files_openable
from diskmigration.agent.storage import image_locks, paths, qcow2_header, qemu_image, qemu_img, qemu_img_process
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import Identity, Owner, StorageDriver
from diskmigration.agent.storage.identity import identity_or_name
from diskmigration.api.disk_migration import DiskMigration, Provisioning, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


@dataclass(frozen=True)
class NothingToMove:
    """Why a migration succeeds before anything is touched."""

    reason: Reason
    message: str


def begin(
    node: NodeServices,
    domain: Domain,
    migration: DiskMigration,
    *,
    attempt: int,
    settled_attempt: int,
    keep_on: Callable[[], bool],
    reader: LibvirtReader,
    on_wait: Callable[[Activity | None], None],
) -> Journal | NothingToMove:
    """Write the journal of a migration that may start, and return it; or why there is nothing to move.

    `on_wait` is told what is waited for, or None, each time that `keep_on` is asked meanwhile.
    `settled_attempt` is the last attempt that has ended: what it has left was seen to be nobody's last writes.

    Raises:
        StoppedError: `keep_on` said no; nothing was touched.
        MigrationError: it is refused, with the reason; nothing was touched.
    """
    is_running = domain.is_active()
    description = domain.describe()
    free = _free_disk(domain, description, migration, reader if is_running else None)
    found = _disk_in_use(domain, free, reader) if is_running else _unused_disk(node, domain, free)
    source = _source_domain(node, found.disk)
    destination = node.domains.get(migration.spec.destination.storage_domain_name)
    nothing = _nothing_to_move(migration, source.name, destination.name)
    if nothing is None:
        _require_ready(source, destination)
    require_nothing_left(
        migration,
        (source, destination),
        settled_attempt=settled_attempt,
        what=f"The VM has its disk {free.target} on {found.disk.chain[0].path}.",
        keep_on=keep_on,
    )
    if nothing is not None:
        return nothing
    sides = (source.domain, destination.domain)
    require_may_move(description, sides, migration.metadata.namespace, system_namespace=node.system_namespace)
    require_not_managed_elsewhere(description, source.domain, destination.domain)
    journal = plan(found, migration, source, destination, attempt=attempt, may_take_snapshot=is_running)
    require_possible(journal, found.disk)
    for volume in journal.may_change:
        source.driver.require_ours(volume.name)
    _require_nothing_is_lost(domain, description, journal)

    def keep_on_waiting() -> bool:
        wait = qemu_img_process.wait_of(Path(volume.path) for volume in journal.source)
        on_wait(Activity(wait.what, wait.since) if wait is not None else None)
        return keep_on()

    _require_room(journal, source.driver, destination, keep_on_waiting)
    _require_access(node, domain, journal, source.driver, destination.driver)
    journal = journal.model_copy(
        update={"libvirt_changes_owners": libvirt_changes_owners(domain, journal, node.running)}
    )
    journals.write(domain, journal)
    return journal


def _nothing_to_move(migration: DiskMigration, source: str, destination: str) -> NothingToMove | None:
    """Return why the disk stays where it is, None where it moves; the two are the names of the storage domains."""
    if (expected := migration.spec.source) is not None and source != expected.storage_domain_name:
        return NothingToMove(
            Reason.NOT_ON_SOURCE,
            f"The disk is in the storage domain {source}, and not in {expected.storage_domain_name}, where spec.source "
            "has it; nothing was moved.",
        )
    if source == destination:
        return NothingToMove(
            Reason.ALREADY_AT_DESTINATION, f"The disk lives in the storage domain {destination} already."
        )
    return None


def _require_ready(*sides: OpenDomain) -> None:
    """Raise StorageDomainNotReady, which is waited for, where the storage of one is away."""
    for side in sides:
        try:
            side.driver.check()
        except MigrationError as error:
            raise MigrationError(
                Reason.STORAGE_DOMAIN_NOT_READY, f"The StorageDomain {side.name} is not ready: {error.message}"
            ) from error


def _free_disk(
    domain: Domain, description: DomainDescription, migration: DiskMigration, reader: LibvirtReader | None
) -> DomainDisk:
    """Return the disk, if nobody works on it; without a `reader` the VM is off."""
    target = migration.spec.disk
    disk = description.disk(target)
    if disk is None:
        known = ", ".join(found.target for found in description.disks) or "none"
        raise MigrationError(
            Reason.DISK_NOT_FOUND, f"The VM {description.name} has no disk {target!r}. Its disks: {known}."
        )
    require_no_journal(description, target, journals.read(domain, target))
    job = None
    if reader is not None:
        doing = f"asking for the block job of {target} (VM {domain.uuid})"
        job = reader.read(partial(block_jobs.current, domain, disk), doing=doing)
    require_no_block_job(description, disk, job)
    return disk


def _disk_in_use(domain: Domain, disk: DomainDisk, reader: LibvirtReader) -> MeasuredDisk:
    """Return the disk of a running VM, as libvirt knows it."""
    require_movable_disk(disk)
    require_movable_chain(disk)
    return MeasuredDisk(disk, _capacities(domain, disk, reader))


def _unused_disk(node: NodeServices, domain: Domain, disk: DomainDisk) -> MeasuredDisk:
    """Return the disk of a VM that is shut off, with its whole chain, if nobody can write to it unseen."""
    require_no_saved_state(domain.uuid, has_saved_state=domain.has_saved_state())
    require_movable_disk(disk)
    require_movable_layers(disk)
    found = shut_off_disk.read(disk, node.domains)
    require_movable_chain(found.disk)
    require_chain_of_headers(disk, named=_identities(disk), found=_identities(found.disk))
    with image_locks.writers_kept_out(Path(found.disk.chain[0].path)):
        return found


def _identities(disk: DomainDisk) -> list[tuple[Identity, str]]:
    return [(identity_or_name(Path(layer.path)), layer.format) for layer in disk.chain]


def _require_nothing_is_lost(domain: Domain, description: DomainDescription, journal: Journal) -> None:
    """Raise if the chain has more than its data, and a move would lose it.

    Raises:
        MigrationError: DiskBusy, DiskNotSupported, StorageFailed.
    """
    target = journal.migration.spec.disk
    volumes = [Path(volume.path) for volume in journal.source]
    require_no_snapshots(description, target, _snapshots_of(domain, target, volumes))
    headers = {
        volume.path: qcow2_header.read(Path(volume.path))
        for volume in journal.source
        if volume.format is VolumeFormat.QCOW2
    }
    require_movable_headers(target, headers.items())
    require_carried_bitmaps(
        journal,
        {path: qcow2_header.read_bitmaps(Path(path), header) for path, header in headers.items()},
        checkpoints=[
            name for name, document in domain.checkpoints().items() if domain_xml.checkpoint_has_disk(document, target)
        ],
    )


def _snapshots_of(domain: Domain, target: str, volumes: Iterable[Path]) -> tuple[str, ...]:
    """Return the names of libvirt's snapshots that name one of these volumes, or may name one in a pool.

    Raises:
        MigrationError: StorageFailed; it cannot be told what a snapshot names.
    """

    def named(document: str) -> set[Identity]:
        found = [Path(source.path) for source in named_sources(document) if source.path]
        for path in found:
            paths.found_at(path)
        return {identity_or_name(path) for path in found}

    of_disk = {identity_or_name(volume) for volume in volumes}
    return tuple(
        name
        for name, document in domain.snapshots().items()
        if domain_xml.names_pool_volume(document, target) or not of_disk.isdisjoint(named(document))
    )


def _source_domain(node: NodeServices, disk: DomainDisk) -> OpenDomain:
    located = [node.domains.locate(Path(layer.path)) for layer in disk.chain]
    return source_domain(disk, [found[0] if found is not None else None for found in located])


def _require_access(
    node: NodeServices, domain: Domain, journal: Journal, source: StorageDriver, destination: StorageDriver
) -> None:
    owner = Owner(migration=journal.uid, virtual_machine=domain.uuid, node=node.name)
    for driver in (source, destination) if journal.takes_snapshot else (destination,):
        require_files_openable(domain, journal, owner, driver, node.running)


def _capacities(domain: Domain, disk: DomainDisk, reader: LibvirtReader) -> tuple[int, ...]:
    """Return the virtual size of each layer, active layer first, as QEMU has them open."""
    found = reader.read(partial(of_domain, domain), doing=f"asking for the sizes of {disk.target} (VM {domain.uuid})")
    by_index = {layer.index: layer.capacity_bytes for layer in found.layers if layer.target == disk.target}
    capacities = (by_index.get(layer.index if layer.index is not None else -1) for layer in disk.chain)
    sizes = tuple(capacity for capacity in capacities if capacity)
    if len(sizes) != len(disk.chain):
        raise HypervisorUnavailableError(
            f"libvirt does not tell the virtual size of each volume of {disk.target}: its QEMU is busy. It is asked "
            "again."
        )
    return sizes


def _require_room(journal: Journal, source: StorageDriver, side: OpenDomain, keep_on: Callable[[], bool]) -> None:
    """Raise if the data of now does not fit; volumes are extended for what the guest adds.

    Raises:
        MigrationError: DestinationFull, DiskNotSupported, InvalidSpec, StorageFailed.
    """
    spec, destination = journal.migration.spec, side.driver
    whole_size = journal.source[-1].capacity_bytes
    allocated = [source.allocated_bytes(volume.name) for volume in journal.source]
    is_thick = spec.destination.provisioning is Provisioning.THICK
    is_raw = spec.destination.format is VolumeFormat.RAW
    is_whole = is_thick or (is_raw and destination.type is StorageType.BLOCK)
    space = destination.space()
    available = space.available_bytes - side.domain.spec.available_floor.of(space.capacity_bytes)
    needed = whole_size if is_whole else sum(allocated)
    if needed > available and not is_whole:
        needed = min(needed, _measured_bytes(journal, destination.type, keep_on))
    require_room_above_floor(subject=f"The disk {spec.disk}", destination=side, needed=needed)
    largest = whole_size if is_thick or is_raw else sum(allocated) if journal.flattens else max(allocated)
    require_volume_size(
        spec.disk, destination.name, size_bytes=largest, is_possible=destination.can_hold(destination.rounded(largest))
    )
    for volume in journal.destination:
        qemu_image.require_exact_size(volume.image, destination.rounded(whole_size), whole_size)


def _measured_bytes(journal: Journal, storage: StorageType, keep_on: Callable[[], bool]) -> int:
    """Return how many bytes qcow2 copies of the source's volumes need on a storage of that type.

    What a volume takes of its storage domain says little of its data where it was allocated ahead.
    """
    return sum(
        qemu_img.measure((volume.image,), target=VolumeFormat.QCOW2, keep_on=keep_on).needed_bytes(
            storage, volume.capacity_bytes
        )
        for volume in journal.source
    )
