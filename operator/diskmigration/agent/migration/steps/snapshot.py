"""Snapshotting: freeze the chain, so that it can be copied while the guest writes to a fresh active layer.

The chain of a VM that is shut off needs no snapshot: see steps/cold.py.
"""

from contextlib import ExitStack
from functools import partial

from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES
from diskmigration.agent.migration.checks.room import require_room
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.disk_activity import require_active_disk
from diskmigration.agent.migration.full_domain import lacking_room
from diskmigration.agent.migration.last_writes import require_unwritten
from diskmigration.agent.migration.sizing import fresh_volume_size
from diskmigration.agent.migration.steps.definition import remember_disk, settle_persistent_source
from diskmigration.agent.migration.steps.prepare_destination import making_ahead
from diskmigration.agent.migration.unneeded_volumes import own
from diskmigration.agent.storage import qemu_img
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType


def take_snapshot(context: MigrationContext) -> None:
    """Make the migration's snapshot on the source and let the guest write to it.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: SnapshotFailed, StorageFailed, SourceFull, DestinationFull.
        DomainGoneError: the VM has just ended.
        VirtualMachinePausedError: the VM has to be resumed first.
    """
    with ExitStack() as turn:
        turn.enter_context(context.turn())
        with making_ahead(context):
            _freeze(context)
            # What is made ahead may take as long as the disk is large.
            turn.close()
            _follow_snapshot(context)


def _freeze(context: MigrationContext) -> None:
    snapshot = context.journal.snapshot
    assert snapshot is not None  # noqa: S101 - decided only where the strategy takes one
    below = context.journal.source[-1]
    source = context.source
    context.require_running()
    require_active_disk(context)
    chunk = source.domain.spec.thin_provisioning.replication_chunk_size
    size = fresh_volume_size(capacity=snapshot.capacity_bytes, chunk=chunk)
    require_room(
        Reason.SOURCE_FULL,
        subject=f"The snapshot of {context.target}",
        storage_domain=source.name,
        needed=size if snapshot.type is StorageType.BLOCK else ALIGNMENT_BYTES,
        available=source.driver.space().available_bytes,
    )
    require_unwritten(source, snapshot, keep_on=context.keep_on)
    with lacking_room(Reason.SOURCE_FULL):
        context.make(snapshot, source, size)
        qemu_img.create(snapshot.image, snapshot.capacity_bytes, backing=below.image, keep_on=context.keep_on)
    # Before the guest writes to it: from then on it holds what nothing else does.
    source.driver.keep([snapshot.name])
    remember_disk(context)
    context.failpoint("midway")
    take = partial(context.domain.snapshot, target=context.target, kind=snapshot.type.lower(), path=snapshot.path)
    context.act(f"taking the snapshot {snapshot.path} of {context.target}", take)


def _follow_snapshot(context: MigrationContext) -> None:
    """Check that the guest writes to the snapshot, and have the VM start on it next."""
    snapshot = context.journal.snapshot
    assert snapshot is not None  # noqa: S101 - as above
    context.failpoint("acted")
    if context.active_path() != snapshot.path:
        raise MigrationError(
            Reason.SNAPSHOT_FAILED, f"libvirt took the snapshot, but {snapshot.path} is not the active layer."
        )
    # The VM may end and start again during the migration.
    settle_persistent_source(context, snapshot)
    context.node.extender.observe_soon(context.domain.uuid)


def skip_snapshot(context: MigrationContext) -> None:
    """Go on without the snapshot, as the VM was shut off before it was taken.

    Raises:
        MigrationError: StorageFailed.
    """
    snapshot = context.journal.snapshot
    assert snapshot is not None  # noqa: S101 - decided only where one was planned
    context.failpoint("midway")
    kept = context.remove(context.source, (own(snapshot),))
    # It may have been made ahead.
    kept += context.remove(context.destination, (own(context.journal.mirror),))
    if kept:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"The VM was shut off before its snapshot was taken, and {kept[0].path} was not removed. {kept[0].reason}",
        )
    context.failpoint("acted")
    context.record(snapshot=None, overlay=None)
