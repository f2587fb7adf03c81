"""Replicating and Synchronized: mirror the active layer to the destination, and keep it in step until the pivot."""

import time
from datetime import UTC, datetime
from functools import partial

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.convergence import Convergence
from diskmigration.agent.migration.disk_activity import require_active_disk
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.steps.foreign_change import has_internal_snapshot
from diskmigration.agent.migration.steps.mirror_volume import extend_mirror, format_volume
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.api.disk_migration import CopyMode
from diskmigration.api.errors import MigrationError, Reason

SAMPLE_SECONDS = 0.05
"""How often to look for the moment in which a busy guest's two sides are equal."""


def start_replication(attempt: Attempt) -> None:
    """Sizes the mirror's volume for what the guest has written by now, verifies it, then starts the block copy.

    Raises:
        MigrationError: BlockJobFailed, StorageFailed, DestinationFull.
        DomainGoneError: the VM has just ended.
        VirtualMachinePausedError: the VM has to be resumed first.
    """
    attempt.require_running()
    if attempt.has_replication:
        attempt.has_replication = False
        trouble = attempt.node.extender.status_of(attempt.journal.mirror.path).trouble
        if isinstance(trouble, NoRoomError):
            raise MigrationError(Reason.DESTINATION_FULL, f"The copy of {attempt.target} ran full. {trouble.message}")
        with seen_if_full(attempt.destination, attempt.journal.mirror.name, Reason.DESTINATION_FULL):
            raise MigrationError(
                Reason.BLOCK_JOB_FAILED,
                f"The copy of {attempt.target} to {attempt.journal.mirror.path} ended before it was pivoted: QEMU met "
                "an error at the destination (its log tells which), or somebody aborted the job.",
            )
    journal = attempt.journal
    mirror = journal.mirror
    if journal.has_cold_copy:
        # The VM was started in the midst of it: what has been discarded since must not come back.
        format_volume(attempt, mirror)
        attempt.record(has_cold_copy=False)
    extend_mirror(attempt)
    attempt.failpoint("midway")
    require_active_disk(attempt)
    start = partial(
        block_jobs.start_copy,
        attempt.domain,
        target=attempt.target,
        kind=mirror.type.lower(),
        path=mirror.path,
        image_format=mirror.format,
        shallow=journal.takes_snapshot or (len(journal.source) > 1 and not journal.flattens),
        write_blocking=journal.copy_mode is CopyMode.WRITE_BLOCKING,
        bandwidth_bytes_per_second=attempt.latest().spec.bandwidth,
    )
    attempt.act(f"starting the copy of {attempt.target} to {mirror.path}", start)
    attempt.failpoint("acted")
    # libvirt takes no snapshot under a block job: one that is not there now comes too late.
    if has_internal_snapshot(attempt):
        abort_replication(attempt)
        return
    attempt.has_replication = True
    attempt.was_in_step = False
    attempt.convergence = Convergence()
    attempt.node.extender.observe_soon(attempt.domain.uuid)


def measure_replication(attempt: Attempt, job: BlockJob) -> None:
    """Takes in how far the mirror is. One that is in step waits for its cutover, and no bytes are due."""
    attempt.has_replication = True
    internal = sum(attempt.journal.copy_bytes)
    now = time.monotonic()
    attempt.status.measure(now=now, copied=internal + job.current_bytes, total=internal + max(job.end_bytes, 1))
    attempt.convergence = attempt.convergence.advanced(
        now=now, copied=job.current_bytes, remaining=job.end_bytes - job.current_bytes
    )
    if job.is_ready:
        attempt.was_in_step = True
        attempt.convergence = Convergence()
        attempt.status.note_beat()


def apply_bandwidth(attempt: Attempt, job: BlockJob) -> None:
    """Gives the mirror the limit that is wished now, whoever set the one that it has.

    Raises:
        MigrationError: BlockJobFailed.
    """
    wanted = attempt.latest().spec.bandwidth
    if wanted != job.bandwidth_bytes_per_second:
        change = partial(block_jobs.set_bandwidth, attempt.domain, target=attempt.target, bytes_per_second=wanted)
        attempt.act(f"setting the bandwidth of {attempt.target}'s mirror", change)


def switch_copy_mode(attempt: Attempt) -> None:
    """Ends a mirror that falls behind; the next one makes the guest's writes wait for the destination.

    QEMU 7.2 has no way to change the mode of a job that runs, so what was copied is copied again.

    Raises:
        MigrationError: BlockJobFailed.
    """
    abort_replication(attempt)
    attempt.has_replication = False
    attempt.record(is_write_blocking=True)


def abort_replication(attempt: Attempt) -> None:
    """Ends the mirror; the guest goes on writing to the source alone.

    Raises:
        MigrationError: BlockJobFailed.
    """
    attempt.act(
        f"ending the mirror of {attempt.target}", partial(block_jobs.abort, attempt.domain, target=attempt.target)
    )
    attempt.failpoint("acted")
    began_at = datetime.now(UTC)
    while attempt.look()[1] is not None:
        attempt.wait(1.0)
        attempt.status.show_activity(
            f"Waiting for QEMU to end the mirror to {attempt.journal.mirror.path} since {began_at:%Y-%m-%dT%H:%M:%SZ}: "
            "it waits for what it has asked of the storage."
        )
