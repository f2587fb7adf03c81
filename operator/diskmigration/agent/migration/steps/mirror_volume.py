"""The destination's volume that takes in the active layer: how large it must be, and how it is made fresh."""

from collections.abc import Callable

from diskmigration.agent.extender.watermark import largest_useful_size
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.disk_activity import written_since_open
from diskmigration.agent.migration.full_domain import lacking_room
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.sizing import fresh_volume_size, frozen_volume_size, written_volume_size
from diskmigration.agent.storage import qemu_img
from diskmigration.api.disk_migration import CopyMode, Provisioning, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


def mirror_size(context: MigrationContext) -> int:
    """Return the size of the mirror's volume: never below what the source has now and a chunk of head room.

    A destination that is too small when the mirror starts fails it before the first extension (BZ1958032).
    """
    mirror = context.journal.mirror
    return mirror.capacity_bytes if mirror.format is VolumeFormat.RAW else _filled_size(context)


def makes_thin_files(journal: Journal) -> bool:
    """Return whether what is made at the destination grows by what is written to it, whatever its size is."""
    is_thin = journal.migration.spec.destination.provisioning is Provisioning.THIN
    return is_thin and journal.mirror.type is StorageType.FILE


def mirror_room(context: MigrationContext) -> int:
    """Return the room that the volume takes as far as is known now: a raw file has holes where the disk has."""
    return _filled_size(context) if makes_thin_files(context.journal) else mirror_size(context)


def _filled_size(context: MigrationContext) -> int:
    journal = context.journal
    mirror = journal.mirror
    spec = journal.migration.spec.destination
    layers = journal.source if journal.flattens and not journal.takes_snapshot else (journal.mirrored,)
    held = sum(_held_at_most(context, volume) for volume in layers)
    if spec.provisioning is Provisioning.THICK and not journal.takes_snapshot:
        return frozen_volume_size(
            required=held,
            capacity=mirror.capacity_bytes,
            image_format=mirror.format,
            provisioning=spec.provisioning,
            is_whole_disk=True,
        )
    is_alike = mirror.type is journal.mirrored.type
    return written_volume_size(
        allocated=written_since_open(context, journal.mirrored) if is_alike and context.is_running() else held,
        at_least=held,
        capacity=mirror.capacity_bytes,
        chunk=_chunk(context),
    )


def _held_at_most(context: MigrationContext, volume: JournalVolume) -> int:
    """Return an upper bound of what a qcow2 copy of a volume of the source that is being written to holds, in bytes.

    A raw file has holes, which a mirror skips; a block device shows none, so the mirror copies all of it.
    """
    driver = context.source.driver
    if volume.format is VolumeFormat.QCOW2:
        return driver.size_bytes(volume.name)
    if volume.type is not StorageType.FILE:
        return largest_useful_size(driver.size_bytes(volume.name))
    # Blocks that were allocated ahead hold nothing, and a mirror skips them like holes.
    with context.doing(f"Measuring {volume.path}"):
        measured = qemu_img.measure((volume.image,), target=VolumeFormat.QCOW2, keep_on=context.keep_on)
    return min(largest_useful_size(driver.allocated_bytes(volume.name)), measured.required_bytes)


def fresh_mirror_size(context: MigrationContext) -> int:
    """Return the size it is made with where what it mirrors is not there yet, and so is empty: a chunk of head room."""
    return fresh_volume_size(capacity=context.journal.mirror.capacity_bytes, chunk=_chunk(context))


def _chunk(context: MigrationContext) -> int:
    """By how much the destination's volumes are extended meanwhile; a file grows by itself."""
    destination = context.destination
    is_block = destination.driver.type is StorageType.BLOCK
    return destination.domain.spec.thin_provisioning.replication_chunk_size if is_block else 0


def extend_mirror(context: MigrationContext) -> None:
    """Make it as large as it must be by now, and verify it.

    Raises:
        MigrationError: DestinationFull, StorageFailed.
    """
    mirror = context.journal.mirror
    if mirror.type is not StorageType.BLOCK:
        return
    needed = mirror_size(context)
    with lacking_room(Reason.DESTINATION_FULL), context.doing(f"Extending {mirror.path}"):
        size = context.destination.driver.extend(mirror.name, needed)
    if size < needed:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"The volume {mirror.name} has {size} bytes where {needed} were asked for."
        )


def format_volume(
    context: MigrationContext, volume: JournalVolume, *, keep_on: Callable[[], bool] | None = None
) -> None:
    """Make a volume of the destination empty, whatever an earlier copy has left in it; it stands on the one below.

    `keep_on` is the context's unless it is given.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: StorageFailed; NoRoomError.
    """
    below = context.journal.below(volume)
    # libvirt opens what lies below a shallow mirror at its pivot. Until then QEMU fills up a cluster that is written in
    # part with zeroes; its own copy takes whole clusters, but a write-blocking mirror passes on what the guest writes.
    spec = context.journal.migration.spec
    may_be_write_blocking = spec.copy_mode is not CopyMode.BACKGROUND and context.journal.can_be_write_blocking
    by_sector = below is not None and volume == context.journal.mirror and may_be_write_blocking
    is_thick = spec.destination.provisioning is Provisioning.THICK
    preallocate = is_thick and below is None and volume == context.journal.destination[-1]
    with context.doing(f"{'Preallocating' if preallocate else 'Formatting'} {volume.path}"):
        qemu_img.create(
            volume.image,
            volume.capacity_bytes,
            backing=below.image if below is not None else None,
            by_sector=by_sector,
            preallocate=preallocate,
            keep_on=keep_on or context.keep_on,
        )
