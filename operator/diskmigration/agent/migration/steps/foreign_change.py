"""Somebody else put the disk on another volume in mid-migration: nothing goes that may hold the guest's writes."""

from pathlib import Path

from diskmigration.agent.migration import last_writes
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.storage import qcow2_header
from diskmigration.api.disk_migration import VolumeFormat


def leave_to_others(attempt: Attempt, whereabouts: str) -> str:
    """Have all that the migration made stay, and return what to tell the user.

    `whereabouts` says where the VM runs, if that is another node.

    Raises:
        MigrationError: StorageFailed.
    """
    if whereabouts:
        return f"{whereabouts} {leave_all(attempt)}"
    active = attempt.active_path()
    expected = attempt.journal.mirror if attempt.journal.has_pivoted else attempt.journal.mirrored
    return (
        f"Somebody else changed the disk {attempt.target} during the migration: its active layer is "
        f"{active or 'no volume'}, where the migration had it on {expected.path}. {leave_all(attempt)}"
    )


def has_internal_snapshot(attempt: Attempt) -> bool:
    """Return whether the active layer has an internal snapshot: one was taken since the migration began.

    Raises:
        MigrationError: StorageFailed.
    """
    active = attempt.journal.mirrored
    return active.format is VolumeFormat.QCOW2 and qcow2_header.read(Path(active.path)).snapshot_count > 0


def leave_snapshot(attempt: Attempt) -> str:
    """Have all that the migration made stay with the internal snapshot, and return what to tell the user.

    Raises:
        MigrationError: StorageFailed.
    """
    return (
        f"Somebody took an internal snapshot of the disk {attempt.target} during the migration, which a copy or a "
        f"merge of {attempt.journal.mirrored.path} would lose. {leave_all(attempt)}"
    )


def leave_all(attempt: Attempt) -> str:
    """Have all that the migration made stay, and return what that is and what to do with it.

    Raises:
        MigrationError: StorageFailed.
    """
    left = last_writes.own_volumes(attempt.journal.uid, (attempt.source, attempt.destination))
    last_writes.keep(left)
    return last_writes.advice(left, last_writes.newest_by_journal(attempt.journal))


def await_return(attempt: Attempt, whereabouts: str) -> str:
    """Return what to tell the user of a VM that runs on another node, with the migration's volumes.

    Raises:
        MigrationError: StorageFailed.
    """
    left = last_writes.own_volumes(attempt.journal.uid, (attempt.source, attempt.destination))
    return (
        f"{whereabouts} Nothing is changed as long as it does. Migrate it back to {attempt.node.name}, and the "
        "migration goes on; or cancel, and all that it made is left to you: "
        f"{', '.join(str(volume.path) for volume in left) or 'nothing'}."
    )
