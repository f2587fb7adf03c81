"""What the operator tells Prometheus; see docs/reference/metrics.md. No label is a user's word."""

import functools
from collections import Counter as Count

from prometheus_client import Counter, Gauge, Histogram

from diskmigration.api.disk_migration import Phase
from diskmigration.controller.scheduler import Scheduler
from diskmigration.controller.view import MigrationView

LEADER = Gauge("diskmigration_leader", "1 while this operator leads, 0 while it stands by.")
RECONCILE_SECONDS = Histogram("diskmigration_reconcile_seconds", "How long one step on one object took.")
RECONCILE_ERRORS = Counter("diskmigration_reconcile_errors", "Steps that failed and are made again.")
ENDED = Counter(
    "diskmigration_ended", "Migrations that have ended, by their last phase and reason.", ["phase", "reason"]
)
PHASE_SECONDS = Histogram(
    "diskmigration_phase_seconds",
    "How long a migration was in a phase; Pending is its wait for a place.",
    ["phase"],
    buckets=(0.5, 2, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
MOVED_BYTES = Counter("diskmigration_moved_bytes", "Bytes of moves that succeeded, by destination.", ["storage_domain"])
QUEUED = Gauge("diskmigration_queued", "Migrations that wait for a place.")
SET_ASIDE = Gauge("diskmigration_set_aside", "Accepted migrations that wait for what they are refused for to pass.")
MIGRATIONS = Gauge("diskmigration_migrations", "Migrations that have not ended, by phase.", ["phase"])


def describe(view: MigrationView, scheduler: Scheduler) -> None:
    """Have the gauges read whenever they are asked for."""
    QUEUED.set_function(lambda: scheduler.queue_length)
    SET_ASIDE.set_function(lambda: scheduler.set_aside_count)
    for phase in Phase:
        if not phase.is_final:
            MIGRATIONS.labels(phase.value).set_function(functools.partial(_in_phase, view, phase))


def _in_phase(view: MigrationView, phase: Phase) -> int:
    # A copy in one go, as Prometheus asks from another thread.
    return Count(migration.status.phase or Phase.PENDING for migration in list(view.active.values()))[phase]
