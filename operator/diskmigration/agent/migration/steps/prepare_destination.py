"""PreparingDestination: the chain of volumes at the destination, each as large as it must be, none filled yet."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from diskmigration.agent.migration.checks.room import require_room_above_floor
from diskmigration.agent.migration.context import SIDE_BY_SIDE, MigrationContext
from diskmigration.agent.migration.full_domain import lacking_room
from diskmigration.agent.migration.journal import JournalVolume, Stage
from diskmigration.agent.migration.sizing import frozen_volume_size
from diskmigration.agent.migration.steps.mirror_volume import (
    format_volume,
    fresh_mirror_size,
    makes_thin_files,
    mirror_room,
    mirror_size,
)
from diskmigration.agent.storage import qemu_image, qemu_img
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


@contextmanager
def making_ahead(context: MigrationContext) -> Iterator[None]:
    """Makes, while the snapshot is taken, what does not depend on what the guest writes until then.

    That is every volume but the copy of the active layer, which can be measured only when it is frozen.

    Raises:
        MigrationError: DestinationFull, StorageFailed; when the block has ended well.
    """
    has_failed = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        making = pool.submit(_make_ahead, context, lambda: context.keep_on() and not has_failed.is_set())
        try:
            yield
        except BaseException:
            # Nobody waits for what is not needed any more.
            has_failed.set()
            raise
        making.result()


def prepare_destination(context: MigrationContext) -> None:
    """Measure what is frozen, make the destination's volumes that are not made yet, and link them into a chain.

    Raises:
        MigrationError: DestinationFull, StorageFailed, DiskNotSupported.
    """
    journal = context.journal
    # What was measured ahead is the lowest of the chain, so this is base first too.
    unmeasured = [copy for copy in journal.internal_copies if copy[1].name not in context.measured_ahead]
    measured = {**context.measured_ahead, **_measure(context, unmeasured, context.keep_on)}
    sizes = {**_frozen_sizes(context, measured), journal.mirror.name: mirror_size(context)}
    _require_room_for_chain(context, _frozen_room(context, measured) + mirror_room(context))
    missing = {name: size for name, size in sizes.items() if name not in context.fresh}
    _make(context, missing, context.keep_on, on_made=lambda: context.failpoint("midway"))
    _require_direct_io(context)
    context.failpoint("acted")
    context.record(stage=Stage.PREPARED, copy_bytes=tuple(measured.values()))


def _make_ahead(context: MigrationContext, keep_on: Callable[[], bool]) -> None:
    journal = context.journal
    frozen = _measure(context, journal.internal_copies[:-1], keep_on)
    sizes = {**_frozen_sizes(context, frozen), journal.mirror.name: fresh_mirror_size(context)}
    _require_room_for_chain(context, _frozen_room(context, frozen) + fresh_mirror_size(context))
    _make(context, sizes, keep_on)
    context.measured_ahead = frozen


def _measure(
    context: MigrationContext, copies: Sequence[tuple[JournalVolume, JournalVolume]], keep_on: Callable[[], bool]
) -> dict[str, int]:
    """Return what each copy takes, by the destination's volume, in the same order; measured side by side."""
    journal = context.journal

    def needed_bytes(copy: tuple[JournalVolume, JournalVolume]) -> int:
        source, destination = copy
        chain = journal.chain_of(source) if journal.flattens else (source.image,)
        # A thin raw file has holes where a qcow2 volume has no clusters.
        is_file = destination.type is StorageType.FILE
        target = VolumeFormat.QCOW2 if is_file else destination.format
        with context.doing(f"Measuring {source.path}"):
            measured = qemu_img.measure(chain, target=target, keep_on=keep_on)
        return measured.needed_bytes(destination.type, destination.capacity_bytes)

    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="measure") as pool:
        measured = pool.map(needed_bytes, copies)
        return {destination.name: needed for (_, destination), needed in zip(copies, measured, strict=True)}


def _frozen_sizes(context: MigrationContext, measured: Mapping[str, int]) -> dict[str, int]:
    journal = context.journal
    return {
        volume.name: frozen_volume_size(
            required=measured[volume.name],
            capacity=volume.capacity_bytes,
            image_format=volume.format,
            provisioning=journal.migration.spec.destination.provisioning,
            is_whole_disk=volume == journal.destination[-1],
        )
        for volume in journal.at_destination
        if volume.name in measured
    }


def _frozen_room(context: MigrationContext, measured: Mapping[str, int]) -> int:
    """Return the room that the volumes of frozen layers take."""
    return sum((measured if makes_thin_files(context.journal) else _frozen_sizes(context, measured)).values())


def _make(
    context: MigrationContext,
    sizes: Mapping[str, int],
    keep_on: Callable[[], bool],
    *,
    on_made: Callable[[], None] = lambda: None,
) -> None:
    """Make these volumes, side by side: none is read yet, and that one lies on another is only noted.

    None is formatted before all are there: an image whose backing file is missing keeps others from being removed.
    """
    volumes = [volume for volume in context.journal.at_destination if volume.name in sizes]
    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="prepare") as pool:
        for made in as_completed([pool.submit(_make_one, context, volume, sizes[volume.name]) for volume in volumes]):
            made.result()
        for formatted in as_completed([pool.submit(_format_one, context, volume, keep_on) for volume in volumes]):
            formatted.result()
            on_made()


def _require_room_for_chain(context: MigrationContext, needed: int) -> None:
    destination = context.destination
    ours = {volume.name for volume in context.journal.at_destination}
    already = sum(destination.driver.allocated_bytes(name) for name in destination.driver.volumes() if name in ours)
    require_room_above_floor(
        subject=f"The chain of {context.target}", destination=destination, needed=needed, already=already
    )


def _require_direct_io(context: MigrationContext) -> None:
    """The disk's cache and io modes stay with it: a destination that cannot do them would fail at the pivot."""
    disk = context.disk()
    uses_it = disk.cache in ("none", "directsync") or disk.io == "native"
    path = Path(context.journal.mirror.path)
    if uses_it and not qemu_image.supports_direct_io(path):
        raise MigrationError(
            Reason.DISK_NOT_SUPPORTED,
            f"The disk {context.target} uses direct I/O (cache={disk.cache or 'default'}, io={disk.io or 'default'}), "
            f"which the storage domain {context.destination.name} cannot do. Choose another destination.",
        )


def _make_one(context: MigrationContext, volume: JournalVolume, size: int) -> None:
    destination = context.destination
    with lacking_room(Reason.DESTINATION_FULL):
        context.make(volume, destination, size)
        qemu_image.require_exact_size(volume.image, destination.driver.size_bytes(volume.name), volume.capacity_bytes)


def _format_one(context: MigrationContext, volume: JournalVolume, keep_on: Callable[[], bool]) -> None:
    with lacking_room(Reason.DESTINATION_FULL):
        format_volume(context, volume, keep_on=keep_on)
    context.fresh.add(volume.name)
