"""Merging: the migration's snapshot, or its copy at the destination, goes into the volume below it.

Each call does what is due now, and returns: start the job, keep it to the bandwidth and tell how far it is, or pivot.
"""

import time
from dataclasses import replace
from functools import partial

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.attempt import Attempt, LiveMerge
from diskmigration.agent.migration.disk_activity import require_active_disk, written_since_open
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.steps.cold_merge import merge_off
from diskmigration.agent.migration.steps.merge_room import Written, make_room, note_begin
from diskmigration.agent.migration.steps.pivot import pivot_to
from diskmigration.agent.migration.steps.replicate import SAMPLE_SECONDS
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.errors import MigrationError, Reason

_ROUND_SECONDS = 1.0
_NOT_COUNTED_YET = 1
"""libvirt's total of a job that QEMU has not counted yet is 0 or 1. Source: qemuBlockJobInfoTranslate."""


def merge_at_destination(attempt: Attempt) -> None:
    """After the pivot: the overlay goes into the destination's top volume, which becomes the active layer.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: MergeFailed, PivotFailed, DestinationFull; the VM runs on the overlay, and this is tried again.
    """
    overlay = attempt.journal.overlay
    assert overlay is not None  # noqa: S101 - decided only where there is one
    if attempt.merge is None:
        # Again, as it may have been somebody else who pivoted.
        attempt.keep_destination()
    with seen_if_full(attempt.destination, attempt.journal.destination[-1].name, Reason.DESTINATION_FULL):
        _merge(attempt, overlay=overlay, base=attempt.journal.destination[-1], home=attempt.destination)


def merge_back(attempt: Attempt) -> None:
    """A migration that was given up: the snapshot goes back into the source's top volume.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: MergeFailed, PivotFailed, SourceFull; the VM runs on the snapshot, and this is tried again.
    """
    snapshot = attempt.journal.snapshot
    assert snapshot is not None  # noqa: S101 - decided only where there is one
    with seen_if_full(attempt.source, attempt.journal.source[-1].name, Reason.SOURCE_FULL):
        _merge(attempt, overlay=snapshot, base=attempt.journal.source[-1], home=attempt.source)


