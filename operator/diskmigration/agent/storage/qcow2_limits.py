"""How large a disk a qcow2 volume can have. Source: QCOW_MAX_L1_SIZE in QEMU's block/qcow2.h."""

_MOST_L1_ENTRIES = 32 * 2**20 // 8
CLUSTER_BYTES = 65536
"""The clusters of the qcow2 volumes that this project makes, if they are not made to be written by sector."""
CLUSTER_BYTES_BY_SECTOR = 16384
"""The clusters of volumes with subclusters of 512 bytes."""


def largest_capacity(cluster_bytes: int, *, has_subclusters: bool) -> int:
    """Return the largest virtual size of a qcow2 volume with such clusters, in bytes."""
    entry_bytes = 16 if has_subclusters else 8
    return _MOST_L1_ENTRIES * (cluster_bytes // entry_bytes) * cluster_bytes


LARGEST_CAPACITY = largest_capacity(CLUSTER_BYTES, has_subclusters=False)
LARGEST_CAPACITY_BY_SECTOR = largest_capacity(CLUSTER_BYTES_BY_SECTOR, has_subclusters=True)
