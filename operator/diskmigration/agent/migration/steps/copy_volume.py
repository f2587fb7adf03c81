"""The copy of one volume that nobody writes to, by qemu-img: what it opens, and what it carries beside the data."""

from collections.abc import Callable
from pathlib import Path

from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.storage import qcow2_header, qemu_image, qemu_img
from diskmigration.agent.storage.qcow2_limits import CLUSTER_BYTES
from diskmigration.api.disk_migration import VolumeFormat


def copy_volume(
    journal: Journal,
    source: JournalVolume,
    destination: JournalVolume,
    *,
    bandwidth: int | None,
    on_progress: Callable[[float], None],
    keep_on: Callable[[], bool],
    on_beat: Callable[[], None],
) -> bool:
    """Copy a volume of the source onto its counterpart, with its dirty bitmaps; see qemu_img.copy.

    Raises:
        MigrationError: CopyFailed; NoRoomError.
    """
    chain, onto = journal.chain_of(source), journal.chain_of(destination)
    is_one_volume = len(chain) == 1 or len(onto) > 1
    return qemu_img.copy(
        chain,
        onto,
        target_is_zero=qemu_image.is_zero_when_fresh(destination.image),
        bandwidth_bytes_per_second=bandwidth,
        on_progress=on_progress,
        keep_on=keep_on,
        on_beat=on_beat,
        alone_bytes=destination.capacity_bytes if stands_alone(journal, source) else None,
        with_bitmaps=is_one_volume and destination.format is VolumeFormat.QCOW2 and _has_bitmaps(source),
    )


def stands_alone(journal: Journal, source: JournalVolume) -> bool:
    """Return whether the volume's copy reads nothing of the copy below it, which then need not be there yet.

    A cluster that is written in part is filled up from below: none is, where the source's are as large.
    """
    if source == journal.source[0] or source.format is not VolumeFormat.QCOW2:
        return True
    header = qcow2_header.read(Path(source.path))
    return header.cluster_bytes >= CLUSTER_BYTES and not header.has_subclusters


def _has_bitmaps(volume: JournalVolume) -> bool:
    if volume.format is not VolumeFormat.QCOW2:
        return False
    return qcow2_header.read(Path(volume.path)).bitmap_directory is not None
