"""How large each destination volume is made, and what has to be copied. Pure; sizes in bytes."""

from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES, largest_useful_size
from diskmigration.api.disk_migration import Provisioning, VolumeFormat


def frozen_volume_size(
    *, required: int, capacity: int, image_format: VolumeFormat, provisioning: Provisioning, is_whole_disk: bool
) -> int:
    """The size of a volume that is filled once from volumes that nobody writes to.

    Thin takes what the data needs. Raw is the whole disk, exactly. Thick is for the volume that stays: the disk and
    qcow2's own tables.
    """
    if image_format is VolumeFormat.RAW:
        return capacity
    if provisioning is Provisioning.THICK and is_whole_disk:
        return largest_useful_size(capacity)
    return _aligned(required)


def written_volume_size(*, allocated: int, at_least: int, capacity: int, chunk: int) -> int:
    """The size of a volume that a guest or a mirror is going to write to: what is there, and a chunk of head room.

    Never below `at_least`: a mirror that starts smaller than its source may fill up before the first extension.
    """
    return min(max(_aligned(allocated + chunk), _aligned(at_least)), largest_useful_size(capacity))


def fresh_volume_size(*, capacity: int, chunk: int) -> int:
    """The size of a layer that nothing was written to yet: a chunk of head room."""
    return written_volume_size(allocated=0, at_least=0, capacity=capacity, chunk=chunk)


def merged_volume_size(*, base_size: int, overlay_allocated: int, high_watermark: int, capacity: int) -> int:
    """The size that a volume needs before an overlay is merged into it, if none of the overlay's data is there yet."""
    return max(base_size, min(_aligned(base_size + overlay_allocated + high_watermark), largest_useful_size(capacity)))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
