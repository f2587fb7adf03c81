"""The disks of a running VM that have thin volumes, by its XML and statistics. Pure but for the storage asked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diskmigration.agent.extender import watermark, write_rate
from diskmigration.agent.extender.plausibility import HighWater, why_impossible
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.locations import Locate
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageType


@dataclass(frozen=True)
class OpenVolume:
    """A thin volume on block storage that a running VM, its mirror or its merge writes to, by one report."""

    statistics: LayerStatistics
    domain: OpenDomain
    volume: str
    thin: watermark.ThinVolume

    @property
    def device(self) -> str:
        """The volume by libvirt's name, `vda[2]`, which does not come again while the VM runs."""
        return self.statistics.device

    @property
    def path(self) -> str:
        """Where QEMU finds the volume."""
        return self.thin.path

    @property
    def free(self) -> int:
        """How much the guest can write until the volume is full, in bytes."""
        return self.thin.physical - self.thin.allocated


@dataclass(frozen=True)
class ThinDisk:
    """One disk with thin volumes, by one report.

    `source_allocated` is what the active layer takes where that is a file and the mirror is on block storage.
    `is_known` is False where a figure is missing that decides on a volume: that volume is left out.
    """

    target: str
    active: OpenVolume | None
    mirror: OpenVolume | None
    is_copy: bool
    source_allocated: int = 0
    is_known: bool = True

    @property
    def volumes(self) -> tuple[OpenVolume, ...]:
        """Return the thin volumes, the mirror first."""
        return tuple(volume for volume in (self.mirror, self.active) if volume is not None)

    def without(self, paths: Collection[str]) -> "ThinDisk":
        """Return the disk without the volumes at these paths: the other one grows by what is known of itself."""
        active = None if self.active is None or self.active.path in paths else self.active
        mirror = None if self.mirror is None or self.mirror.path in paths else self.mirror
        return replace(self, active=active, mirror=mirror)

    def adapted(self, rates: Mapping[str, float], *, latency: float) -> "ThinDisk":
        """Return the disk with the policies for these write rates by device, where an extension takes that long.

        A mirror gets what its source gets, as all that is written to the source is written to the mirror too. The copy
        itself fills the mirror alone.
        """
        fastest = max(rates.values(), default=0.0)
        return replace(
            self,
            active=_adapted(self.active, rates[self.active.device], latency) if self.active is not None else None,
            mirror=_adapted(self.mirror, fastest, latency) if self.mirror is not None else None,
        )

    def plan(self) -> tuple[watermark.Extension, ...]:
        """Return the extensions that are due, in their order."""
        if self.active is not None and self.mirror is not None and self.is_copy:
            return watermark.plan_replication(self.active.thin, self.mirror.thin)
        if self.active is None and self.mirror is not None and self.is_copy:
            return watermark.plan_mirror_of_file(self.mirror.thin, self.source_allocated)
        return tuple(extension for volume in self.volumes for extension in watermark.plan(volume.thin))


def _adapted(volume: OpenVolume, rate: float, latency: float) -> OpenVolume:
    policy = write_rate.adapted_policy(volume.thin.policy, rate=rate, latency=latency)
    return replace(volume, thin=replace(volume.thin, policy=policy))


def thin_disks(
    description: DomainDescription,
    statistics: DomainStatistics,
    locate: Locate,
    *,
    without_space: frozenset[str] = frozenset(),
) -> tuple[ThinDisk, ...]:
    """Return the VM's disks with a volume that is, or may be, thin, on block storage and written to."""
    by_index: Mapping[int, LayerStatistics] = {layer.index: layer for layer in statistics.layers}
    disks = (
        _thin_disk(disk, by_index, locate, is_full=disk.target in without_space)
        for disk in description.disks
        if disk.active is not None and not disk.readonly
    )
    return tuple(disk for disk in disks if disk.volumes or not disk.is_known)


def disk_by_event(
    description: DomainDescription, known: DomainStatistics, locate: Locate, *, target: str
) -> ThinDisk | None:
    """Return one disk by statistics that may be a little old, with the sizes that its volumes have now.

    Return None where the statistics are of other volumes than the disk has now, or implausible. A mirror that they do
    not have must not be ignored.

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
    disk = _thin_disk(found, by_index, locate, is_full=False)
    disk = replace(disk, active=_measured(disk.active), mirror=_measured(disk.mirror))
    is_possible = all(why_impossible(volume.thin, HighWater()) is None for volume in disk.volumes)
    return disk if disk.volumes and disk.is_known and is_possible else None


def _measured(volume: OpenVolume | None) -> OpenVolume | None:
    if volume is None:
        return None
    physical = max(volume.thin.physical, volume.domain.driver.size_bytes(volume.volume))
    return replace(volume, thin=replace(volume.thin, physical=physical))


def _thin_disk(disk: DomainDisk, by_index: Mapping[int, LayerStatistics], locate: Locate, *, is_full: bool) -> ThinDisk:
    mirror_layer = disk.mirror.layer if disk.mirror is not None else None
    active: OpenVolume | None = None
    mirror: OpenVolume | None = None
    source_allocated: int | None = 0
    is_known = True
    try:
        active = _volume(disk.active, by_index, locate, replicating=mirror_layer is not None, is_full=is_full)
    except _UnknownError:
        is_known = False
    try:
        mirror = _volume(mirror_layer, by_index, locate, replicating=True, is_full=False)
    except _UnknownError:
        is_known = False
    if mirror is not None and disk.active is not None and disk.active.type == "file":
        source_allocated = _allocated_of_file(disk.active, by_index)
    return ThinDisk(
        target=disk.target,
        active=active,
        mirror=mirror,
        is_copy=disk.mirror is not None and disk.mirror.job == "copy",
        source_allocated=source_allocated or 0,
        is_known=is_known and source_allocated is not None,
    )


class _UnknownError(Exception):
    """A figure is missing that decides on a volume."""


def _volume(
    layer: Layer | None,
    by_index: Mapping[int, LayerStatistics],
    locate: Locate,
    *,
    replicating: bool,
    is_full: bool,
) -> OpenVolume | None:
    """Return the layer as a thin volume; None for a file, a raw volume, or one of no known storage domain.

    Type and format are checked, not assumed: a block volume taken for a file, or the reverse, is extended without end
    (BZ1176673).

    Raises:
        _UnknownError: libvirt did not give its sizes, or its storage domain cannot be determined.
    """
    if layer is None or layer.type != "block" or layer.format != "qcow2" or layer.index is None:
        return None
    found = by_index.get(layer.index)
    if found is None:
        return None
    try:
        located = locate(layer.index, layer.path)
    except MigrationError as error:
        raise _UnknownError from error
    if located is None or located[0].domain.spec.type is not StorageType.BLOCK:
        return None
    if found.allocated_bytes is None or found.physical_bytes is None or found.capacity_bytes is None:
        raise _UnknownError
    domain, volume = located
    thin = domain.domain.spec.thin_provisioning
    return OpenVolume(
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
    """Return what the source's file takes, in bytes: a qcow2 by its length, a raw file by its blocks; None if unknown.

    The file system is asked, as libvirt's allocation is 0 until the first write since QEMU opened the file.
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
