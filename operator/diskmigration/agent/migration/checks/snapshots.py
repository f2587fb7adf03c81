"""Whether a move would break what libvirt or a backup keeps of a disk beside its data: snapshots and dirty bitmaps."""

from collections.abc import Collection, Mapping, Sequence

from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.storage.qcow2_header import Bitmap
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason


def require_no_snapshots(description: DomainDescription, target: str, snapshots: Collection[str]) -> None:
    """Raise DiskBusy if libvirt keeps snapshots, given by name, that name volumes of the disk's chain."""
    if not snapshots:
        return
    names = ", ".join(sorted(snapshots))
    raise MigrationError(
        Reason.DISK_BUSY,
        f"libvirt keeps snapshots of the VM {description.name} that name volumes of its disk {target}: {names}. A "
        "revert to one would take the disk back to the old volumes. Delete each with "
        f"`virsh snapshot-delete {description.shell_name} NAME`, or have libvirt forget it and keep the volumes as "
        "they are with the same command and --metadata, then make a new DiskMigration.",
    )


def require_carried_bitmaps(
    plan: Journal, bitmaps: Mapping[str, Sequence[Bitmap]], *, checkpoints: Collection[str]
) -> None:
    """Raise DiskBusy if the move would lose what a persistent dirty bitmap of the chain has recorded.

    `bitmaps` is by the volume's path; `checkpoints` are the names of libvirt's checkpoints of the disk, whose bitmaps a
    running QEMU may not have written yet. libvirt carries those of the layer that it mirrors, qemu-img those of each
    layer that it copies. Source: qemuBlockBitmapsHandleBlockcopy and qemuBlockBitmapChainIsValid in libvirt's
    src/qemu/qemu_block.c.
    """
    names = {bitmap.name for found in bitmaps.values() for bitmap in found} | set(checkpoints)
    if not names:
        return
    spec = plan.migration.spec
    obstacles = (
        (plan.takes_snapshot, "strategy: Snapshot would lose what they have recorded. Use strategy: Direct"),
        (plan.flattens, "backingChain: Flatten would lose what they have recorded. Use backingChain: Preserve"),
        (spec.destination.format is not VolumeFormat.QCOW2, "a raw volume cannot have them. Use format: qcow2"),
    )
    for applies, obstacle in obstacles:
        if applies:
            raise MigrationError(
                Reason.DISK_BUSY,
                f"The disk {spec.disk} has dirty bitmaps of a backup ({', '.join(sorted(names))}), and {obstacle}, or "
                "delete the bitmaps and make a full backup after the move.",
            )
    layers = [(volume.path, {found.name: found for found in bitmaps.get(volume.path, ())}) for volume in plan.source]
    for name in layers[-1][1]:
        _require_valid(name, list(reversed(layers)))


def _require_valid(name: str, layers: Sequence[tuple[str, Mapping[str, Bitmap]]]) -> None:
    """Raise DiskBusy unless libvirt carries the bitmap; `layers` are active layer first."""
    has_ended = False
    for path, bitmaps in layers:
        bitmap = bitmaps.get(name)
        if bitmap is None:
            has_ended = True
        elif has_ended or not bitmap.is_enabled:
            obstacle = "is not in the volume above" if has_ended else "is disabled"
            raise MigrationError(
                Reason.DISK_BUSY,
                f"The dirty bitmap {name!r} of {path} {obstacle}, so libvirt would lose what it has recorded. Remove "
                f"it with `qemu-img bitmap --remove {path} {name}` while the VM is off, and make a full backup after "
                "the move.",
            )
