"""How large each destination volume is made, and what has to be copied. Pure; sizes in bytes."""

from dataclasses import dataclass

from diskmigration.agent.extender.watermark import (
    ALIGNMENT_BYTES,
    MOST_IN_FLIGHT_BYTES,
    fully_written_size,
    largest_useful_size,
)
from diskmigration.api.disk_migration import Provisioning, VolumeFormat


def frozen_volume_size(
    *, required: int, capacity: int, image_format: VolumeFormat, provisioning: Provisioning, is_whole_disk: bool
) -> int:
    """Return the size of a volume that is filled once from volumes that nobody writes to.

    Thin takes what the data needs. Raw is the whole disk, exactly. Thick is for the volume that stays: the disk and
    qcow2's own tables.
    """
    if image_format is VolumeFormat.RAW:
        return capacity
    if provisioning is Provisioning.THICK and is_whole_disk:
        return largest_useful_size(capacity)
    return _aligned(required)


def written_volume_size(*, allocated: int, at_least: int, capacity: int, chunk: int) -> int:
    """Return the size of a volume that a guest or a mirror will write to: what is there, and a chunk of head room.

    Never below `at_least`: a mirror that starts smaller than its source may fill up before the first extension.
    """
    return min(max(_aligned(allocated + chunk), _aligned(at_least)), largest_useful_size(capacity))


def fresh_volume_size(*, capacity: int, chunk: int) -> int:
    """Return the size of a layer that nothing was written to yet: a chunk of head room."""
    return written_volume_size(allocated=0, at_least=0, capacity=capacity, chunk=chunk)


@dataclass(frozen=True)
class Qcow2Layout:
    """How a qcow2 volume is laid out; sizes in bytes."""

    cluster_bytes: int
    l2_entry_bytes: int = 8
    refcount_bits: int = 16


@dataclass(frozen=True)
class MergeBase:
    """The volume that an overlay is merged into; sizes in bytes.

    `end` is where its last cluster in use ends, `first_end` where that was before the merge was first tried; `capacity`
    is the disk's virtual size. `has_failed` tells that a merge into it has failed already.
    """

    size: int
    end: int
    first_end: int
    capacity: int
    layout: Qcow2Layout
    has_failed: bool = False


def merge_growth(*, data: int, layout: Qcow2Layout, capacity: int) -> int:
    """Return what a qcow2 of that layout takes at most for so many bytes of clusters that it has not got yet.

    Each may need an L2 table of its own, and refcounts; there are no more tables than the whole disk has.
    """
    cluster = layout.cluster_bytes
    clusters = _up(data, cluster) // cluster
    if clusters == 0:
        return 0
    tables = min(clusters, -(-capacity // (cluster // layout.l2_entry_bytes * cluster)))
    new = clusters + tables
    blocks = -(-new // (cluster * 8 // layout.refcount_bits)) + 1
    # A refcount table that is full is written again, half as large again, with its own refcounts.
    table = 2 * _up(blocks * 8, cluster) // cluster
    return (new + blocks + table) * cluster


def merged_volume_size(base: MergeBase, *, added: int, high_watermark: int, chunk: int) -> int:
    """Return the size that a volume needs before a merge that adds so much: grown by whole chunks, and only if it must.

    What an earlier try has merged is part of what the overlay holds, and is not counted again. A volume that ran full
    all the same is given as much as if it were: it has clusters that are lost or cannot be used.
    """
    limit = fully_written_size(
        base.capacity, base.layout.cluster_bytes, base.layout.l2_entry_bytes, base.layout.refcount_bits
    )
    ran_full = base.has_failed and base.size - base.end < MOST_IN_FLIGHT_BYTES
    if ran_full or base.end > limit:
        needed = base.end + added + high_watermark
    else:
        needed = min(max(base.end, base.first_end + added) + high_watermark, limit)
    missing = needed - base.size
    if missing <= 0:
        return base.size
    size = base.size + -(-missing // chunk) * chunk
    return size if needed > limit else max(min(size, limit), base.size)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _aligned(size: int) -> int:
    return _up(size, ALIGNMENT_BYTES)
