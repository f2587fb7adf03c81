"""The lane in which a migration waits: its source and its destination. Pure."""

from diskmigration.api.disk_migration import Side
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.queueing import Lane
from diskmigration.controller.records import Migration


def lane_between(source: Side, destination: Side) -> Lane:
    """Return the lane of a move from one side to the other."""
    return source.storage_domain_name, destination.storage_domain_name


def lane_of(placement: Placement) -> Lane:
    """Return between which storage domains a migration moves its disk."""
    return lane_between(placement.source, placement.destination)


def lane_so_far(migration: Migration, refusal: Refusal) -> Lane | None:
    """Return between which storage domains a refused migration is to move its disk; None if it was never accepted."""
    status = migration.status
    if refusal.sides is not None:
        source, destination = refusal.sides
    elif status.source is not None and status.destination is not None:
        source, destination = status.source, status.destination
    else:
        return None
    return lane_between(source, destination)
