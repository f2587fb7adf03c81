"""PreparingDestination: the chain of volumes at the destination, each as large as it must be, none filled yet."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from diskmigration.agent.migration.attempt import SIDE_BY_SIDE, Attempt, lacking_room
from diskmigration.agent.migration.journal import Journal, JournalVolume, Stage
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.sizing import frozen_volume_size
from diskmigration.agent.migration.steps.mirror_volume import format_volume, mirror_size
from diskmigration.agent.storage import qemu_img
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.quantity import human_readable


def prepare_destination(attempt: Attempt) -> None:
    """Measures what is frozen, makes the destination's volumes, and links them into a chain.

    They are made side by side, as none is read yet: that one lies on another is only noted.

    Raises:
        MigrationError: DestinationFull, StorageFailed, DiskNotSupported.
    """
    journal = attempt.journal
    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="prepare") as pool:
        measured = tuple(pool.map(lambda pair: _required_bytes(journal, *pair), journal.internal_copies))
        sizes = {
            destination.name: _frozen_size(attempt, destination, required)
            for (_, destination), required in zip(journal.internal_copies, measured, strict=True)
        }
        sizes[journal.mirror.name] = mirror_size(attempt)
        _require_room(attempt, sum(sizes.values()))
        below = (None, *journal.at_destination)
        making = [
            pool.submit(_make, attempt, volume, sizes[volume.name], lower)
            for volume, lower in zip(journal.at_destination, below, strict=False)
        ]
        for made in as_completed(making):
            made.result()
            attempt.reach(Moment.MIDWAY)
    _require_direct_io(attempt)
    attempt.reach(Moment.ACTED)
    attempt.record(stage=Stage.PREPARED, copy_bytes=measured)


def _required_bytes(journal: Journal, source: JournalVolume, destination: JournalVolume) -> int:
    chain = journal.chain_of(source) if journal.flattens else (source.image,)
    return qemu_img.measure(chain, target=destination.format).required_bytes


def _frozen_size(attempt: Attempt, volume: JournalVolume, required: int) -> int:
    return frozen_volume_size(
        required=required,
        capacity=volume.capacity_bytes,
        image_format=volume.format,
        provisioning=attempt.journal.migration.spec.destination.provisioning,
        is_whole_disk=volume == attempt.journal.destination[-1],
    )


def _require_room(attempt: Attempt, needed: int) -> None:
    destination = attempt.destination
    already = sum(
        destination.driver.allocated_bytes(name)
        for name in destination.driver.volumes()
        if name.startswith(f"dm-{attempt.journal.uid}-")
    )
    available = destination.driver.space().available_bytes + already
    if needed > available:
        raise MigrationError(
            Reason.DESTINATION_FULL,
            f"The chain of {attempt.target} needs {human_readable(needed)}, but the storage domain {destination.name} "
            f"has {human_readable(available)} left. Free some room, or choose another destination.",
        )


def _require_direct_io(attempt: Attempt) -> None:
    """The disk's cache and io modes stay with it: a destination that cannot do them would fail at the pivot."""
    disk = attempt.disk()
    uses_it = disk.cache in ("none", "directsync") or disk.io == "native"
    path = Path(attempt.journal.mirror.path)
    if uses_it and not qemu_img.supports_direct_io(path):
        raise MigrationError(
            Reason.DISK_NOT_SUPPORTED,
            f"The disk {attempt.target} uses direct I/O (cache={disk.cache or 'default'}, io={disk.io or 'default'}), "
            f"which the storage domain {attempt.destination.name} cannot do. Choose another destination.",
        )


def _make(attempt: Attempt, volume: JournalVolume, size: int, below: JournalVolume | None) -> None:
    destination = attempt.destination
    with lacking_room(Reason.DESTINATION_FULL):
        destination.driver.create(volume.name, size, attempt.owner)
        qemu_img.require_exact_size(volume.image, destination.driver.size_bytes(volume.name), volume.capacity_bytes)
        format_volume(attempt, volume, below)
