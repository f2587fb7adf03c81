"""When something is due. Pure: seconds from now, 0 or less when it is due already, None when it never is."""

from datetime import datetime, timedelta

from diskmigration.api import conditions
from diskmigration.api.conditions import ConditionStatus
from diskmigration.api.disk_migration import ConditionType
from diskmigration.controller.placement_outcome import Refusal
from diskmigration.controller.records import Migration


def seconds_to_deadline(migration: Migration, now: datetime) -> float | None:
    """Until activeDeadlineSeconds after the start are over."""
    if migration.spec is None:
        return None
    return _remaining(migration.status.start_time, migration.spec.active_deadline_seconds, now)


def seconds_to_removal(completed: datetime | None, ttl_seconds: int | None, now: datetime) -> float | None:
    """Until ttlSecondsAfterFinished after the completion are over."""
    return _remaining(completed, ttl_seconds, now)


def seconds_to_giving_up(migration: Migration, refusal: Refusal, grace_seconds: float, now: datetime) -> float | None:
    """Until a migration that is refused fails; None for one that waits instead, until its deadline at most.

    The grace is for one that was never accepted, and counts from when it was first refused without a break. Only what
    its own spec makes impossible fails at once.
    """
    if refusal.is_permanent:
        return 0.0
    if migration.was_accepted or refusal.sides is not None or refusal.is_provisional:
        return None
    accepted = conditions.find(migration.status.conditions, ConditionType.ACCEPTED)
    if accepted is None or accepted.status is not ConditionStatus.FALSE:
        return grace_seconds
    return (accepted.last_transition_time + timedelta(seconds=grace_seconds) - now).total_seconds()


def _remaining(since: datetime | None, seconds: int | None, now: datetime) -> float | None:
    if since is None or seconds is None:
        return None
    return (since + timedelta(seconds=seconds) - now).total_seconds()
