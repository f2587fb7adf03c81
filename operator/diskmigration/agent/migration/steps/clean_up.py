"""CleaningUp: after a success the source's volumes go, after a failure the destination's; nothing is left unowned."""

import logging
from pathlib import Path

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.references import paths_in_use
from diskmigration.agent.migration.steps.definition import names_any, settle_persistent_source
from diskmigration.agent.storage.driver import StorageDriver
from diskmigration.agent.storage.paths import is_same_volume, resolved
from diskmigration.api.disk_migration import Phase, SourceVolumes
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)


def clean_up_source(attempt: Attempt) -> None:
    """Removes the source's volumes, once the live and the persistent XML were both seen on the destination.

    The migration's own volumes always go; the user's go unless they are to be retained, or somebody else uses them.

    Raises:
        MigrationError: StorageFailed, PivotFailed.
    """
    journal = attempt.journal
    settle_persistent_source(attempt, journal.destination[-1])
    attempt.keep_destination()
    _require_on(attempt, journal.destination[-1])
    in_use = paths_in_use(attempt.node.connection)
    if journal.overlay is not None:
        remove_unless_in_use(attempt.destination.driver, journal.overlay, in_use)
    if journal.snapshot is not None:
        remove_unless_in_use(attempt.source.driver, journal.snapshot, in_use)
    attempt.reach(Moment.MIDWAY)
    if journal.migration.spec.source_volumes is SourceVolumes.DELETE:
        for volume in reversed(journal.source):
            remove_unless_in_use(attempt.source.driver, volume, in_use)
    attempt.reach(Moment.ACTED)
    attempt.record(outcome=Phase.SUCCEEDED)


def discard_destination(attempt: Attempt) -> None:
    """Removes all that the migration made, the VM being on its source.

    Raises:
        MigrationError: StorageFailed.
    """
    journal = attempt.journal
    in_use = paths_in_use(attempt.node.connection)
    for volume in reversed(journal.at_destination):
        remove_unless_in_use(attempt.destination.driver, volume, in_use)
    attempt.reach(Moment.MIDWAY)
    if journal.snapshot is not None:
        remove_unless_in_use(attempt.source.driver, journal.snapshot, in_use)
    attempt.reach(Moment.ACTED)
    attempt.record(outcome=Phase.FAILED if journal.failure is not None else Phase.CANCELLED)


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


def remove_unless_in_use(driver: StorageDriver, volume: JournalVolume, in_use: frozenset[Path]) -> None:
    """Removes a volume, or keeps it because a VM, a definition or a snapshot on this node needs it."""
    if resolved(Path(volume.path)) in in_use:
        _log.info("kept a volume that is in use", extra={"volume": volume.name, "storageDomain": driver.name})
        return
    driver.remove(volume.name)
