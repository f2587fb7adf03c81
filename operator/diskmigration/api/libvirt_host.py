"""LibvirtHost: what one node's agent sees there."""

from enum import StrEnum

from diskmigration.api.conditions import Condition
from diskmigration.api.model import Model, ObjectMeta, Time


class VirtualMachineState(StrEnum):
    """libvirt's virDomainState, in the API's spelling."""

    RUNNING = "Running"
    PAUSED = "Paused"
    SHUT_OFF = "ShutOff"
    CRASHED = "Crashed"
    SUSPENDED = "Suspended"
    UNKNOWN = "Unknown"

    @property
    def has_process(self) -> bool:
        """Whether a QEMU process has its disks open, or may have: of a VM that has crashed, libvirt may keep it."""
        return self is not VirtualMachineState.SHUT_OFF


class Disk(Model):
    """One disk of a VM; an empty storageDomainName means that it lies outside every domain of the node.

    A size that the agent does not know at the moment is absent.
    """

    target: str
    storage_domain_name: str = ""
    volume: str = ""
    type: str
    format: str = ""
    capacity_bytes: int | None = None
    size_bytes: int | None = None
    allocated_bytes: int | None = None


class VirtualMachine(Model):
    """One VM of the node, running or defined.

    `notAnsweringSince` is when libvirt or the VM's QEMU was first asked what it has not answered since. The rest is
    then what was known before. `ownerNamespace` is whose it is, as its libvirt metadata says; see vm_owner.py.
    """

    name: str
    uuid: str
    state: VirtualMachineState
    owner_namespace: str | None = None
    not_answering_since: Time | None = None
    disks: tuple[Disk, ...] = ()


class VolumeGroup(Model):
    """The volume group of a domain: the uuid by which two nodes know it for the same, and who locks it."""

    uuid: str
    lock_type: str

    @property
    def is_locked(self) -> bool:
        """Whether a lock manager keeps two nodes from writing its metadata at once."""
        return self.lock_type in ("sanlock", "dlm", "idm")


class OrphanedVolume(Model):
    """A volume of a migration that nobody works on any more, and why it was not removed."""

    name: str
    size_bytes: int = 0
    reason: str = ""


class UnseenVolume(Model):
    """Somebody on the node who may need any volume, as the agent cannot see or read the one that is named.

    `isRawMedium` tells that it lies in a CD-ROM or floppy drive and is raw, so that it is no qcow2 volume.
    """

    used_by: str
    reason: str
    is_raw_medium: bool = False


class NodeStorageDomain(Model):
    """One storage domain as this node reaches it; the room of one that is not ready is not known.

    `usedVolumes` is absent while it is not known.
    """

    name: str
    ready: bool
    reason: str = ""
    capacity_bytes: int | None = None
    available_bytes: int | None = None
    volume_group: VolumeGroup | None = None
    orphaned_volumes: tuple[OrphanedVolume, ...] = ()
    used_volumes: tuple[str, ...] | None = None


class LibvirtHostStatus(Model):
    """Written by the node's agent, on change only."""

    observed_generation: int = -1
    libvirt_version: str = ""
    qemu_version: str = ""
    agent_version: str = ""
    clock_skew_seconds: int | None = None
    conditions: tuple[Condition, ...] = ()
    virtual_machine_count: int = 0
    storage_domains: tuple[NodeStorageDomain, ...] = ()
    virtual_machines: tuple[VirtualMachine, ...] = ()
    unseen_volumes: tuple[UnseenVolume, ...] = ()


class LibvirtHost(Model):
    """One node with an agent, named as the node."""

    metadata: ObjectMeta
    status: LibvirtHostStatus = LibvirtHostStatus()
