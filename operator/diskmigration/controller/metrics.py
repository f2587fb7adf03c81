"""What the operator tells Prometheus; see docs/reference/metrics.md. No label is a user's word."""

import functools
from collections import Counter as Count

from prometheus_client import Counter, Gauge, Histogram

from diskmigration.api.disk_migration import Phase
from diskmigration.controller.books import Books

LEADER = Gauge("diskmigration_leader", "1 while this operator leads, 0 while it stands by.")
RECONCILE_SECONDS = Histogram("diskmigration_reconcile_seconds", "How long one step on one object took.")
RECONCILE_ERRORS = Counter("diskmigration_reconcile_errors", "Steps that failed and are made again.")
QUEUED = Gauge("diskmigration_queued", "Migrations that wait for a place.")
SET_ASIDE = Gauge("diskmigration_set_aside", "Accepted migrations that wait for what they are refused for to pass.")
MIGRATIONS = Gauge("diskmigration_migrations", "Migrations that have not ended, by phase.", ["phase"])


def describe(books: Books) -> None:
    """Has the gauges read from the books whenever they are asked for."""
    QUEUED.set_function(lambda: books.scheduler.queue_length)
    SET_ASIDE.set_function(lambda: books.scheduler.set_aside_count)
    for phase in Phase:
        if not phase.is_final:
            MIGRATIONS.labels(phase.value).set_function(functools.partial(_in_phase, books, phase))


def _in_phase(books: Books, phase: Phase) -> int:
    # A copy in one go, as Prometheus asks from another thread.
    return Count(migration.status.phase or Phase.PENDING for migration in list(books.view.active.values()))[phase]
