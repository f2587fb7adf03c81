"""Whether somebody works on a disk."""

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk
from diskmigration.agent.migration.journal import Journal, uri
from diskmigration.api.errors import MigrationError, Reason


def require_no_journal(description: DomainDescription, target: str, journal: Journal | None) -> None:
    """Raise DiskBusy if another migration that has not ended holds the disk."""
    # One that has ended has nothing left to do: its agent is about to erase it, or was ended before it could.
    if journal is None or journal.outcome is not None:
        return
    raise MigrationError(
        Reason.DISK_BUSY,
        f"The disk {target} carries the journal of the DiskMigration {journal.migration.key}. Wait for that one to "
        "end. If there is none of that name any more, nothing works on it: see what it made with "
        f"`virsh metadata {description.shell_name} {uri(target)}`, put the VM's chain in order, and "
        "remove the journal with the same command and --remove --live --config.",
    )


def require_no_block_job(description: DomainDescription, disk: DomainDisk, job: BlockJob | None) -> None:
    """Raise DiskBusy if a block job of somebody else's is on the disk."""
    if job is None and disk.mirror is None:
        return
    kind = job.kind if job is not None else "mirror"
    raise MigrationError(
        Reason.DISK_BUSY,
        f"The disk {disk.target} is under a block job already ({kind}). Wait for it, or end it with "
        f"`virsh blockjob {description.shell_name} {disk.target} --abort`.",
    )


def require_no_saved_state(uuid: str, *, has_saved_state: bool) -> None:
    """Raise DiskBusy if the VM's memory was saved when it was shut off."""
    if has_saved_state:
        raise MigrationError(
            Reason.DISK_BUSY,
            f"The VM {uuid} is shut off with its memory saved, and what was saved names its disks. Start the "
            f"VM, or drop what was saved with `virsh managedsave-remove {uuid}`.",
        )
