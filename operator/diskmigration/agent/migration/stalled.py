"""Find what somebody has to look at before a migration can go on."""

from diskmigration.agent.migration.context import MigrationContext
from diskmigration.api.errors import MigrationError, Reason


def stalled(context: MigrationContext) -> MigrationError | None:
    """Return why it cannot go on by itself, or None. A step may fail once by chance."""
    status = context.status
    repeated = status.trouble if status.failures > 1 else None
    return doubt(context) or _lack_of_room(context) or status.awaits_resume or repeated


def doubt(context: MigrationContext) -> MigrationError | None:
    """Return what is reported of one of the migration's volumes that cannot be; None where all is well."""
    doubts = (context.node.extender.status_of(volume.path).implausible for volume in context.journal.volumes)
    return next((found for found in doubts if found is not None), None)


def _lack_of_room(context: MigrationContext) -> MigrationError | None:
    """Return why the guest stands still, where that is for want of room in either storage domain; else None."""
    for reason, volumes in (
        (Reason.SOURCE_FULL, context.journal.at_source),
        (Reason.DESTINATION_FULL, context.journal.at_destination),
    ):
        for volume in volumes:
            if (domain := context.node.extender.status_of(volume.path).full_domain) is not None:
                return MigrationError(
                    reason,
                    f"The guest is paused: it wrote to {volume.path}, and the storage domain {domain} is full. "
                    "Free some room in it: the guest goes on as soon as there is some.",
                )
    return None
