"""Whether a disk is of a kind that can be moved, from the VM's XML."""

from collections.abc import Sequence

from diskmigration.agent.hypervisor.domain_xml import DomainDisk, Layer
from diskmigration.agent.storage.driver import Identity
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

STORAGE_TYPES = {"file": StorageType.FILE, "block": StorageType.BLOCK}
"""libvirt's types of a disk that can be moved."""
_FIRST_PRINTABLE = 0x20


def unsupported(target: str, obstacle: str) -> MigrationError:
    """Return the refusal of a disk that cannot be moved as it is."""
    return MigrationError(Reason.DISK_NOT_SUPPORTED, f"The disk {target} cannot be moved: {obstacle}.")


def has_control_character(name: str) -> bool:
    """Return whether a volume's name has a control character, which libvirt's XML does not keep."""
    return any(ord(character) < _FIRST_PRINTABLE for character in name)


def require_movable_disk(disk: DomainDisk) -> None:
    """Raise DiskNotSupported if the device itself, whatever its volumes, cannot be moved."""
    obstacles = (
        (disk.device != "disk", f"it is a {disk.device}, not a disk"),
        (disk.type not in STORAGE_TYPES, f"its source is of type {disk.type}; only file and block can be moved"),
        (disk.readonly, "it is read-only"),
        (disk.shareable, "it is shareable, and another VM may write to it"),
        (disk.transient, "it is transient"),
    )
    for applies, obstacle in obstacles:
        if applies:
            raise unsupported(disk.target, obstacle)


def require_movable_layers(disk: DomainDisk) -> None:
    """Raise DiskNotSupported if a volume of the disk's chain, as far as that is known, cannot be moved."""
    for layer in disk.chain:
        if (obstacle := _obstacle_of_layer(layer)) is not None:
            raise unsupported(disk.target, obstacle)


def require_movable_chain(disk: DomainDisk) -> None:
    """Raise DiskNotSupported if a volume of the disk's chain cannot be moved, or if the chain is not known."""
    require_movable_layers(disk)
    if not disk.chain_is_known:
        raise unsupported(disk.target, "libvirt does not know its whole backing chain")


def require_chain_of_headers(
    disk: DomainDisk, *, named: Sequence[tuple[Identity, str]], found: Sequence[tuple[Identity, str]]
) -> None:
    """Raise DiskNotSupported if the VM's definition names another chain than the headers of the volumes.

    libvirt believes a `<backingStore>` in the definition when it starts the VM. Both chains are given as which file
    and format each volume is, active layer first; `found` is whole.
    """
    if named != (found if disk.chain_is_known else found[: len(named)]):
        raise unsupported(
            disk.target,
            "its <backingStore> names another chain than the headers of its volumes do. Remove the <backingStore> from "
            "the VM's definition, or correct it",
        )


def _obstacle_of_layer(layer: Layer) -> str | None:
    if layer.type not in STORAGE_TYPES:
        return f"the volume {layer.path} of its chain is of type {layer.type}"
    if layer.format not in list(VolumeFormat):
        return f"the volume {layer.path} has format {layer.format or 'unknown'}; only qcow2 and raw can be moved"
    if layer.has_special_access:
        return f"the volume {layer.path} is encrypted, a slice, or has its data in another file"
    if has_control_character(layer.path):
        return f"the name of the volume {layer.path!r} has a control character, which libvirt does not keep"
    return None
