"""CleaningUp: after a success the source's volumes go, after a failure the destination's; nothing is left unowned."""

from pathlib import Path

from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.steps.definition import leave_in_definition, names_any, settle_persistent_source
from diskmigration.agent.migration.unneeded_volumes import own, source_chain
from diskmigration.agent.storage.identity import is_same_volume
from diskmigration.api.disk_migration import Phase, RetainedVolume, SourceVolumes
from diskmigration.api.errors import MigrationError, Reason


def clean_up_source(context: MigrationContext) -> None:
    """Remove the source's volumes, once the live and the persistent XML were both seen on the destination.

    What is kept, and what the user wants retained, is recorded with the reason.

    Raises:
        MigrationError: StorageFailed, PivotFailed.
    """
    journal = context.journal
    settle_persistent_source(context, journal.destination[-1])
    context.keep_destination()
    _require_on(context, journal.destination[-1])
    copies = (own(journal.overlay),) if journal.overlay is not None else ()
    retained_copies = context.remove(context.destination, copies)
    snapshot = (own(journal.snapshot),) if journal.snapshot is not None else ()
    deletes = journal.migration.spec.source_volumes is SourceVolumes.DELETE
    retained = context.remove(context.source, snapshot)
    context.failpoint("midway")
    if not deletes or retained:
        reason = f"It lies below {retained[0].name}." if retained else "spec.sourceVolumes is Retain."
        retained += tuple(
            RetainedVolume(name=volume.name, path=volume.path, reason=reason) for volume in reversed(journal.source)
        )
    else:
        chain = source_chain(journal)
        context.record(removes_source=True)
        retained = context.remove(context.source, chain)
    context.failpoint("acted")
    context.record(outcome=Phase.SUCCEEDED, retained_at_source=retained, retained_at_destination=retained_copies)


def discard_destination(context: MigrationContext) -> None:
    """Remove all that the migration made, the VM being on its source.

    Raises:
        MigrationError: StorageFailed.
    """
    journal = context.journal
    if journal.snapshot is not None:
        # libvirtd may have ended before it noted a pivot, or somebody else has pivoted.
        leave_in_definition(context, journal.snapshot, journal.source[-1])
    copies = tuple(own(volume) for volume in reversed(journal.at_destination))
    retained_copies = context.remove(context.destination, copies)
    context.failpoint("midway")
    snapshot = (own(journal.snapshot),) if journal.snapshot is not None else ()
    retained = context.remove(context.source, snapshot)
    context.failpoint("acted")
    outcome = Phase.FAILED if journal.failure is not None else Phase.CANCELLED
    context.record(outcome=outcome, retained_at_source=retained, retained_at_destination=retained_copies)


def _require_on(context: MigrationContext, volume: JournalVolume) -> None:
    """A definition that names another disk on purpose, or none, holds up nothing."""
    live = context.domain.describe().disk(context.target)
    persistent = context.domain.describe_persistent()
    next_disk = persistent.disk(context.target) if persistent is not None else None
    is_bound = next_disk is not None and names_any(next_disk, context.journal)
    for disk in (live, next_disk if is_bound else live):
        active = disk.active if disk is not None else None
        if active is None or not is_same_volume(Path(active.path), Path(volume.path)):
            raise MigrationError(
                Reason.PIVOT_FAILED,
                f"The disk {context.target} was not seen on {volume.path}, so nothing of its source is deleted.",
            )
