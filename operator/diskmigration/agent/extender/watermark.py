"""Decide when a thin volume is extended, to what size, and in which order. Pure; all sizes are in bytes."""

import math
from dataclasses import dataclass

ALIGNMENT_BYTES = 2**20
MOST_IN_FLIGHT_BYTES = 32 * 2**20
"""How far past a volume's end the writes reach that met it, at most, before QEMU pauses the guest."""

_KINDS = ((65536, 8), (16384, 16))
"""The bytes of a cluster and of its L2 entry, without and with subclusters, of the volumes that migrations make."""


@dataclass(frozen=True)
class Policy:
    """A storage domain's thin provisioning, with the chunk that applies now."""

    high_watermark: int
    chunk: int


@dataclass(frozen=True)
class ThinVolume:
    """A volume that a guest, a mirror or a merge writes to.

    `allocated` is the highest offset written, 0 where that is not known; `physical` is its size; `capacity` is the
    disk's virtual size. `is_full` says that QEMU met its end.
    """

    path: str
    allocated: int
    physical: int
    capacity: int
    policy: Policy
    is_full: bool = False


@dataclass(frozen=True)
class Extension:
    """Grow the volume at `path` to `size`."""

    path: str
    size: int


def largest_useful_size(capacity: int) -> int:
    """Return the most that a qcow2 of that virtual size, as migrations make them, can take; rounded up.

    Data, L1 and L2 tables, refcounts (2 bytes a cluster), header. Source: QEMU's docs/interop/qcow2.txt; a test holds
    it above what `qemu-img measure` answers for a fully written disk. A volume that somebody else made with other
    clusters, with internal snapshots or bitmaps may need more: `limit_of` sees that.
    """
    return max(fully_written_size(capacity, cluster, entry) for cluster, entry in _KINDS)


def fully_written_size(capacity: int, cluster: int, l2_entry: int, refcount_bits: int = 16) -> int:
    """Return what a qcow2 of that layout takes when the disk is written from end to end; rounded up."""
    data = _up(capacity, cluster)
    clusters = data // cluster
    l2_tables = _up(clusters * l2_entry, cluster)
    l1_table = _up(l2_tables // cluster * 8, cluster)
    counted = clusters + (l2_tables + l1_table) // cluster + 1
    # The refcounts' own clusters, and those of the table of 8 bytes a block, are counted too.
    per_cluster = -(-refcount_bits // 8)
    share = per_cluster * (cluster + 8)
    refcounts = _up(counted * per_cluster * cluster**2 // (cluster**2 - share), cluster)
    refcount_table = _up(refcounts // cluster * 8, cluster)
    return _up(data + l2_tables + l1_table + refcounts + refcount_table + 2 * cluster, ALIGNMENT_BYTES)


def limit_of(volume: ThinVolume) -> float:
    """Return the size past which the volume is not grown: `largest_useful_size`, or infinity.

    A volume has no limit that has shown that it needs more: something lies past that size, or it ran full there.
    """
    largest = largest_useful_size(volume.capacity)
    if volume.allocated > largest or (volume.is_full and volume.physical >= largest):
        return math.inf
    return largest


def wanted_size(volume: ThinVolume) -> int:
    """Return the size that the volume should have: its own where enough is free, else enough chunks more.

    The size is never past the limit and never below the present size. A full volume gets at least one chunk.
    """
    return _size_for(volume, volume.allocated)


def threshold(volume: ThinVolume, *, physical: int) -> int:
    """Return the offset past which a write should send an event, for a volume that now has `physical` bytes.

    Return 0, which arms nothing, where the volume ends at its limit. A larger volume may be one that needs more.
    """
    largest = largest_useful_size(volume.capacity)
    armed = max(physical - volume.policy.high_watermark, 1)
    if physical < largest or volume.allocated > largest:
        return armed
    return max(armed, largest + 1) if physical > largest + 1 else 0


def plan(volume: ThinVolume) -> tuple[Extension, ...]:
    """Return the extension of a volume that has no mirror."""
    return _grow((volume, wanted_size(volume)))


def plan_replication(source: ThinVolume, mirror: ThinVolume) -> tuple[Extension, ...]:
    """Return the extensions while the source is replicated to the mirror, both on block storage.

    The destination always comes before the source, so that it is never the smaller one. A mirror that is ahead already,
    as one that takes a whole chain, does not pull its source along.
    """
    for_source, for_mirror = wanted_size(source), wanted_size(mirror)
    moves_in_step = mirror.physical <= source.physical
    if moves_in_step and for_mirror > mirror.physical:
        for_source = _limited(source, max(for_source, for_mirror))
    return _grow((mirror, _limited(mirror, max(for_mirror, for_source))), (source, for_source))


def plan_mirror_of_file(mirror: ThinVolume, source_allocated: int) -> tuple[Extension, ...]:
    """Return the extension of a mirror on block storage of a file: the greater need of the two counts."""
    need = max(mirror.allocated, min(source_allocated, largest_useful_size(mirror.capacity)))
    return _grow((mirror, _size_for(mirror, need)))


def _size_for(volume: ThinVolume, need: int) -> int:
    missing = need + volume.policy.high_watermark - volume.physical
    if volume.is_full:
        missing = max(missing, 1)
    if missing <= 0:
        return volume.physical
    chunks = -(-missing // volume.policy.chunk)
    return _limited(volume, _up(volume.physical + chunks * volume.policy.chunk, ALIGNMENT_BYTES))


def _limited(volume: ThinVolume, size: int) -> int:
    return max(volume.physical, int(min(size, limit_of(volume))))


def _grow(*sizes: tuple[ThinVolume, int]) -> tuple[Extension, ...]:
    return tuple(Extension(volume.path, size) for volume, size in sizes if size > volume.physical)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
