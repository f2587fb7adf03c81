"""The disk of a VM that is shut off: libvirt has not walked its backing chain, so the volumes' headers are read.

They are read as libvirt does when the VM starts: only what the VM's XML or the qcow2 volume above says to be qcow2 is
taken for that, and a guest can write neither. Each volume must lie in a storage domain, and none is opened by what a
header says before that was found to be so.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from diskmigration.agent.hypervisor.domain_xml import DomainDisk, Layer
from diskmigration.agent.migration.checks.disk import unsupported
from diskmigration.agent.storage import qcow2_header
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_LONGEST_CHAIN = 256
"""libvirt starts no VM whose chain is longer than 200, but such a disk can still be moved, and flattened by it."""


@dataclass(frozen=True)
class MeasuredDisk:
    """A disk with its whole chain, and the virtual size of each layer in bytes, active layer first."""

    disk: DomainDisk
    capacities: tuple[int, ...]


def read(disk: DomainDisk, domains: StorageDomains) -> MeasuredDisk:
    """Walk the chain from the active layer down; its volumes are made ready for use on this node.

    Raises:
        MigrationError: SourceNotInStorageDomain, DiskNotSupported, StorageFailed.
    """
    layers: list[Layer] = []
    capacities: list[int] = []
    layer = disk.active
    while layer is not None:
        if len(layers) == _LONGEST_CHAIN or layer.path in [known.path for known in layers]:
            raise unsupported(disk.target, f"its backing chain does not end at {layer.path}")
        domain, volume = _located(disk, layer, domains)
        layers.append(layer)
        below = None
        if layer.format == VolumeFormat.QCOW2:
            header = _header(disk, layer)
            capacities.append(header.capacity_bytes)
            below = _layer_below(disk, layer, header, domains)
        else:
            capacities.append(domain.driver.size_bytes(volume))
        layer = below
    return MeasuredDisk(replace(disk, chain=tuple(layers), chain_is_known=True), tuple(capacities))


def _located(disk: DomainDisk, layer: Layer, domains: StorageDomains) -> tuple[OpenDomain, str]:
    located = domains.locate(Path(layer.path))
    if located is None:
        raise MigrationError(
            Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
            f"The volume {layer.path} of disk {disk.target} is not there, or lies in no StorageDomain of this node. "
            "Create one for the place where it lies.",
        )
    domain, volume = located
    domain.driver.activate(volume)
    return located


def _header(disk: DomainDisk, layer: Layer) -> qcow2_header.Header:
    header = qcow2_header.read(Path(layer.path))
    obstacles = {
        "is encrypted": header.is_encrypted,
        "is marked as corrupt; see `qemu-img check`": header.is_corrupt,
        "keeps its data in another file": header.has_data_file,
    }
    if (obstacle := next((obstacle for obstacle, applies in obstacles.items() if applies), None)) is not None:
        raise unsupported(disk.target, f"the volume {layer.path} {obstacle}")
    return header


def _layer_below(disk: DomainDisk, layer: Layer, header: qcow2_header.Header, domains: StorageDomains) -> Layer | None:
    name = header.backing_name
    if not name:
        return None
    if not header.backing_format:
        raise unsupported(disk.target, f"the volume {layer.path} does not say which format the one below it has")
    if ":" in name.partition("/")[0] or "\0" in name:
        raise unsupported(disk.target, f"the volume below {layer.path} is {name!r}, not a file or block device")
    path = Path(layer.path).parent / name
    located = domains.locate(path)
    is_block = located is not None and located[0].domain.spec.type is StorageType.BLOCK
    return Layer(type="block" if is_block else "file", path=str(path), format=header.backing_format, index=None)
