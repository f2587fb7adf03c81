"""StorageDomain: where disks may live."""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field, model_validator

from diskmigration.api.available_floor import AvailableFloor, MinAvailable
from diskmigration.api.conditions import Condition
from diskmigration.api.model import Model, ObjectMeta
from diskmigration.api.quantity import PositiveBytes

MEBIBYTE = 2**20
GIBIBYTE = 2**30
EVERY_NAMESPACE = "*"


class StorageType(StrEnum):
    """What a volume of the domain is to QEMU: a file, or a block device."""

    FILE = "File"
    BLOCK = "Block"


class FileDomain(Model):
    """A directory: local, NFS, any POSIX file system."""

    path: str


class LoopDomain(Model):
    """Files behind loop devices: block storage without an array, for development and tests."""

    path: str


class WipeAfterDelete(StrEnum):
    """What becomes of a volume's data before its extents go to somebody else."""

    NONE = "None"
    DISCARD = "Discard"
    ZERO_OUT = "ZeroOut"


class LvmDomain(Model):
    """A volume group: thin qcow2 on logical volumes."""

    volume_group: str
    wipe_after_delete: WipeAfterDelete = WipeAfterDelete.NONE


class ThinProvisioning(Model):
    """When and by how much a thin volume on block storage is extended; sizes in bytes once read."""

    high_watermark: PositiveBytes = 512 * MEBIBYTE
    chunk_size: PositiveBytes = GIBIBYTE
    replication_chunk_size: PositiveBytes = 2 * GIBIBYTE


class StorageDomainSpec(Model):
    """Exactly one of file, loop and lvm."""

    file: FileDomain | None = None
    loop: LoopDomain | None = None
    lvm: LvmDomain | None = None
    thin_provisioning: ThinProvisioning = ThinProvisioning()
    node_selector: dict[str, str] = Field(default_factory=dict)
    allowed_namespaces: tuple[str, ...] = ()
    allow_managed_elsewhere: bool = False
    max_concurrent_migrations: int = Field(default=4, ge=1)
    max_synchronized_migrations: int = Field(default=20, ge=0)
    min_available: MinAvailable | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "StorageDomainSpec":
        if sum(kind is not None for kind in (self.file, self.loop, self.lvm)) != 1:
            raise ValueError("exactly one of file, loop and lvm must be set")
        return self

    @property
    def type(self) -> StorageType:
        """Block for loop and lvm, File for file."""
        return StorageType.FILE if self.file is not None else StorageType.BLOCK

    @property
    def available_floor(self) -> AvailableFloor:
        """How much of it no migration may take as its destination; nothing where minAvailable is not set."""
        return self.min_available or AvailableFloor()


class StorageDomainUse(Model):
    """The migrations between it and another one, the thin volumes of running VMs in it, and the first of the VMs."""

    migrations: int = 0
    thin_volumes: int = 0
    virtual_machines: tuple[str, ...] = ()


class StorageDomainDisplay(Model):
    """What kubectl's columns print, as a column cannot format a number; programs read the numbers."""

    available: str | None = None
    capacity: str | None = None
    active: str | None = None


class StorageDomainStatus(Model):
    """Written by the operator from what the LibvirtHosts report.

    Sizes are those of the ready node with the least room; absent while no node is ready.
    """

    observed_generation: int = -1
    conditions: tuple[Condition, ...] = ()
    ready_nodes: int = 0
    type: StorageType | None = None
    capacity_bytes: int | None = None
    available_bytes: int | None = None
    active_migrations: int = 0
    in_use: StorageDomainUse | None = None
    display: StorageDomainDisplay | None = None


class StorageDomain(Model):
    """One storage domain, cluster-scoped."""

    metadata: ObjectMeta
    spec: StorageDomainSpec
    status: StorageDomainStatus = StorageDomainStatus()

    def selects(self, node_labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels reaches it."""
        return all(node_labels.get(key) == value for key, value in self.spec.node_selector.items())

    def allows(self, namespace: str, *, system_namespace: str) -> bool:
        """Whether DiskMigrations of that namespace may move disks off it or onto it."""
        allowed = self.spec.allowed_namespaces
        return namespace == system_namespace or namespace in allowed or EVERY_NAMESPACE in allowed
