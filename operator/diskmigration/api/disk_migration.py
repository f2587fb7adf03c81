"""DiskMigration: one move of one disk."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, ValidationError

from diskmigration.api.conditions import Condition
from diskmigration.api.errors import Reason
from diskmigration.api.model import Model, ObjectMeta, Time
from diskmigration.api.quantity import PositiveBytes
from diskmigration.api.storage_domain import StorageType

MAX_SECONDS = 2**31 - 1
"""The longest time that may be asked for: 68 years, which any date can be moved by."""


class Phase(StrEnum):
    """Where a migration stands, for people; in the order in which they come."""

    PENDING = "Pending"
    SCHEDULED = "Scheduled"
    SNAPSHOTTING = "Snapshotting"
    PREPARING_DESTINATION = "PreparingDestination"
    COPYING_CHAIN = "CopyingChain"
    REPLICATING = "Replicating"
    SYNCHRONIZED = "Synchronized"
    PIVOTING = "Pivoting"
    MERGING = "Merging"
    CLEANING_UP = "CleaningUp"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)

    @property
    def belongs_to_operator(self) -> bool:
        """Whether the operator writes it; the agent writes everything from Snapshotting on."""
        return self in (Phase.PENDING, Phase.SCHEDULED)


class VolumeFormat(StrEnum):
    """The image format of a volume."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Provisioning(StrEnum):
    """Thin grows as the guest writes; Thick has its whole size from the start."""

    THIN = "Thin"
    THICK = "Thick"


class BackingChain(StrEnum):
    """Preserve keeps the chain's shape; Flatten makes one volume of it."""

    PRESERVE = "Preserve"
    FLATTEN = "Flatten"


class Strategy(StrEnum):
    """Snapshot copies the frozen chain first and mirrors a fresh active layer; Direct mirrors the active layer."""

    SNAPSHOT = "Snapshot"
    DIRECT = "Direct"


class CopyMode(StrEnum):
    """WriteBlocking makes each guest write wait for the destination, so that the mirror never falls behind.

    Auto is Background until it does.
    """

    BACKGROUND = "Background"
    WRITE_BLOCKING = "WriteBlocking"
    AUTO = "Auto"


class CutoverPolicy(StrEnum):
    """Manual holds a synchronized migration until it becomes Automatic."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class SourceVolumes(StrEnum):
    """What becomes of the source's volumes after a success."""

    DELETE = "Delete"
    RETAIN = "Retain"


class VolumeRole(StrEnum):
    """A volume's place in its backing chain."""

    INTERNAL = "Internal"
    ACTIVE = "Active"
    SNAPSHOT = "Snapshot"


class VirtualMachineReference(Model):
    """A libvirt domain by name, by uuid, or by both, and then both must match."""

    name: str | None = None
    uuid: str | None = None
    node_name: str | None = None

    def __str__(self) -> str:
        """As a message names it."""
        named = f'"{self.name}"' if self.name else "of any name"
        return f"{named} (uuid {self.uuid})" if self.uuid else named


class Source(Model):
    """Where the disk has to be for it to be moved."""

    storage_domain_name: str


class Destination(Model):
    """Where the disk goes."""

    storage_domain_name: str
    format: VolumeFormat = VolumeFormat.QCOW2
    provisioning: Provisioning = Provisioning.THIN


class Cutover(Model):
    """When the pivot may happen."""

    policy: CutoverPolicy = CutoverPolicy.AUTOMATIC
    not_before: Time | None = None


class DiskMigrationSpec(Model):
    """What the user asks for; sizes in bytes and times in seconds once read."""

    virtual_machine: VirtualMachineReference
    disk: str
    source: Source | None = None
    destination: Destination
    backing_chain: BackingChain = BackingChain.PRESERVE
    strategy: Strategy = Strategy.SNAPSHOT
    copy_mode: CopyMode = CopyMode.BACKGROUND
    bandwidth: PositiveBytes | None = None
    cutover: Cutover = Cutover()
    suspend: bool = False
    cancel: bool = False
    source_volumes: SourceVolumes = SourceVolumes.DELETE
    progress_timeout_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] = 900
    active_deadline_seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = None
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MAX_SECONDS)] | None = None


class Volume(Model):
    """One volume of one side of the move."""

    name: str
    role: VolumeRole
    path: str
    format: VolumeFormat
    capacity_bytes: int = 0
    size_bytes: int = 0
    allocated_bytes: int = 0
    extensions: int = 0


class RetainedVolume(Model):
    """A volume that was not removed when the rest was, and why."""

    name: str
    path: str
    reason: str


class Side(Model):
    """The source or the destination as it was found or made."""

    storage_domain_name: str
    type: StorageType
    volumes: tuple[Volume, ...] = ()
    retained: tuple[RetainedVolume, ...] = ()


class Progress(Model):
    """Over the whole move; never going back within an attempt."""

    copied_bytes: int = 0
    total_bytes: int = 0
    percent: int = 0
    bytes_per_second: int = 0
    estimated_completion_time: Time | None = None


class Estimate(Model):
    """What a move would take; the time is absent where no rate between the two storage domains is known."""

    bytes: int
    seconds: int | None = None


class Effective(Model):
    """What was resolved from the spec, the storage domains and the defaults."""

    bandwidth_bytes_per_second: int | None = None
    chunk_size_bytes: int | None = None
    high_watermark_bytes: int | None = None
    format: VolumeFormat | None = None
    copy_mode: CopyMode | None = None


class Failure(Model):
    """Why it was refused or failed, and in which phase."""

    reason: Reason
    message: str
    phase: Phase


class Display(Model):
    """What kubectl's columns print, as a column cannot format a number; programs read the numbers."""

    progress: str | None = None
    allocated: str | None = None
    rate: str | None = None
    retained: str | None = None


class DiskMigrationStatus(Model):
    """What was observed; see the CRD for who writes which field."""

    observed_generation: int = -1
    node_name: str | None = None
    phase: Phase | None = None
    conditions: tuple[Condition, ...] = ()
    start_time: Time | None = None
    synchronized_time: Time | None = None
    pivoted_time: Time | None = None
    completion_time: Time | None = None
    last_progress_time: Time | None = None
    attempts: int = 0
    queue_position: int | None = None
    estimate: Estimate | None = None
    effective: Effective | None = None
    allocated_bytes: int | None = None
    progress: Progress | None = None
    source: Side | None = None
    destination: Side | None = None
    failure: Failure | None = None
    display: Display | None = None


def read_status(status: Mapping[str, Any]) -> DiskMigrationStatus:
    """A status that another version, or somebody by hand, may have written: what cannot be read is passed over."""
    try:
        return DiskMigrationStatus.from_wire(status)
    except ValidationError:
        return DiskMigrationStatus.from_wire({name: value for name, value in status.items() if _is_read(name, value)})


def _is_read(name: str, value: object) -> bool:
    try:
        DiskMigrationStatus.from_wire({name: value})
    except ValidationError:
        return False
    return True


class DiskMigration(Model):
    """One migration."""

    metadata: ObjectMeta
    spec: DiskMigrationSpec
    status: DiskMigrationStatus = DiskMigrationStatus()

    @property
    def key(self) -> str:
        """`namespace/name`, as logs and messages say it."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class ConditionType(StrEnum):
    """The conditions of a DiskMigration."""

    ACCEPTED = "Accepted"
    SYNCHRONIZED = "Synchronized"
    SUCCEEDED = "Succeeded"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    CONVERGING = "Converging"
