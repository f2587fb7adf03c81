"""Whether a storage domain has the room that a migration needs."""

from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.quantity import human_readable

_FULL = {
    Reason.SOURCE_FULL: "use strategy: Direct",
    Reason.DESTINATION_FULL: "choose another destination",
}
"""The reasons for missing room, and what the user can do beside freeing some."""


def require_room(reason: Reason, *, subject: str, storage_domain: str, needed: int, available: int) -> None:
    """Raise SourceFull or DestinationFull, whichever `reason` is, if less than `needed` bytes are available."""
    if needed > available:
        raise MigrationError(
            reason,
            f"{subject} needs {human_readable(needed)}, but the storage domain {storage_domain} has "
            f"{human_readable(available)} left. Free some room, or {_FULL[reason]}.",
        )
