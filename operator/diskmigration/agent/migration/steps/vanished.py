"""The VM is gone with its definition in mid-migration, or the disk is: leave it in one place, whole, and say where."""

from pathlib import Path

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.decision import Elsewhere, Place
from diskmigration.agent.migration.last_writes import is_there
from diskmigration.agent.migration.references import paths_in_use
from diskmigration.agent.migration.steps.clean_up import remove_unless_in_use
from diskmigration.agent.migration.steps.foreign_change import leave_all
from diskmigration.agent.migration.steps.lost_track import path_of_lost_process
from diskmigration.agent.migration.steps.merge import merge_cold
from diskmigration.agent.migration.whereabouts import of_uuid
from diskmigration.agent.storage.paths import resolved
from diskmigration.api.errors import MigrationError, Reason


def settle_vanished(attempt: Attempt, place: Place | None, *, what: str, has_left: bool) -> str:
    """Merges what is a chain of ours, removes what nobody needs, and returns what to tell the user.

    `place` is where the disk was last seen, `what` a sentence that says what happened; `has_left` tells that the VM was
    migrated away. All is kept where the VM runs on another node, where another definition names one of the volumes, and
    in the midst of a pivot, when nobody can tell which side has the last writes.

    Raises:
        MigrationError: MergeFailed, StorageFailed; nothing was removed that was not merged, nor while its QEMU runs.
            HypervisorUnavailable: where the VM runs cannot be told yet.
    """
    journal = attempt.journal
    path = path_of_lost_process(journal)
    if path is not None:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"{what} But a process writes to {path} still, and the migration waits for its end; `fuser {path}` on the "
            "node tells which it is.",
        )
    obstacle = _why_all_is_kept(attempt, place, has_left=has_left)
    if obstacle is not None:
        return f"{what} {obstacle} {leave_all(attempt)}"
    _settle(attempt, place)
    if place in (Place.OVERLAY, Place.DESTINATION):
        return f"{what} Its disk is at {journal.destination[-1].path}, and the source's volumes were kept."
    return f"{what} Its disk is at {journal.source[-1].path}, as before the migration."


def _why_all_is_kept(attempt: Attempt, place: Place | None, *, has_left: bool) -> str | None:
    """A sentence for the user, or None.

    Raises:
        MigrationError: HypervisorUnavailable, where the VM runs cannot be told yet.
    """
    journal = attempt.journal
    whereabouts = of_uuid(attempt.domain.uuid, attempt.node.other_hosts, has_left=has_left)
    if whereabouts.elsewhere is Elsewhere.UNKNOWN:
        raise MigrationError(Reason.HYPERVISOR_UNAVAILABLE, whereabouts.message)
    if whereabouts.elsewhere is Elsewhere.RUNNING:
        return whereabouts.message
    if place in (None, Place.FOREIGN) or journal.pivoting_to is not None:
        return "Which volume has its last writes cannot be told."
    in_use = paths_in_use(attempt.node.connection)
    written = (journal.snapshot, journal.source[-1], *journal.at_destination)
    if any(resolved(Path(volume.path)) in in_use for volume in written if volume is not None):
        return "A VM or a snapshot on this node names one of its volumes."
    return None


def _settle(attempt: Attempt, place: Place | None) -> None:
    journal = attempt.journal
    in_use = paths_in_use(attempt.node.connection)
    if place in (Place.OVERLAY, Place.DESTINATION):
        if place is Place.OVERLAY and journal.overlay is not None and is_there(attempt.destination, journal.overlay):
            merge_cold(overlay=journal.overlay, base=journal.destination[-1], home=attempt.destination)
            remove_unless_in_use(attempt.destination.driver, journal.overlay, in_use)
        return
    if place is Place.SNAPSHOT and journal.snapshot is not None and is_there(attempt.source, journal.snapshot):
        merge_cold(overlay=journal.snapshot, base=journal.source[-1], home=attempt.source)
    for volume in reversed(journal.at_destination):
        remove_unless_in_use(attempt.destination.driver, volume, in_use)
    if journal.snapshot is not None:
        remove_unless_in_use(attempt.source.driver, journal.snapshot, in_use)
