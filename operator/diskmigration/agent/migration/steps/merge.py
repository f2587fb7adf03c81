"""Merging: the migration's snapshot, or its copy at the destination, goes into the volume below it.

Each call does what is due now, and returns: start the job, keep it to the bandwidth and tell how far it is, or pivot.
"""

import time
from dataclasses import replace
from functools import partial

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.disk_activity import require_active_disk, written_since_open
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.progress import LiveMerge
from diskmigration.agent.migration.steps.cold_merge import merge_off
from diskmigration.agent.migration.steps.merge_room import Written, make_room, note_begin
from diskmigration.agent.migration.steps.pivot import pivot_to
from diskmigration.agent.migration.steps.replicate import SAMPLE_SECONDS
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.errors import MigrationError, Reason

_ROUND_SECONDS = 1.0
_NOT_COUNTED_YET = 1
"""libvirt's total of a job that QEMU has not counted yet is 0 or 1. Source: qemuBlockJobInfoTranslate."""


def merge_at_destination(context: MigrationContext) -> None:
    """After the pivot: the overlay goes into the destination's top volume, which becomes the active layer.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: MergeFailed, PivotFailed, DestinationFull; the VM runs on the overlay, and this is tried again.
    """
    overlay = context.journal.overlay
    assert overlay is not None  # noqa: S101 - decided only where there is one
    if context.merge is None:
        # Again, as it may have been somebody else who pivoted.
        context.keep_destination()
    with seen_if_full(context.destination, context.journal.destination[-1].name, Reason.DESTINATION_FULL):
        _merge(context, overlay=overlay, base=context.journal.destination[-1], home=context.destination)


def merge_back(context: MigrationContext) -> None:
    """A migration that was given up: the snapshot goes back into the source's top volume.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: MergeFailed, PivotFailed, SourceFull; the VM runs on the snapshot, and this is tried again.
    """
    snapshot = context.journal.snapshot
    assert snapshot is not None  # noqa: S101 - decided only where there is one
    with seen_if_full(context.source, context.journal.source[-1].name, Reason.SOURCE_FULL):
        _merge(context, overlay=snapshot, base=context.journal.source[-1], home=context.source)


