"""Which volumes of a running VM are to be watched, read from its XML and statistics. Pure but for the domains asked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diskmigration.agent.extender import watermark
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageType


@dataclass(frozen=True)
class WatchedVolume:
    """A thin volume on block storage that a running VM, its mirror or its merge writes to."""

    statistics: LayerStatistics
    domain: OpenDomain
    volume: str
    thin: watermark.ThinVolume


@dataclass(frozen=True)
class WatchedDisk:
    """One disk with something to watch.

    `source_allocated` is what the active layer takes where that is a file and the mirror is on block storage.
    `is_known` is False where something of a volume is not known that decides on it: that volume is left out.
    """

    target: str
    active: WatchedVolume | None
    mirror: WatchedVolume | None
    is_copy: bool
    source_allocated: int = 0
    is_known: bool = True

    @property
    def volumes(self) -> tuple[WatchedVolume, ...]:
        """What is watched: the mirror first."""
        return tuple(volume for volume in (self.mirror, self.active) if volume is not None)

    def without(self, paths: Collection[str]) -> "WatchedDisk":
        """The disk with the volumes at these paths left out: the other one grows by what is known of itself."""
        active = None if self.active is None or self.active.thin.path in paths else self.active
        mirror = None if self.mirror is None or self.mirror.thin.path in paths else self.mirror
        return replace(self, active=active, mirror=mirror)

    def plan(self) -> tuple[watermark.Extension, ...]:
        """The extensions that are due, in their order."""
        if self.active is not None and self.mirror is not None and self.is_copy:
            return watermark.plan_replication(self.active.thin, self.mirror.thin)
        if self.active is None and self.mirror is not None and self.is_copy:
            return watermark.plan_mirror_of_file(self.mirror.thin, self.source_allocated)
        return tuple(extension for volume in self.volumes for extension in watermark.plan(volume.thin))


def watched_disks(
    description: DomainDescription,
    statistics: DomainStatistics,
    domains: StorageDomains,
    *,
    without_space: frozenset[str] = frozenset(),
) -> tuple[WatchedDisk, ...]:
    """The VM's disks of which at least one volume is thin, on block storage and written to, or may be so."""
    by_index: Mapping[int, LayerStatistics] = {layer.index: layer for layer in statistics.layers}
    disks = (
        _watched(disk, by_index, domains, is_full=disk.target in without_space)
        for disk in description.disks
        if disk.active is not None and not disk.readonly
    )
    return tuple(disk for disk in disks if disk.volumes or not disk.is_known)


def watched_as_known(
    description: DomainDescription, known: DomainStatistics, domains: StorageDomains, *, target: str
) -> WatchedDisk | None:
    """One disk from statistics that may be a little old, with the sizes that its volumes have now.

    None where they are of other volumes than the disk has now, or cannot be true: a mirror that they do not know, say,
    must not be left out of account.

    Raises:
        MigrationError: a size cannot be read.
    """
    found = description.disk(target)
    if found is None or found.active is None or found.readonly:
        return None
    by_index = {layer.index: layer for layer in known.layers if layer.target == target}
    in_use = [found.active] if found.mirror is None else [found.active, found.mirror.layer]
    for layer in in_use:
        at_index = by_index.get(layer.index) if layer.index is not None else None
        if at_index is None or at_index.path != layer.path:
            return None
    disk = _watched(found, by_index, domains, is_full=False)
    disk = replace(disk, active=_measured(disk.active), mirror=_measured(disk.mirror))
    is_possible = all(watermark.why_impossible(volume.thin, watermark.HighWater()) is None for volume in disk.volumes)
    return disk if disk.volumes and disk.is_known and is_possible else None


def _measured(volume: WatchedVolume | None) -> WatchedVolume | None:
    if volume is None:
        return None
    physical = max(volume.thin.physical, volume.domain.driver.size_bytes(volume.volume))
    return replace(volume, thin=replace(volume.thin, physical=physical))


def _watched(
    disk: DomainDisk, by_index: Mapping[int, LayerStatistics], domains: StorageDomains, *, is_full: bool
) -> WatchedDisk:
    mirror_layer = disk.mirror.layer if disk.mirror is not None else None
    active: WatchedVolume | None = None
    mirror: WatchedVolume | None = None
    source_allocated: int | None = 0
    is_known = True
    try:
        active = _volume(disk.active, by_index, domains, replicating=mirror_layer is not None, is_full=is_full)
    except _UnknownError:
        is_known = False
    try:
        mirror = _volume(mirror_layer, by_index, domains, replicating=True, is_full=False)
    except _UnknownError:
        is_known = False
    if mirror is not None and disk.active is not None and disk.active.type == "file":
        source_allocated = _allocated_of_file(disk.active, by_index)
    return WatchedDisk(
        target=disk.target,
        active=active,
        mirror=mirror,
        is_copy=disk.mirror is not None and disk.mirror.job == "copy",
        source_allocated=source_allocated or 0,
        is_known=is_known and source_allocated is not None,
    )


class _UnknownError(Exception):
    """Something of a volume is not known that decides on it."""


def _volume(
    layer: Layer | None,
    by_index: Mapping[int, LayerStatistics],
    domains: StorageDomains,
    *,
    replicating: bool,
    is_full: bool,
) -> WatchedVolume | None:
    """The layer as a watched volume; None for a file, a raw volume, or one of no known domain.

    Type and format are asserted, not assumed: a block volume taken for a file, or the reverse, is extended without end
    (BZ1176673).

    Raises:
        _UnknownError: libvirt did not give its sizes, or its storage domain cannot be told.
    """
    if layer is None or layer.type != "block" or layer.format != "qcow2" or layer.index is None:
        return None
    found = by_index.get(layer.index)
    if found is None:
        return None
    try:
        located = domains.locate_in_any(Path(layer.path))
    except MigrationError as error:
        raise _UnknownError from error
    if located is None or located[0].domain.spec.type is not StorageType.BLOCK:
        return None
    if found.allocated_bytes is None or found.physical_bytes is None or found.capacity_bytes is None:
        raise _UnknownError
    domain, volume = located
    thin = domain.domain.spec.thin_provisioning
    return WatchedVolume(
        statistics=found,
        domain=domain,
        volume=volume,
        thin=watermark.ThinVolume(
            path=layer.path,
            allocated=found.allocated_bytes,
            physical=found.physical_bytes,
            capacity=found.capacity_bytes,
            policy=watermark.Policy(
                high_watermark=thin.high_watermark,
                chunk=thin.replication_chunk_size if replicating else thin.chunk_size,
            ),
            is_full=is_full,
        ),
    )


def _allocated_of_file(layer: Layer, by_index: Mapping[int, LayerStatistics]) -> int | None:
    """What the source's file takes, in bytes: a qcow2 by its length, a raw file by its blocks, or what libvirt saw.

    The volume's size on disk is asked, as libvirt's allocation is 0 until the first write of this open. None where
    neither is known.
    """
    statistics = by_index.get(layer.index) if layer.index is not None else None
    allocated = statistics.allocated_bytes if statistics is not None else None
    try:
        found = Path(layer.path).stat()
    except OSError:
        return allocated
    if layer.format == "raw":
        return found.st_blocks * 512
    return max(found.st_size, allocated or 0)
