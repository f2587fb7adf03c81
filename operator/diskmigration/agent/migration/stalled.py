"""What somebody has to look at before a migration can go on."""

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.api.errors import MigrationError, Reason


def stalled(attempt: Attempt) -> MigrationError | None:
    """Return why it cannot go on by itself, or None. A step may fail once by chance."""
    status = attempt.status
    repeated = status.trouble if status.failures > 1 else None
    return doubt(attempt) or _lack_of_room(attempt) or status.awaits_resume or repeated


def doubt(attempt: Attempt) -> MigrationError | None:
    """Return what is reported of one of the migration's volumes that cannot be; None where all is well."""
    doubts = (attempt.node.extender.status_of(volume.path).implausible for volume in attempt.journal.volumes)
    return next((found for found in doubts if found is not None), None)


def _lack_of_room(attempt: Attempt) -> MigrationError | None:
    """Return why the guest stands still, where that is for want of room in either storage domain; else None."""
    for reason, volumes in (
        (Reason.SOURCE_FULL, attempt.journal.at_source),
        (Reason.DESTINATION_FULL, attempt.journal.at_destination),
    ):
        for volume in volumes:
            if (domain := attempt.node.extender.status_of(volume.path).full_domain) is not None:
                return MigrationError(
                    reason,
                    f"The guest is paused: it wrote to {volume.path}, and the storage domain {domain} is full. "
                    "Free some room in it: the guest goes on as soon as there is some.",
                )
    return None
