"""The VM is gone with its definition in mid-migration, or the disk is: leave it in one place, whole, and say where."""

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.decision import Place
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.references import paths_in_use
from diskmigration.agent.migration.steps.clean_up import remove_unless_in_use
from diskmigration.agent.migration.steps.lost_track import path_of_lost_process
from diskmigration.agent.migration.steps.merge import merge_cold
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.errors import MigrationError, Reason


def settle_vanished(attempt: Attempt, place: Place | None, *, what: str) -> str:
    """Merges what is a chain of ours, removes what nobody needs, and returns what to tell the user.

    `place` is where the disk was last seen, `what` a sentence that says what happened. In the midst of a pivot nobody
    can tell which side has the last writes: then both are kept.

    Raises:
        MigrationError: MergeFailed, StorageFailed; nothing was removed that was not merged, nor while its QEMU runs.
    """
    journal = attempt.journal
    path = path_of_lost_process(journal)
    if path is not None:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"{what} But a process writes to {path} still, and the migration waits for its end; `fuser {path}` on the "
            "node tells which it is.",
        )
    if place in (None, Place.FOREIGN) or journal.pivoting_to is not None:
        return (
            f"{what} Which volume has its last writes cannot be told, and all were kept: "
            f"{journal.mirrored.path} and {journal.mirror.path}, with what is below them."
        )
    in_use = paths_in_use(attempt.node.connection)
    if place in (Place.OVERLAY, Place.DESTINATION):
        if place is Place.OVERLAY and journal.overlay is not None and _is_there(attempt.destination, journal.overlay):
            merge_cold(overlay=journal.overlay, base=journal.destination[-1], home=attempt.destination)
            remove_unless_in_use(attempt.destination.driver, journal.overlay, in_use)
        return f"{what} Its disk is at {journal.destination[-1].path}, and the source's volumes were kept."
    if place is Place.SNAPSHOT and journal.snapshot is not None and _is_there(attempt.source, journal.snapshot):
        merge_cold(overlay=journal.snapshot, base=journal.source[-1], home=attempt.source)
    for volume in reversed(journal.at_destination):
        remove_unless_in_use(attempt.destination.driver, volume, in_use)
    if journal.snapshot is not None:
        remove_unless_in_use(attempt.source.driver, journal.snapshot, in_use)
    return f"{what} Its disk is at {journal.source[-1].path}, as before the migration."


def _is_there(home: OpenDomain, volume: JournalVolume) -> bool:
    """Whether it was not removed already, by a try that got so far."""
    return volume.name in home.driver.volumes()
