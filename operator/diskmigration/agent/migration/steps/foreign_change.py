"""Somebody else put the disk on another volume during the migration: nothing goes that may hold the guest's writes."""

from pathlib import Path

from diskmigration.agent.migration import last_writes
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.storage import qcow2_header
from diskmigration.api.disk_migration import VolumeFormat


def leave_to_others(context: MigrationContext, whereabouts: str) -> str:
    """Have all that the migration made stay, and return what to tell the user.

    `whereabouts` says where the VM runs, if that is another node.

    Raises:
        MigrationError: StorageFailed.
    """
    if whereabouts:
        return f"{whereabouts} {leave_all(context)}"
    active = context.active_path()
    expected = context.journal.mirror if context.journal.has_pivoted else context.journal.mirrored
    return (
        f"Somebody else changed the disk {context.target} during the migration: its active layer is "
        f"{active or 'no volume'}, where the migration had it on {expected.path}. {leave_all(context)}"
    )


def has_internal_snapshot(context: MigrationContext) -> bool:
    """Return whether the active layer has an internal snapshot: one was taken since the migration began.

    Raises:
        MigrationError: StorageFailed.
    """
    active = context.journal.mirrored
    return active.format is VolumeFormat.QCOW2 and qcow2_header.read(Path(active.path)).snapshot_count > 0


def leave_snapshot(context: MigrationContext) -> str:
    """Have all that the migration made stay with the internal snapshot, and return what to tell the user.

    Raises:
        MigrationError: StorageFailed.
    """
    return (
        f"Somebody took an internal snapshot of the disk {context.target} during the migration, which a copy or a "
        f"merge of {context.journal.mirrored.path} would lose. {leave_all(context)}"
    )


def leave_all(context: MigrationContext) -> str:
    """Have all that the migration made stay, and return what that is and what to do with it.

    Raises:
        MigrationError: StorageFailed.
    """
    left = last_writes.own_volumes(context.journal.uid, (context.source, context.destination))
    last_writes.keep(left)
    return last_writes.advice(left, last_writes.newest_by_journal(context.journal))


def await_return(context: MigrationContext, whereabouts: str) -> str:
    """Return what to tell the user of a VM that runs on another node, with the migration's volumes.

    Raises:
        MigrationError: StorageFailed.
    """
    left = last_writes.own_volumes(context.journal.uid, (context.source, context.destination))
    return (
        f"{whereabouts} Nothing is changed as long as it does. Migrate it back to {context.node.name}, and the "
        "migration goes on; or cancel, and all that it made is left to you: "
        f"{', '.join(str(volume.path) for volume in left) or 'nothing'}."
    )
