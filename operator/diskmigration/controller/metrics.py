"""What the operator tells Prometheus; see docs/reference/metrics.md. No label is a user's word."""

import contextlib
import functools
from collections import Counter as Count

from prometheus_client import Counter, Gauge, Histogram

from diskmigration.api.conditions import is_true
from diskmigration.api.disk_migration import ConditionType, Phase
from diskmigration.api.storage_domain import StorageDomainStatus
from diskmigration.controller.cluster_inventory import ClusterInventory
from diskmigration.controller.migration_cache import MigrationCache
from diskmigration.controller.scheduler import Scheduler

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
CAPACITY = Gauge("diskmigration_storage_domain_capacity_bytes", "The size of a storage domain.", ["storage_domain"])
AVAILABLE = Gauge(
    "diskmigration_storage_domain_available_bytes",
    "What is free in a storage domain, on the node that has the least.",
    ["storage_domain"],
)
ORPHANS = Gauge(
    "diskmigration_orphaned_volumes",
    "Volumes of migrations on which nobody works any more and which could not be removed.",
    ["storage_domain"],
)
AGENTS_AWAY = Gauge("diskmigration_agents_away", "Nodes with a LibvirtHost whose agent does not renew its Lease.")
STALLED = Gauge("diskmigration_stalled", "Migrations that have not ended and wait for somebody.")
QUEUED = Gauge("diskmigration_queued", "Migrations that wait for a place.")
SET_ASIDE = Gauge("diskmigration_set_aside", "Accepted migrations that wait for what they are refused for to pass.")
MIGRATIONS = Gauge("diskmigration_migrations", "Migrations that have not ended, by phase.", ["phase"])


def describe(migrations: MigrationCache, scheduler: Scheduler, inventory: ClusterInventory) -> None:
    """Have the gauges read whenever they are asked for."""
    AGENTS_AWAY.set_function(inventory.count_away)
    STALLED.set_function(lambda: _stalled(migrations))
    QUEUED.set_function(lambda: scheduler.queue_length)
    SET_ASIDE.set_function(lambda: scheduler.set_aside_count)
    for phase in Phase:
        if not phase.is_final:
            MIGRATIONS.labels(phase.value).set_function(functools.partial(_in_phase, migrations, phase))


def describe_domain(name: str, status: StorageDomainStatus, *, orphans: int) -> None:
    """Have the gauges of a storage domain say what its status does; what is not known is left out."""
    ORPHANS.labels(name).set(orphans)
    for gauge, figure in ((CAPACITY, status.capacity_bytes), (AVAILABLE, status.available_bytes)):
        if figure is None:
            _forget(gauge, name)
        else:
            gauge.labels(name).set(figure)


def forget_domain(name: str) -> None:
    """Have no gauge tell of a storage domain that is gone."""
    for gauge in (ORPHANS, CAPACITY, AVAILABLE):
        _forget(gauge, name)


def _forget(gauge: Gauge, name: str) -> None:
    with contextlib.suppress(KeyError):
        gauge.remove(name)


def _stalled(migrations: MigrationCache) -> int:
    active = list(migrations.active.values())
    return sum(is_true(migration.status.conditions, ConditionType.STALLED) for migration in active)


def _in_phase(migrations: MigrationCache, phase: Phase) -> int:
    # A copy in one go, as Prometheus asks from another thread.
    return Count(migration.status.phase or Phase.PENDING for migration in list(migrations.active.values()))[phase]
