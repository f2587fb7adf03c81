"""When a migration may pivot, and when it has to give up. Pure; the time is a parameter."""

from datetime import datetime, timedelta

from diskmigration.api.disk_migration import Cutover, CutoverPolicy, DiskMigration

FIRST_BACKOFF_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 60.0


def cutover_is_open(cutover: Cutover, *, now: datetime) -> bool:
    """Whether the pivot may happen: the policy is Automatic and the window has begun."""
    return cutover.policy is CutoverPolicy.AUTOMATIC and (cutover.not_before is None or now >= cutover.not_before)


def deadline_has_passed(migration: DiskMigration, *, started: datetime | None, now: datetime) -> bool:
    """Whether activeDeadlineSeconds after the start are over."""
    limit = migration.spec.active_deadline_seconds
    return limit is not None and started is not None and now >= started + timedelta(seconds=limit)


def wants_cancel(migration: DiskMigration) -> bool:
    """Whether the user wants it to stop: by `cancel: true`, or by deleting it."""
    return migration.spec.cancel or migration.metadata.deletion_timestamp is not None


def backoff_seconds(attempt: int) -> float:
    """How long to wait after that attempt (1 is the first) before the next."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (attempt - 1), LONGEST_BACKOFF_SECONDS)