def _merge(context: MigrationContext, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    seen = context.observe()
    job = seen.job
    if not seen.is_running:
        context.merge = None
        merge_off(context, overlay=overlay, base=base, home=home)
        return
    if seen.active_path != overlay.path:
        # It was pivoted or put elsewhere just now: the next round sees where.
        context.merge = None
        return
    if job is None:
        _start(context, overlay=overlay, base=base, home=home)
    elif not job.is_commit or (job.mirror is not None and job.mirror.layer.path != base.path):
        raise MigrationError(
            Reason.FOREIGN_CHANGE,
            f"The disk {context.target} is under a foreign block job ({job.kind}), so {overlay.path} cannot be "
            f"merged. End it with `virsh blockjob VM {context.target} --abort`: the migration then goes on.",
        )
    else:
        _follow(context, job, overlay=overlay, base=base)


def _start(context: MigrationContext, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    if context.merge is not None:
        context.merge = None
        raise MigrationError(
            Reason.MERGE_FAILED,
            f"The merge of {overlay.path} into {base.path} ended before its time: QEMU met an error there (its log "
            "tells which), or somebody aborted the job. It is tried again.",
        )
    _require_fresh_base(context, base)
    note_begin(context, base, home)
    written = Written(written_since_open(context, overlay), written_since_open(context, base))
    with context.doing(f"Measuring {overlay.path} and making room for it in {base.path}"):
        make_room(
            overlay=overlay,
            base=base,
            home=home,
            written=written,
            first_end=context.journal.merge_base_end,
            has_failed=context.status.failures > 0,
            keep_on=context.keep_on,
        )
    require_active_disk(context)
    bandwidth = context.latest().spec.bandwidth
    with context.turn():
        start = partial(
            block_jobs.start_commit,
            context.domain,
            target=context.target,
            into_path=base.path,
            bandwidth_bytes_per_second=bandwidth,
        )
        context.act(f"starting the merge of {overlay.path} into {base.path}", start)
    context.status.awaits_resume = None
    context.merge = LiveMerge(bandwidth)
    context.node.extender.observe_soon(context.domain.uuid)
    context.failpoint("midway")


def _follow(context: MigrationContext, job: BlockJob, *, overlay: JournalVolume, base: JournalVolume) -> None:
    """Pivot a merge that is through; else see that it keeps to its bandwidth, and tell how far it is."""
    # Where there is none, an agent before this one has started it.
    _apply_bandwidth(context, job, context.merge or LiveMerge(job.bandwidth_bytes_per_second))
    until = time.monotonic() + _ROUND_SECONDS
    latest: BlockJob | None = job
    while latest is not None and not latest.is_ready and _is_in_step(latest) and time.monotonic() < until:
        # The guest writes: both sides are equal for moments only.
        context.wait(SAMPLE_SECONDS)
        latest = context.observe().job
    if latest is not None and latest.is_ready:
        _pivot(context, base)
    elif latest is not None and not _is_in_step(latest):
        context.status.show_merge(
            f"Merging {overlay.path} into {base.path}",
            since=context.journal.merge_since,
            copied=latest.current_bytes,
            total=latest.end_bytes,
        )
        context.wait(_ROUND_SECONDS)


def _apply_bandwidth(context: MigrationContext, job: BlockJob, merge: LiveMerge) -> None:
    """Keep the merge to the bandwidth until all is copied that was there when it began.

    The rest is the guest's new writes. A merge with a limit below their rate would never end.
    """
    if merge.total_bytes is None and job.end_bytes > _NOT_COUNTED_YET:
        merge = replace(merge, total_bytes=job.end_bytes)
    context.merge = merge
    has_copied_all = merge.total_bytes is not None and job.current_bytes >= merge.total_bytes
    bandwidth = None if has_copied_all or _is_in_step(job) else context.latest().spec.bandwidth
    if bandwidth != merge.bandwidth:
        change = partial(block_jobs.set_bandwidth, context.domain, target=context.target, bytes_per_second=bandwidth)
        context.act(f"setting the bandwidth of {context.target}'s merge", change)
        context.merge = replace(merge, bandwidth=bandwidth)


def _is_in_step(job: BlockJob) -> bool:
    return job.mirror is not None and job.stays_ready


def _pivot(context: MigrationContext, base: JournalVolume) -> None:
    with context.turn():
        context.merge = None
        pivot_to(context, base, is_merged=True)
    context.failpoint("acted")
    _tell_of_detect_zeroes(context, base)


def _require_fresh_base(context: MigrationContext, base: JournalVolume) -> None:
    """Check that QEMU opened the volume below after qemu-img had changed it: it keeps the tables that it has read.

    On files no VM starts while qemu-img has the volume open.
    """
    if context.journal.has_cold_merge:
        raise MigrationError(
            Reason.MERGE_FAILED,
            f"The VM was started while its disk {context.target} was merged into {base.path}, and QEMU may have read "
            "what was changed there. Its data are whole, but a merge by this QEMU could damage them. Shut the VM down: "
            "the migration then goes on.",
        )


def _tell_of_detect_zeroes(context: MigrationContext, base: JournalVolume) -> None:
    """Note it for the last message: libvirt opens what lies below a mirror without detect_zeroes, for good."""
    mode = context.disk().detect_zeroes
    if base != context.journal.destination[-1] or mode not in ("on", "unmap") or not context.is_running():
        return
    remark = (
        f"detect_zeroes='{mode}' of {context.target} is in force again after the VM's next start: until then, zeroes "
        "that the guest writes take room."
    )
    if remark not in context.journal.remarks:
        context.record(remarks=(*context.journal.remarks, remark))
