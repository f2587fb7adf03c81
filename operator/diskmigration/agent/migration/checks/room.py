"""Whether a storage domain has the room that a migration needs, and can have volumes of such a size."""

from diskmigration.agent.migration.checks.disk import unsupported
from diskmigration.agent.storage.domains import OpenDomain
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


def require_room_above_floor(*, subject: str, destination: OpenDomain, needed: int, already: int = 0) -> None:
    """Raise DestinationFull if the destination has less room than `needed` above its spec.minAvailable.

    `already` is what the migration has taken of the room. The operator has judged the same by what the node told it
    last. The floor is the destination's alone: a disk may always leave a storage domain that is too full.
    """
    space, floor = destination.driver.space(), destination.domain.spec.available_floor
    available, kept = space.available_bytes + already, floor.of(space.capacity_bytes)
    if kept and needed > available - kept:
        raise MigrationError(
            Reason.DESTINATION_FULL,
            f"{subject} needs {human_readable(needed)}, but the storage domain {destination.name} has "
            f"{human_readable(available)} left, of which {human_readable(kept)} have to stay free (spec.minAvailable: "
            f"{floor}). Free some room, or {_FULL[Reason.DESTINATION_FULL]}.",
        )
    require_room(
        Reason.DESTINATION_FULL,
        subject=subject,
        storage_domain=destination.name,
        needed=needed,
        available=available,
    )


def require_volume_size(target: str, storage_domain: str, *, size_bytes: int, is_possible: bool) -> None:
    """Raise DiskNotSupported if the file system of the storage domain cannot have a volume of that size."""
    if not is_possible:
        raise unsupported(
            target,
            f"it needs a volume of {human_readable(size_bytes)}, and the file system of the storage domain "
            f"{storage_domain} has no files of that size. Use format: qcow2 with provisioning: Thin, or choose another "
            "destination",
        )
