"""Plan what a migration makes: the names, formats and sizes of its volumes, and whether it takes a snapshot. Pure."""

from pathlib import Path

from diskmigration.agent.migration.checks.disk import STORAGE_TYPES
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.shut_off_disk import MeasuredDisk
from diskmigration.agent.storage import volume_names
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.volume_names import volume_name
from diskmigration.api.disk_migration import BackingChain, DiskMigration, Strategy, VolumeFormat


def plan(
    found: MeasuredDisk,
    migration: DiskMigration,
    source: OpenDomain,
    destination: OpenDomain,
    *,
    attempt: int,
    may_take_snapshot: bool,
) -> Journal:
    """Return the journal with which the migration begins."""
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
