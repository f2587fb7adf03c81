"""Whether a volume can be moved, from its own qcow2 header: libvirt does not tell all of it, or not as it is."""

from collections.abc import Iterable

from diskmigration.agent.migration.checks.disk import has_control_character, unsupported
from diskmigration.agent.storage.qcow2_header import Header
from diskmigration.api.errors import MigrationError, Reason

_UNDECODED = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""Python's characters for bytes in a file's name that are no UTF-8."""


def require_movable_headers(target: str, headers: Iterable[tuple[str, Header]]) -> None:
    """Raise if the header of a volume, given with its path, shows that it cannot be moved.

    Raises:
        MigrationError: DiskNotSupported; DiskBusy, where a volume has internal snapshots.
    """
    for path, header in headers:
        if header.snapshot_count:
            raise MigrationError(
                Reason.DISK_BUSY,
                f"The volume {path} of disk {target} has {header.snapshot_count} internal snapshots, which a copy "
                f"would lose. See `qemu-img snapshot -l {path}`. Delete those of libvirt with `virsh snapshot-delete`, "
                "others with `qemu-img snapshot -d` while the VM is off, then make a new DiskMigration.",
            )
        if (obstacle := _obstacle_of_header(path, header)) is not None:
            raise unsupported(target, obstacle)


def _obstacle_of_header(path: str, header: Header) -> str | None:
    if header.is_encrypted:
        return f"the volume {path} is encrypted"
    if header.has_data_file:
        return f"the volume {path} has its data in another file"
    if has_control_character(header.backing_name) or _UNDECODED.intersection(header.backing_name):
        return f"libvirt does not keep the name of the volume below {path}, {header.backing_name!r}"
    return None
