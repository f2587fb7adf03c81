"""Build the status of a migration. Pure."""

from dataclasses import dataclass
from datetime import datetime

from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.progress import Meter
from diskmigration.api import conditions
from diskmigration.api.conditions import Condition, ConditionStatus
from diskmigration.api.disk_migration import (
    ConditionType,
    DiskMigration,
    DiskMigrationStatus,
    Display,
    Effective,
    Failure,
    Phase,
    Progress,
    RetainedVolume,
    Side,
    Volume,
    VolumeRole,
)
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.quantity import human_readable
from diskmigration.api.storage_domain import StorageDomain, StorageType


@dataclass(frozen=True)
class VolumeFigures:
    """What was measured of one volume, in bytes, and how often it was extended."""

    size_bytes: int
    allocated_bytes: int
    extensions: int


def side(
    domain: StorageDomain,
    chain: tuple[JournalVolume, ...],
    extra: JournalVolume | None,
    figures: dict[str, VolumeFigures],
    retained: tuple[RetainedVolume, ...] = (),
) -> Side:
    """Return one side of the move; a volume that is not there (any more) is left out."""
    roles = [VolumeRole.INTERNAL] * (len(chain) - 1) + [VolumeRole.ACTIVE]
    volumes = [*zip(chain, roles, strict=True), *([(extra, VolumeRole.SNAPSHOT)] if extra is not None else [])]
    return Side(
        storage_domain_name=domain.metadata.name,
        type=domain.spec.type,
        volumes=tuple(
            Volume(
                name=volume.name,
                role=role,
                path=volume.path,
                format=volume.format,
                capacity_bytes=volume.capacity_bytes,
                size_bytes=figures[volume.path].size_bytes,
                allocated_bytes=figures[volume.path].allocated_bytes,
                extensions=figures[volume.path].extensions,
            )
            for volume, role in volumes
            if volume.path in figures
        ),
        retained=retained,
    )


def effective(migration: DiskMigration, journal: Journal) -> Effective:
    """Return what was resolved; the watermark and the chunk are for a destination on block storage only."""
    destination = journal.destination_domain
    is_block = destination.spec.type is StorageType.BLOCK
    thin = destination.spec.thin_provisioning
    return Effective(
        bandwidth_bytes_per_second=migration.spec.bandwidth,
        chunk_size_bytes=thin.replication_chunk_size if is_block else None,
        high_watermark_bytes=thin.high_watermark if is_block else None,
        format=migration.spec.destination.format,
        copy_mode=journal.copy_mode,
    )


def under_way(
    before: DiskMigrationStatus,
    migration: DiskMigration,
    *,
    phase: Phase,
    journal: Journal,
    figures: dict[str, VolumeFigures],
    meter: Meter,
    message: str,
    now: datetime,
    stalled: MigrationError | None = None,
    falls_behind: bool = False,
) -> DiskMigrationStatus:
    """Return the status while the migration runs; `message` tells what it waits for, or is empty.

    `stalled` is what somebody has to look at before it can go on; `falls_behind` tells that the mirror does.
    """
    destination = side(
        journal.destination_domain, journal.destination, journal.overlay, figures, journal.retained_at_destination
    )
    progress = meter.to_status(wall_clock=now)
    allocated = sum(volume.allocated_bytes for volume in destination.volumes)
    synchronized = phase in (Phase.SYNCHRONIZED, Phase.PIVOTING, Phase.MERGING) or before.pivoted_time is not None
    source = side(journal.source_domain, journal.source, journal.snapshot, figures, journal.retained_at_source)
    if journal.outcome is Phase.SUCCEEDED and before.source is not None:
        # the record of what was moved, although its volumes are gone
        source = before.source.model_copy(update={"retained": source.retained})
    retained = len(source.retained + destination.retained)
    since = before.last_progress_time
    if since is None or (before.progress or Progress()).copied_bytes < progress.copied_bytes:
        since = now
    summary = _Summary(phase, phase.value, message, is_synchronized=synchronized, stalled=stalled)
    shown = _summed_up(before, migration, summary, now=now)
    return shown.model_copy(
        update={
            "conditions": shown.conditions
            + _converging(before.conditions, migration, journal, falls_behind=falls_behind, now=now),
            "synchronized_time": before.synchronized_time or (now if synchronized else None),
            "last_progress_time": since,
            "attempts": journal.attempt,
            "effective": effective(migration, journal),
            "allocated_bytes": allocated,
            "progress": progress,
            "source": source,
            "destination": destination,
            "failure": journal.failure,
            "display": Display(
                progress=f"{progress.percent}%",
                allocated=human_readable(allocated),
                rate=f"{human_readable(progress.bytes_per_second)}/s" if progress.bytes_per_second else None,
                retained=str(retained) if retained else None,
            ),
        }
    )


def not_begun(
    before: DiskMigrationStatus, migration: DiskMigration, *, phase: Phase, message: str, now: datetime
) -> DiskMigrationStatus:
    """Return the status while no attempt is under way; `message` tells what it waits for."""
    return _summed_up(before, migration, _Summary(phase, phase.value, message), now=now)


