"""Somebody else put the disk on another volume in mid-migration: nothing goes that may hold the guest's writes."""

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.decision import Place
from diskmigration.agent.migration.references import paths_in_use
from diskmigration.agent.migration.steps.clean_up import remove_unless_in_use


def leave_to_others(attempt: Attempt, last_place: Place | None) -> str:
    """Removes the copy if the guest never wrote to it and nobody uses it; returns what to tell the user.

    `last_place` is where this agent saw the disk before, None if it never did: then all is kept.

    Raises:
        MigrationError: StorageFailed.
    """
    journal = attempt.journal
    copies = journal.at_destination[::-1]
    if last_place in (Place.SOURCE, Place.SNAPSHOT) and journal.pivoting_to is None:
        in_use = paths_in_use(attempt.node.connection)
        for volume in copies:
            remove_unless_in_use(attempt.destination.driver, volume, in_use)
    left = [volume.path for volume in copies if volume.name in attempt.destination.driver.volumes()]
    if journal.snapshot is not None and journal.snapshot.name in attempt.source.driver.volumes():
        left.append(journal.snapshot.path)
    return (
        f"Somebody else changed the disk {attempt.target} during the migration: its active layer is "
        f"{attempt.active_path() or 'no volume'}. "
        + (f"Left of the migration are {', '.join(left)}: " if left else "Nothing is left of the migration: ")
        + "look at the VM's chain, and make a new DiskMigration if the disk is to move on."
    )
