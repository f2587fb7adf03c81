"""Why a migration is refused or fails: the documented reasons, and the one error that carries them."""

from enum import StrEnum


class Reason(StrEnum):
    """The reasons that a user may meet, in `status.failure.reason` and in conditions."""

    # Refused before anything is touched.
    INVALID_SPEC = "InvalidSpec"
    VIRTUAL_MACHINE_NOT_FOUND = "VirtualMachineNotFound"
    VIRTUAL_MACHINE_AMBIGUOUS = "VirtualMachineAmbiguous"
    VIRTUAL_MACHINE_NOT_RUNNING = "VirtualMachineNotRunning"
    DISK_NOT_FOUND = "DiskNotFound"
    DISK_NOT_SUPPORTED = "DiskNotSupported"
    DISK_BUSY = "DiskBusy"
    SOURCE_NOT_IN_STORAGE_DOMAIN = "SourceNotInStorageDomain"
    STORAGE_DOMAIN_NOT_FOUND = "StorageDomainNotFound"
    STORAGE_DOMAIN_NOT_READY = "StorageDomainNotReady"
    SHARED_VOLUME_GROUP_UNLOCKED = "SharedVolumeGroupUnlocked"
    VOLUME_NOT_HANDED_OVER = "VolumeNotHandedOver"
    VOLUME_NOT_ACCESSIBLE = "VolumeNotAccessible"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    MANAGED_ELSEWHERE = "ManagedElsewhere"
    DESTINATION_FULL = "DestinationFull"
    # Nothing to do.
    ALREADY_AT_DESTINATION = "AlreadyAtDestination"
    NOT_ON_SOURCE = "NotOnSource"
    # Failures on the way; the VM stays on its source, or goes forward after the pivot.
    SOURCE_FULL = "SourceFull"
    STORAGE_FAILED = "StorageFailed"
    COPY_FAILED = "CopyFailed"
    SNAPSHOT_FAILED = "SnapshotFailed"
    BLOCK_JOB_FAILED = "BlockJobFailed"
    PIVOT_FAILED = "PivotFailed"
    MERGE_FAILED = "MergeFailed"
    HYPERVISOR_UNAVAILABLE = "HypervisorUnavailable"
    VIRTUAL_MACHINE_STOPPED = "VirtualMachineStopped"
    FOREIGN_CHANGE = "ForeignChange"
    NO_PROGRESS = "NoProgress"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    INTERNAL_ERROR = "InternalError"
    # It waits for somebody; it has not failed.
    IMPOSSIBLE_ALLOCATION = "ImpossibleAllocation"
    VIRTUAL_MACHINE_PAUSED = "VirtualMachinePaused"
    AGENT_UNREACHABLE = "AgentUnreachable"
    # The user's own wish.
    CANCELLED = "Cancelled"
    # The outcome.
    MIGRATED = "Migrated"


RETRYABLE = frozenset(
    {
        Reason.SOURCE_FULL,
        Reason.STORAGE_FAILED,
        Reason.COPY_FAILED,
        Reason.SNAPSHOT_FAILED,
        Reason.BLOCK_JOB_FAILED,
        Reason.PIVOT_FAILED,
        Reason.MERGE_FAILED,
        Reason.HYPERVISOR_UNAVAILABLE,
    }
)
"""The reasons for which a new attempt may end otherwise; the others fail at once, whatever backoffLimit says."""


class MigrationError(Exception):
    """A refusal or a failure: a documented reason, and a message that says what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Keeps reason and message for the status."""
        super().__init__(message)
        self.reason = reason
        self.message = message
