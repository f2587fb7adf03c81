"""What a migration occupies that a node's agent has. Pure."""

from diskmigration.api.disk_migration import CutoverPolicy, DiskMigrationSpec, Phase
from diskmigration.controller.cluster_inventory import ClusterInventory
from diskmigration.controller.placement import disk_keys, find_disk, needed_bytes
from diskmigration.controller.records import Migration
from diskmigration.controller.reservations import Reservation


def hold_of(migration: Migration, inventory: ClusterInventory) -> Reservation | None:
    """Return its places and the room that it needs; None where its status does not name its storage domains."""
    status, node = migration.status, migration.status.node_name or ""
    if status.source is None or status.destination is None:
        return None
    needed = 0
    located = inventory.located_on(node, migration.spec) if migration.spec is not None else None
    if migration.spec is not None and located is not None:
        disk = find_disk(located.machine, migration.spec.disk)
        needed = needed_bytes(migration.spec, disk, status.destination.type) if disk is not None else 0
    return Reservation(status.source.storage_domain_name, status.destination.storage_domain_name, node, needed)


def awaits_cutover(migration: Migration) -> bool:
    """Return whether it is in step and waits for its cutover, not just for its agent to begin with it."""
    spec = migration.spec
    if spec is None or migration.status.phase is not Phase.SYNCHRONIZED:
        return False
    return spec.suspend or spec.cutover.policy is CutoverPolicy.MANUAL or spec.cutover.not_before is not None


def disk_keys_of(migration: Migration, inventory: ClusterInventory) -> tuple[str, ...]:
    """Return the names of its disk; see `placement.disk_keys`."""
    spec, node = migration.spec, migration.status.node_name or ""
    if spec is None:
        return ()
    if (located := inventory.located_on(node, spec)) is not None:
        return disk_keys(located, spec.disk)
    return _disk_keys_by_spec(spec, node)


def _disk_keys_by_spec(spec: DiskMigrationSpec, node: str) -> tuple[str, ...]:
    """For a VM that nobody reports: by what its migration calls it."""
    wanted = spec.virtual_machine
    by_uuid = (f"{wanted.uuid.lower()}/{spec.disk}",) if wanted.uuid else ()
    return by_uuid + ((f"{node}/{wanted.name}/{spec.disk}",) if wanted.name else ())
