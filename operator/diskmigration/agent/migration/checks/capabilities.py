"""Check that libvirt and QEMU can do what a migration plans."""

from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.migration.checks.disk import unsupported
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.storage import qcow2_limits, qemu_image
from diskmigration.api.disk_migration import CopyMode, VolumeFormat
from diskmigration.api.quantity import human_readable

_LONGEST_CHAIN = 200
"""QEMU_DOMAIN_STORAGE_SOURCE_CHAIN_MAX_DEPTH in libvirt's src/qemu/qemu_domain.c."""


def require_possible(plan: Journal, disk: DomainDisk) -> None:
    """Raise DiskNotSupported if libvirt or QEMU would refuse a step of the plan, or fail at it."""
    longest_name = max(
        qemu_image.name_bytes(volume.image for volume in side) for side in (plan.source, plan.destination)
    )
    obstacles = (
        (
            plan.takes_snapshot and disk.copy_on_read,
            "it has copy_on_read='on', with which libvirt merges no snapshot. Use strategy: Direct",
        ),
        (
            plan.takes_snapshot and len(plan.source) >= _LONGEST_CHAIN,
            f"its chain has {len(plan.source)} layers, and libvirt allows no snapshot of more than "
            f"{_LONGEST_CHAIN - 1}. Use strategy: Direct, or shorten the chain with `virsh blockcommit`",
        ),
        (
            longest_name > qemu_image.LONGEST_NAME_BYTES,
            f"its chain of {len(plan.source)} layers has so long paths that qemu-img cannot be told of it. Shorten the "
            "chain with `virsh blockcommit`",
        ),
        (
            plan.migration.spec.copy_mode is CopyMode.WRITE_BLOCKING and not plan.can_be_write_blocking,
            f"of {human_readable(plan.mirror.capacity_bytes)} it is too large for copyMode: WriteBlocking. Use "
            "copyMode: Background",
        ),
        (
            any(
                volume.format is VolumeFormat.QCOW2 and volume.capacity_bytes > qcow2_limits.LARGEST_CAPACITY
                for volume in plan.at_destination
            ),
            f"it is larger than the {human_readable(qcow2_limits.LARGEST_CAPACITY)} that a qcow2 volume with clusters "
            "of 64 KiB can have",
        ),
    )
    for applies, obstacle in obstacles:
        if applies:
            raise unsupported(plan.migration.spec.disk, obstacle)
