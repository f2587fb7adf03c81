"""Decide when a StorageDomain's status is worth a write. Pure.

Each write is a request, and an event for the agent of every node; free space moves on all nodes all the time.
"""

from diskmigration.api.storage_domain import StorageDomainStatus, StorageDomainUse

COUNTS_SECONDS = 10.0
"""How often the number of active migrations is written, and whether there are thin volumes and migrations at all.

A migration of some seconds so costs no write at its start and end.
"""
FIGURES_SECONDS = 60.0
"""How often sizes are written, and how many thin volumes there are, and whose."""
CAPACITY_SHARE = 0.01
AVAILABLE_SHARE = 0.05
"""Free space that has moved by less than both, of the capacity and of itself, is not worth a write."""


def interval(written: StorageDomainStatus, status: StorageDomainStatus) -> float | None:
    """Return how long after the last write this status is due, in seconds; None where it is not worth one."""
    if _facts(written) != _facts(status):
        return 0.0
    if _counts(written) != _counts(status):
        return COUNTS_SECONDS
    return FIGURES_SECONDS if written.in_use != status.in_use or _have_sizes_moved(written, status) else None


def _facts(status: StorageDomainStatus) -> tuple[object, ...]:
    has_sizes = status.capacity_bytes is not None, status.available_bytes is not None
    return status.observed_generation, status.conditions, status.ready_nodes, status.type, has_sizes


def _counts(status: StorageDomainStatus) -> tuple[object, ...]:
    used = status.in_use or StorageDomainUse()
    return status.active_migrations, used.migrations > 0, used.thin_volumes > 0


def _have_sizes_moved(written: StorageDomainStatus, status: StorageDomainStatus) -> bool:
    if written.capacity_bytes != status.capacity_bytes:
        return True
    before, now = written.available_bytes or 0, status.available_bytes or 0
    moved = abs(before - now)
    least = min(AVAILABLE_SHARE * max(before, now), CAPACITY_SHARE * (status.capacity_bytes or 0))
    return moved > 0 and moved >= least
