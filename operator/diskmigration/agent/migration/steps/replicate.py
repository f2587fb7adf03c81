"""Replicating and Synchronized: mirror the active layer to the destination, and keep it in step until the pivot."""

import time
from functools import partial

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.context import MigrationContext
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


def start_replication(context: MigrationContext) -> None:
    """Size the mirror's volume for what the guest has written by now, verify it, then start the block copy.

    Raises:
        MigrationError: BlockJobFailed, StorageFailed, DestinationFull.
        DomainGoneError: the VM has just ended.
        VirtualMachinePausedError: the VM has to be resumed first.
    """
    context.require_running()
    if context.has_replication:
        context.has_replication = False
        trouble = context.node.extender.status_of(context.journal.mirror.path).trouble
        if isinstance(trouble, NoRoomError):
            raise MigrationError(Reason.DESTINATION_FULL, f"The copy of {context.target} ran full. {trouble.message}")
        with seen_if_full(context.destination, context.journal.mirror.name, Reason.DESTINATION_FULL):
            raise MigrationError(
                Reason.BLOCK_JOB_FAILED,
                f"The copy of {context.target} to {context.journal.mirror.path} ended before it was pivoted: QEMU met "
                "an error at the destination (its log tells which), or somebody aborted the job.",
            )
    journal = context.journal
    mirror = journal.mirror
    if journal.has_cold_copy:
        # The VM was started during the copy: what has been discarded since must not come back.
        format_volume(context, mirror)
        context.record(has_cold_copy=False)
    extend_mirror(context)
    context.failpoint("midway")
    require_active_disk(context)
    start = partial(
        block_jobs.start_copy,
        context.domain,
        target=context.target,
        kind=mirror.type.lower(),
        path=mirror.path,
        image_format=mirror.format,
        shallow=journal.takes_snapshot or (len(journal.source) > 1 and not journal.flattens),
        write_blocking=journal.copy_mode is CopyMode.WRITE_BLOCKING,
        bandwidth_bytes_per_second=context.latest().spec.bandwidth,
    )
    context.act(f"starting the copy of {context.target} to {mirror.path}", start)
    context.failpoint("acted")
    # libvirt takes no snapshot under a block job: one that is not there now comes too late.
    if has_internal_snapshot(context):
        abort_replication(context)
        return
    context.has_replication = True
    context.was_in_step = False
    context.convergence = Convergence()
    context.node.extender.observe_soon(context.domain.uuid)


def measure_replication(context: MigrationContext, job: BlockJob) -> None:
    """Record how far the mirror is. One that is in step waits for its cutover, and no bytes are due."""
    context.has_replication = True
    internal = sum(context.journal.copy_bytes)
    now = time.monotonic()
    context.status.measure(now=now, copied=internal + job.current_bytes, total=internal + max(job.end_bytes, 1))
    context.convergence = context.convergence.advanced(
        now=now, copied=job.current_bytes, remaining=job.end_bytes - job.current_bytes
    )
    if job.is_ready:
        context.was_in_step = True
        context.convergence = Convergence()
        context.status.note_beat()


def apply_bandwidth(context: MigrationContext, job: BlockJob) -> None:
    """Give the mirror the limit that is wished now, whoever set the one that it has.

    Raises:
        MigrationError: BlockJobFailed.
    """
    bandwidth = context.latest().spec.bandwidth
    if bandwidth != job.bandwidth_bytes_per_second:
        change = partial(block_jobs.set_bandwidth, context.domain, target=context.target, bytes_per_second=bandwidth)
        context.act(f"setting the bandwidth of {context.target}'s mirror", change)


def switch_copy_mode(context: MigrationContext) -> None:
    """End a mirror that falls behind; the next one makes the guest's writes wait for the destination.

    QEMU 7.2 has no way to change the mode of a job that runs, so what was copied is copied again.

    Raises:
        MigrationError: BlockJobFailed.
    """
    abort_replication(context)
    context.has_replication = False
    context.record(is_write_blocking=True)


def abort_replication(context: MigrationContext) -> None:
    """End the mirror; the guest goes on writing to the source alone.

    Raises:
        MigrationError: BlockJobFailed.
    """
    context.act(
        f"ending the mirror of {context.target}", partial(block_jobs.abort, context.domain, target=context.target)
    )
    context.failpoint("acted")
    # It waits for what it has asked of the storage.
    with context.doing(f"Waiting for QEMU to end the mirror to {context.journal.mirror.path}"):
        while context.observe().job is not None:
            context.wait(1.0)