def ended(
    before: DiskMigrationStatus,
    migration: DiskMigration,
    *,
    phase: Phase,
    reason: Reason,
    message: str,
    now: datetime,
    given_up_in: Phase | None = None,
) -> DiskMigrationStatus:
    """Return the last status, with why it ended; `given_up_in` is the phase where the status does not tell it yet."""
    success = phase is Phase.SUCCEEDED
    progress = before.progress
    if success and progress is not None:
        progress = progress.model_copy(
            update={"percent": 100, "copied_bytes": progress.total_bytes, "estimated_completion_time": None}
        )
    failure = None
    if not success:
        shown = before.failure.phase if before.failure is not None else before.phase
        failure = Failure(reason=reason, message=message, phase=given_up_in or shown or Phase.SCHEDULED)
    summary = _Summary(
        phase,
        reason.value,
        message,
        succeeded=ConditionStatus.TRUE if success else ConditionStatus.FALSE,
        is_synchronized=conditions.is_true(before.conditions, ConditionType.SYNCHRONIZED) and success,
    )
    return _summed_up(before, migration, summary, now=now).model_copy(
        update={
            "completion_time": now,
            "attempts": max(before.attempts, 1),
            "progress": progress,
            "failure": failure,
            "display": (before.display or Display()).model_copy(
                update={"rate": None, **({"progress": "100%"} if success else {})}
            ),
        }
    )


def about_retained(journal: Journal) -> str:
    """Return what a message adds about the volumes that were kept, "" where there are none."""
    sides = (
        (journal.source_domain, journal.retained_at_source),
        (journal.destination_domain, journal.retained_at_destination),
    )
    return "".join(
        f" Kept in the storage domain {domain.metadata.name}: "
        + ", ".join(volume.name for volume in retained)
        + f". {retained[0].reason}"
        for domain, retained in sides
        if retained
    )


def _converging(
    before: tuple[Condition, ...], migration: DiskMigration, journal: Journal, *, falls_behind: bool, now: datetime
) -> tuple[Condition, ...]:
    """Return whether what is left to mirror grows less; nothing is said until there was doubt about it."""
    if falls_behind:
        reason = "GuestWritesFaster"
        more = (
            ", or make a new DiskMigration with copyMode Auto or WriteBlocking" if journal.can_be_write_blocking else ""
        )
        message = (
            "The guest writes faster than the mirror copies, so what is left does not grow less. Raise spec.bandwidth "
            f"if it is set, let the guest write less{more}."
        )
    elif journal.is_write_blocking:
        reason = "WriteBlocking"
        message = "The guest wrote faster than the mirror copied. Its writes wait for the destination since."
    elif conditions.find(before, ConditionType.CONVERGING) is not None:
        reason, message = "RemainderFalls", "What is left to mirror grows less again."
    else:
        return ()
    converging = conditions.condition(
        before,
        ConditionType.CONVERGING,
        not falls_behind,
        reason=reason,
        message=message,
        generation=migration.metadata.generation,
        now=now,
    )
    return (converging,)


@dataclass(frozen=True)
class _Summary:
    """What the phase and the conditions say; `stalled` is what somebody has to look at before it can go on."""

    phase: Phase
    reason: str
    message: str
    succeeded: ConditionStatus = ConditionStatus.UNKNOWN
    is_synchronized: bool = False
    stalled: MigrationError | None = None


def _summed_up(
    before: DiskMigrationStatus, migration: DiskMigration, summary: _Summary, *, now: datetime
) -> DiskMigrationStatus:
    """Return the status with the phase and the agent's five conditions as they are now."""
    return before.model_copy(
        update={
            "observed_generation": migration.metadata.generation,
            "phase": summary.phase,
            "conditions": _conditions(before.conditions, migration, summary, now=now),
        }
    )


def _conditions(
    before: tuple[Condition, ...], migration: DiskMigration, summary: _Summary, *, now: datetime
) -> tuple[Condition, ...]:
    """Return the conditions. Stalled is what tells kstatus, and so GitOps, not to wait any longer."""
    succeeded, stalled = summary.succeeded, summary.stalled
    reason, message = summary.reason, summary.message
    if stalled is not None:
        reason, message = stalled.reason.value, stalled.message
    is_active = succeeded is ConditionStatus.UNKNOWN
    states: dict[str, ConditionStatus | bool] = {
        ConditionType.SYNCHRONIZED: summary.is_synchronized,
        ConditionType.SUCCEEDED: succeeded,
        ConditionType.READY: succeeded is ConditionStatus.TRUE,
        ConditionType.RECONCILING: is_active and stalled is None,
        ConditionType.STALLED: succeeded is ConditionStatus.FALSE or stalled is not None,
    }
    return conditions.conditions_of(
        before, states, reason=reason, message=message, generation=migration.metadata.generation, now=now
    )
