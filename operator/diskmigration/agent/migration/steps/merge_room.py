"""Room for a merge: the volume below gets what the overlay adds to it, before the merge begins."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diskmigration import clock
from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.sizing import MergeBase, Qcow2Layout, merge_growth, merged_volume_size
from diskmigration.agent.storage import qcow2_allocation, qcow2_header, qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.qcow2_allocation import Allocation
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


@dataclass(frozen=True)
class Written:
    """How far QEMU has written both volumes since it opened them, in bytes; its tables on disk may be older."""

    overlay: int = 0
    base: int = 0


def base_end(base: JournalVolume) -> int | None:
    """Return where the last cluster in use ends; None for a volume that grows by itself, or is never short of room."""
    if base.type is not StorageType.BLOCK or base.format is not VolumeFormat.QCOW2:
        return None
    return qcow2_allocation.read(Path(base.path)).end_bytes


def note_begin(context: MigrationContext, base: JournalVolume, home: OpenDomain) -> None:
    """Note when a merge was first tried, and how far the volume below was filled then.

    A retry must not add the same room again.

    Raises:
        MigrationError: StorageFailed; HypervisorUnavailable.
    """
    if context.journal.merge_since is not None:
        return
    end = context.journal.merge_base_end
    if end is None:
        home.driver.activate(base.name)
        end = base_end(base)
    context.record(merge_since=clock.now(), merge_base_end=end)


def make_room(
    *,
    overlay: JournalVolume,
    base: JournalVolume,
    home: OpenDomain,
    written: Written,
    first_end: int | None,
    has_failed: bool,
    keep_on: Callable[[], bool],
) -> None:
    """Extend the volume below for what the overlay holds, and for a disk that was resized on the overlay.

    `first_end` is `base_end` before the merge was first tried, None at the first try.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: StorageFailed, VolumeNotHandedOver; NoRoomError.
    """
    if base.type is not StorageType.BLOCK:
        return
    capacity = qcow2_header.read(Path(overlay.path)).capacity_bytes
    if base.format is VolumeFormat.RAW:
        _resize_raw(base, home, capacity)
        return
    allocation = qcow2_allocation.read(Path(base.path))
    layout = Qcow2Layout(allocation.cluster_bytes, allocation.l2_entry_bytes, allocation.refcount_bits)
    end = max(allocation.end_bytes, written.base)
    found = MergeBase(
        size=home.driver.size_bytes(base.name),
        end=end,
        first_end=first_end if first_end is not None else end,
        capacity=max(capacity, allocation.capacity_bytes),
        layout=layout,
        has_failed=has_failed,
    )
    data = _data_of(overlay, written.overlay, cluster_bytes=layout.cluster_bytes, capacity=capacity, keep_on=keep_on)
    added = merge_growth(data=data, layout=layout, capacity=found.capacity)
    thin = home.domain.spec.thin_provisioning

    def size_with(chunk: int) -> int:
        return merged_volume_size(found, added=added, high_watermark=thin.high_watermark, chunk=chunk)

    size = size_with(thin.chunk_size)
    if size <= found.size:
        return
    try:
        home.driver.extend(base.name, size)
    except NoRoomError:
        # Less than a chunk may do.
        if (least := size_with(ALIGNMENT_BYTES)) >= size:
            raise
        home.driver.extend(base.name, least)


def _resize_raw(base: JournalVolume, home: OpenDomain, capacity: int) -> None:
    """QEMU grows a raw file by itself, and cannot grow a device: "Cannot grow device files"."""
    if home.driver.size_bytes(base.name) >= capacity:
        return
    size = home.driver.extend(base.name, capacity)
    if size < capacity:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"The volume {base.name} has {size} bytes where the disk has {capacity}."
        )


def _data_of(
    overlay: JournalVolume, written: int, *, cluster_bytes: int, capacity: int, keep_on: Callable[[], bool]
) -> int:
    """Return what the overlay holds at most in clusters of the volume below, with what QEMU has not noted yet."""
    allocation = qcow2_allocation.read(Path(overlay.path))
    end = allocation.end_bytes
    try:
        entered = qemu_img.data_bytes(
            overlay.image, cluster_bytes=cluster_bytes, capacity_bytes=capacity, keep_on=keep_on
        )
    except MigrationError:
        if not written:
            raise
        # QEMU changes the tables meanwhile: all that it has ever written counts.
        entered, end = 0, 0
    return min(entered + _scattered(max(written, allocation.end_bytes) - end, allocation, cluster_bytes), capacity)


def _scattered(length: int, allocation: Allocation, cluster_bytes: int) -> int:
    """Return what so much of the overlay takes below if each of its clusters lies in another one there."""
    return max(length, 0) * max(1, cluster_bytes // allocation.cluster_bytes)
