"""CleaningUp: after a success the source's volumes go, after a failure the destination's; nothing is left unowned."""

from pathlib import Path

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.removal import own, source_chain
from diskmigration.agent.migration.steps.definition import leave_in_definition, names_any, settle_persistent_source
from diskmigration.agent.storage.identity import is_same_volume
from diskmigration.api.disk_migration import Phase, RetainedVolume, SourceVolumes
from diskmigration.api.errors import MigrationError, Reason


def clean_up_source(attempt: Attempt) -> None:
    """Remove the source's volumes, once the live and the persistent XML were both seen on the destination.

    What is kept, and what the user wants retained, is recorded with the reason.

    Raises:
        MigrationError: StorageFailed, PivotFailed.
    """
    journal = attempt.journal
    settle_persistent_source(attempt, journal.destination[-1])
    attempt.keep_destination()
    _require_on(attempt, journal.destination[-1])
    copies = (own(journal.overlay),) if journal.overlay is not None else ()
    retained_copies = attempt.remove(attempt.destination, copies)
    snapshot = (own(journal.snapshot),) if journal.snapshot is not None else ()
    deletes = journal.migration.spec.source_volumes is SourceVolumes.DELETE
    retained = attempt.remove(attempt.source, snapshot)
    attempt.failpoint("midway")
    if not deletes or retained:
        reason = f"It lies below {retained[0].name}." if retained else "spec.sourceVolumes is Retain."
        retained += tuple(
            RetainedVolume(name=volume.name, path=volume.path, reason=reason) for volume in reversed(journal.source)
        )
    else:
        chain = source_chain(journal)
        attempt.record(removes_source=True)
        retained = attempt.remove(attempt.source, chain)
    attempt.failpoint("acted")
    attempt.record(outcome=Phase.SUCCEEDED, retained_at_source=retained, retained_at_destination=retained_copies)


def discard_destination(attempt: Attempt) -> None:
    """Remove all that the migration made, the VM being on its source.

    Raises:
        MigrationError: StorageFailed.
    """
    journal = attempt.journal
    if journal.snapshot is not None:
        # libvirtd may have ended before it noted a pivot, or somebody else has pivoted.
        leave_in_definition(attempt, journal.snapshot, journal.source[-1])
    copies = tuple(own(volume) for volume in reversed(journal.at_destination))
    retained_copies = attempt.remove(attempt.destination, copies)
    attempt.failpoint("midway")
    snapshot = (own(journal.snapshot),) if journal.snapshot is not None else ()
    retained = attempt.remove(attempt.source, snapshot)
    attempt.failpoint("acted")
    outcome = Phase.FAILED if journal.failure is not None else Phase.CANCELLED
    attempt.record(outcome=outcome, retained_at_source=retained, retained_at_destination=retained_copies)


def _require_on(attempt: Attempt, volume: JournalVolume) -> None:
    """A definition that names another disk on purpose, or none, holds up nothing."""
    live = attempt.domain.describe().disk(attempt.target)
    persistent = attempt.domain.describe_persistent()
    next_disk = persistent.disk(attempt.target) if persistent is not None else None
    is_bound = next_disk is not None and names_any(next_disk, attempt.journal)
    for disk in (live, next_disk if is_bound else live):
        active = disk.active if disk is not None else None
        if active is None or not is_same_volume(Path(active.path), Path(volume.path)):
            raise MigrationError(
                Reason.PIVOT_FAILED,
                f"The disk {attempt.target} was not seen on {volume.path}, so nothing of its source is deleted.",
            )
