"""When a migration may pivot, and when it has to give up. Pure; the time is a parameter."""

from datetime import datetime, timedelta

from diskmigration.api.disk_migration import CutoverPolicy, DiskMigration, DiskMigrationSpec
from diskmigration.backoff import Backoff

BACKOFF = Backoff(first_seconds=2.0, longest_seconds=60.0)
"""Between two attempts, and between two tries of a step that has to succeed."""


def cutover_is_open(spec: DiskMigrationSpec, *, now: datetime) -> bool:
    """Return whether the pivot may happen: not suspended, the policy Automatic, and the window has begun."""
    cutover = spec.cutover
    is_automatic = cutover.policy is CutoverPolicy.AUTOMATIC and not spec.suspend
    return is_automatic and (cutover.not_before is None or now >= cutover.not_before)


def deadline_has_passed(migration: DiskMigration, *, started: datetime | None, now: datetime) -> bool:
    """Return whether activeDeadlineSeconds after the start are over."""
    limit = migration.spec.active_deadline_seconds
    return limit is not None and started is not None and now >= started + timedelta(seconds=limit)


def wants_cancel(migration: DiskMigration) -> bool:
    """Return whether the user wants it to stop: by `cancel: true`, or by deleting it."""
    return migration.spec.cancel or migration.metadata.deletion_timestamp is not None
