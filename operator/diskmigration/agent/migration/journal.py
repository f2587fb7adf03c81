"""The journal: what a migration has made and where it stands, kept in the libvirt domain's own metadata.

It is written before each act, survives the agent, libvirtd and the API server, goes with the VM, and is a lock: a disk
with somebody else's journal is refused. There is one element a disk, as a VM's disks may be moved at the same time.
"""

import json
import xml.etree.ElementTree as ET
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.keyed_locks import KeyedLocks
from diskmigration.agent.storage import qcow2_limits
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import (
    CopyMode,
    DiskMigration,
    Failure,
    Phase,
    RetainedVolume,
    SourceVolumes,
    VolumeFormat,
)
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.model import Model
from diskmigration.api.storage_domain import StorageDomain, StorageType

_NAMESPACE = "https://diskmigration.dev/journal/v1/"
_PREFIX = "diskmigration"

# By VM and disk: a VM that does not answer must not hold up the others.
_locks: KeyedLocks[tuple[str, str]] = KeyedLocks()


class JournalVolume(Model):
    """One volume of either side."""

    name: str
    path: str
    format: VolumeFormat
    type: StorageType
    capacity_bytes: int

    @property
    def image(self) -> Image:
        """As qemu-img is told of it."""
        return Image(Path(self.path), self.format, self.type)


class Stage(StrEnum):
    """How far the preparations have come that libvirt itself cannot tell."""

    BEGUN = "Begun"
    PREPARED = "Prepared"
    COPIED = "Copied"


class ColdSwitch(Model):
    """The persistent XML of a VM that was off names another volume, and that this was right is not proven yet.

    `old` and `new` are paths. The marks tell what was written to either before, where the kernel counts it
    (see storage/write_marks.py).
    """

    old: str
    new: str
    old_mark: str | None = None
    new_mark: str | None = None


class Journal(Model):
    """Chains are base first. `snapshot` is the migration's own volume on the source, `overlay` its copy.

    It is data: each property is one question that several steps ask of the same fields.
    Neither is there with strategy Direct, nor where the VM was shut off before a snapshot was taken.
    `is_write_blocking` tells that the mirror fell behind the guest, whose writes wait for the destination since.
    `has_cold_copy` tells that the mirror's volume has been written to by qemu-img, as the VM was shut off.
    `pivoting_to` is the path to which libvirt was asked to pivot, until it was seen to have done so.
    `has_cold_merge` tells that qemu-img merges on block storage, and that a VM that starts may have read what it was
    about to change.
    `persistent_disk` is the `<disk>` of the persistent definition as it was before libvirt replaced its source.
    `merge_base_end` is how far the volume that is merged into was filled before the merge was first tried, in bytes.
    `merge_since` is when it was first tried.
    `remarks` are sentences for the migration's last message, on what the user should know however it ends.
    `has_pivoted` tells that the disk was seen at the destination: from then on the guest writes there alone.
    `is_merged` tells that the migration's own volume above the guest's, the snapshot or after the pivot its copy, was
    merged: what the guest wrote to it is in the volume below, and the guest has written there since.
    `run` marks the run of QEMU in which the disk was last seen where the journal expects it (see hypervisor/runs.py).
    `libvirt_changes_owners` tells that libvirt was seen to give volumes to QEMU's user when the migration began. A VM
    that ends may leave nothing that shows it.
    `removes_source` tells that the removal of the source's volumes has begun.
    `retained_at_source` and `retained_at_destination` are what the clean-up kept.
    """

    migration: DiskMigration
    attempt: int
    stage: Stage = Stage.BEGUN
    source_domain: StorageDomain
    destination_domain: StorageDomain
    source: tuple[JournalVolume, ...]
    snapshot: JournalVolume | None = None
    destination: tuple[JournalVolume, ...]
    overlay: JournalVolume | None = None
    copy_bytes: tuple[int, ...] = ()
    copied: tuple[str, ...] = ()
    failure: Failure | None = None
    is_write_blocking: bool = False
    has_cold_copy: bool = False
    has_cold_merge: bool = False
    pivoting_to: str | None = None
    cold_switch: ColdSwitch | None = None
    persistent_disk: str | None = None
    merge_base_end: int | None = None
    merge_since: datetime | None = None
    remarks: tuple[str, ...] = ()
    has_pivoted: bool = False
    is_merged: bool = False
    run: str | None = None
    cancelled: bool = False
    cancelled_in: Phase | None = None
    outcome: Phase | None = None
    libvirt_changes_owners: bool = False
    removes_source: bool = False
    retained_at_source: tuple[RetainedVolume, ...] = ()
    retained_at_destination: tuple[RetainedVolume, ...] = ()

    @property
    def uid(self) -> str:
        """The migration's uid, from which all names derive."""
        return self.migration.metadata.uid

    @property
    def rolls_back(self) -> bool:
        """Whether it was given up: the way is back, unless the pivot has happened."""
        return self.failure is not None or self.cancelled

    @property
    def takes_snapshot(self) -> bool:
        """Whether the chain is frozen by a snapshot of the migration's own."""
        return self.snapshot is not None

    @property
    def is_switching(self) -> bool:
        """Whether the active layer was about to change, and which one it is now is not settled."""
        return self.pivoting_to is not None or self.cold_switch is not None

    @property
    def mirrored(self) -> JournalVolume:
        """The source's layer that is replicated."""
        return self.snapshot or self.source[-1]

    @property
    def mirror(self) -> JournalVolume:
        """The destination's layer that the mirror writes to."""
        return self.overlay or self.destination[-1]

    @property
    def at_source(self) -> tuple[JournalVolume, ...]:
        """Every volume on the source, base first."""
        return (*self.source, self.snapshot) if self.snapshot is not None else self.source

    @property
    def at_destination(self) -> tuple[JournalVolume, ...]:
        """Every volume at the destination, base first."""
        return (*self.destination, self.overlay) if self.overlay is not None else self.destination

    @property
    def volumes(self) -> tuple[JournalVolume, ...]:
        """Every volume of either side, the source's first."""
        return self.at_source + self.at_destination

    @property
    def left_behind(self) -> tuple[JournalVolume, ...]:
        """The volumes that the disk is not on any more when the migration has ended: those of the other side."""
        own = tuple(volume for volume in (self.snapshot, self.overlay) if volume is not None)
        return (self.source if self.outcome is Phase.SUCCEEDED else self.destination) + own

    def volume(self, path: str) -> JournalVolume:
        """Return the volume of either side with that path; KeyError if there is none."""
        return {volume.path: volume for volume in self.volumes}[path]

    def chain_of(self, volume: JournalVolume) -> tuple[Image, ...]:
        """Return the volume and all below it on its side, base first, as qemu-img is told of them."""
        side = self.at_source if volume in self.at_source else self.at_destination
        return tuple(below.image for below in side[: side.index(volume) + 1])

    @property
    def may_change(self) -> tuple[JournalVolume, ...]:
        """The user's volumes that this may extend or remove: the top one, which a snapshot is merged into, or all."""
        return self.source if self.migration.spec.source_volumes is SourceVolumes.DELETE else self.source[-1:]

    def below(self, volume: JournalVolume) -> JournalVolume | None:
        """Return the destination's volume on which that other one of it stands; None for its base."""
        side = self.at_destination
        return side[side.index(volume) - 1] if volume != side[0] else None

    @property
    def internal_copies(self) -> tuple[tuple[JournalVolume, JournalVolume], ...]:
        """What is copied by qemu-img before the mirror starts: source and destination volumes, base first.

        With one destination volume for a longer chain (Flatten), the top volume stands for all below it.
        """
        frozen = self.source if self.takes_snapshot else self.source[:-1]
        copies = self.destination if self.takes_snapshot else self.destination[:-1]
        if len(self.destination) == 1:
            return tuple(zip(frozen[-1:], copies, strict=False))
        return tuple(zip(frozen, copies, strict=True))

    @property
    def copy_mode(self) -> CopyMode:
        """How the active layer is mirrored: what Auto has come to."""
        if self.is_write_blocking:
            return CopyMode.WRITE_BLOCKING
        wanted = self.migration.spec.copy_mode
        return CopyMode.BACKGROUND if wanted is CopyMode.AUTO else wanted

    @property
    def can_be_write_blocking(self) -> bool:
        """Whether the mirror's volume can take a guest's writes before it has what lies below it.

        Its clusters are written by sector then, and qcow2 limits the size of a disk with such clusters.
        """
        is_small = self.mirror.capacity_bytes <= qcow2_limits.LARGEST_CAPACITY_BY_SECTOR
        return self.below(self.mirror) is None or is_small

    @property
    def flattens(self) -> bool:
        """Whether one volume is made of several."""
        return len(self.destination) < len(self.source)