def _merge(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    if not attempt.is_running():
        attempt.merge = None
        merge_off(attempt, overlay=overlay, base=base, home=home)
        return
    disk, job = attempt.look()
    if disk.active is None or disk.active.path != overlay.path:
        # It was pivoted or put elsewhere just now: the next round sees where.
        attempt.merge = None
        return
    if job is None:
        _start(attempt, overlay=overlay, base=base, home=home)
    elif not job.is_commit or (job.mirror is not None and job.mirror.layer.path != base.path):
        raise MigrationError(
            Reason.FOREIGN_CHANGE,
            f"The disk {attempt.target} is under a foreign block job ({job.kind}), so {overlay.path} cannot be "
            f"merged. End it with `virsh blockjob VM {attempt.target} --abort`: the migration then goes on.",
        )
    else:
        _follow(attempt, job, overlay=overlay, base=base)


def _start(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    if attempt.merge is not None:
        attempt.merge = None
        raise MigrationError(
            Reason.MERGE_FAILED,
            f"The merge of {overlay.path} into {base.path} ended before its time: QEMU met an error there (its log "
            "tells which), or somebody aborted the job. It is tried again.",
        )
    _require_fresh_base(attempt, base)
    note_begin(attempt, base, home)
    make_room(
        overlay=overlay,
        base=base,
        home=home,
        written=Written(written_since_open(attempt, overlay), written_since_open(attempt, base)),
        first_end=attempt.journal.merge_base_end,
        has_failed=attempt.status.failures > 0,
        keep_on=attempt.keep_on,
    )
    require_active_disk(attempt)
    bandwidth = attempt.latest().spec.bandwidth
    with attempt.turn():
        start = partial(
            block_jobs.start_commit,
            attempt.domain,
            target=attempt.target,
            into_path=base.path,
            bandwidth_bytes_per_second=bandwidth,
        )
        attempt.act(f"starting the merge of {overlay.path} into {base.path}", start)
    attempt.status.awaits_resume = None
    attempt.merge = LiveMerge(bandwidth)
    attempt.node.extender.observe_soon(attempt.domain.uuid)
    attempt.failpoint("midway")


def _follow(attempt: Attempt, job: BlockJob, *, overlay: JournalVolume, base: JournalVolume) -> None:
    """Pivot a merge that is through; else see that it keeps to its bandwidth, and tell how far it is."""
    # Where there is none, an agent before this one has started it.
    _apply_bandwidth(attempt, job, attempt.merge or LiveMerge(job.bandwidth_bytes_per_second))
    until = time.monotonic() + _ROUND_SECONDS
    latest: BlockJob | None = job
    while latest is not None and not latest.is_ready and _is_in_step(latest) and time.monotonic() < until:
        # The guest writes: both sides are equal for moments only.
        attempt.wait(SAMPLE_SECONDS)
        _, latest = attempt.look()
    if latest is not None and latest.is_ready:
        _pivot(attempt, base)
    elif latest is not None and not _is_in_step(latest):
        attempt.status.show_merge(
            f"Merging {overlay.path} into {base.path}",
            since=attempt.journal.merge_since,
            copied=latest.current_bytes,
            total=latest.end_bytes,
        )
        attempt.wait(_ROUND_SECONDS)


def _apply_bandwidth(attempt: Attempt, job: BlockJob, merge: LiveMerge) -> None:
    """Keep the merge to the bandwidth until all is copied that was there when it began.

    What is left is what the guest writes meanwhile. A limit below that would let the merge never end.
    """
    if merge.total_bytes is None and job.end_bytes > _NOT_COUNTED_YET:
        merge = replace(merge, total_bytes=job.end_bytes)
    attempt.merge = merge
    has_copied_all = merge.total_bytes is not None and job.current_bytes >= merge.total_bytes
    bandwidth = None if has_copied_all or _is_in_step(job) else attempt.latest().spec.bandwidth
    if bandwidth != merge.bandwidth:
        change = partial(block_jobs.set_bandwidth, attempt.domain, target=attempt.target, bytes_per_second=bandwidth)
        attempt.act(f"setting the bandwidth of {attempt.target}'s merge", change)
        attempt.merge = replace(merge, bandwidth=bandwidth)


def _is_in_step(job: BlockJob) -> bool:
    return job.mirror is not None and job.stays_ready


def _pivot(attempt: Attempt, base: JournalVolume) -> None:
    with attempt.turn():
        attempt.merge = None
        pivot_to(attempt, base, is_merged=True)
    attempt.failpoint("acted")
    _tell_of_detect_zeroes(attempt, base)


def _require_fresh_base(attempt: Attempt, base: JournalVolume) -> None:
    """Check that QEMU opened the volume below after qemu-img had changed it: it keeps the tables that it has read.

    On files no VM starts while qemu-img has the volume open.
    """
    if attempt.journal.has_cold_merge:
        raise MigrationError(
            Reason.MERGE_FAILED,
            f"The VM was started while its disk {attempt.target} was merged into {base.path}, and QEMU may have read "
            "what was changed there. Its data are whole, but a merge by this QEMU could damage them. Shut the VM down: "
            "the migration then goes on.",
        )


def _tell_of_detect_zeroes(attempt: Attempt, base: JournalVolume) -> None:
    """Note it for the last message: libvirt opens what lies below a mirror without detect_zeroes, for good."""
    mode = attempt.disk().detect_zeroes
    if base != attempt.journal.destination[-1] or mode not in ("on", "unmap") or not attempt.is_running():
        return
    remark = (
        f"detect_zeroes='{mode}' of {attempt.target} is in force again after the VM's next start: until then, zeroes "
        "that the guest writes take room."
    )
    if remark not in attempt.journal.remarks:
        attempt.record(remarks=(*attempt.journal.remarks, remark))