def uri(disk: str) -> str:
    """Return the XML namespace of the journal of one disk."""
    return f"{_NAMESPACE}{disk}"


def read(domain: Domain, disk: str) -> Journal | None:
    """Return the disk's journal, whoever wrote it, or None.

    Raises:
        MigrationError: DiskBusy, when there is one that cannot be read: a newer agent's, or one edited by hand.
    """
    element = domain.metadata(uri(disk))
    if element is None:
        return None
    try:
        text = ET.fromstring(element).text or ""  # noqa: S314 - libvirt's own output, from the node's own daemon
        return Journal.model_validate_json(text)
    except (ET.ParseError, ValidationError) as error:
        raise MigrationError(
            Reason.DISK_BUSY,
            f"The disk {disk} of VM {domain.uuid} has a migration journal that this agent cannot read: {error}. "
            f"Look at it with `virsh metadata {domain.uuid} {uri(disk)}`.",
        ) from error


class JournalTakenError(MigrationError):
    """Another migration works on the disk, although this one had begun."""

    def __init__(self, disk: str, other: Journal) -> None:
        """`other` is the journal of the other one."""
        super().__init__(
            Reason.FOREIGN_CHANGE,
            f"The disk {disk} carries the journal of another DiskMigration, {other.migration.key}: the VM's definition "
            "was replaced in the meantime.",
        )


def write(domain: Domain, journal: Journal) -> None:
    """Write the journal of the disk to the live and the persistent XML.

    Raises:
        JournalTakenError: another migration has written one meanwhile; it stays.
    """
    disk = journal.migration.spec.disk
    element = ET.Element("journal")
    # Escaped to ASCII: a path may hold characters that no XML document may.
    element.text = json.dumps(journal.to_wire())
    with _locks.of((domain.uuid, disk)):
        other = read(domain, disk)
        if other is not None and other.uid != journal.uid and other.outcome is None:
            raise JournalTakenError(disk, other)
        domain.set_metadata(uri(disk), _PREFIX, ET.tostring(element, encoding="unicode"))


def erase(domain: Domain, journal: Journal) -> None:
    """Remove the journal, and the disk is free; one that the disk's next migration has written already stays."""
    disk = journal.migration.spec.disk
    with _locks.of((domain.uuid, disk)):
        found = read(domain, disk)
        if found is not None and found.uid == journal.uid:
            domain.set_metadata(uri(disk), _PREFIX, None)
