"""Merging: the migration's snapshot, or its copy at the destination, goes into the volume below it."""

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.sizing import merged_volume_size
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.migration.steps.pivot import pivot_to
from diskmigration.agent.migration.steps.replicate import SAMPLE_SECONDS
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_POLL_SECONDS = 1.0


def merge_at_destination(attempt: Attempt) -> None:
    """After the pivot: the overlay goes into the destination's top volume, which becomes the active layer.

    Raises:
        MigrationError: MergeFailed, PivotFailed, DestinationFull; the VM runs on the overlay, and this is tried again.
    """
    overlay = attempt.journal.overlay
    assert overlay is not None  # noqa: S101 - decided only where there is one
    # Again, as it may have been somebody else who pivoted.
    attempt.keep_destination()
    with seen_if_full(attempt.destination, Reason.DESTINATION_FULL):
        _merge(attempt, overlay=overlay, base=attempt.journal.destination[-1], home=attempt.destination)


def merge_back(attempt: Attempt) -> None:
    """A migration that was given up: the snapshot goes back into the source's top volume.

    Raises:
        MigrationError: MergeFailed, PivotFailed, SourceFull; the VM runs on the snapshot, and this is tried again.
    """
    snapshot = attempt.journal.snapshot
    assert snapshot is not None  # noqa: S101 - decided only where there is one
    with seen_if_full(attempt.source, Reason.SOURCE_FULL):
        _merge(attempt, overlay=snapshot, base=attempt.journal.source[-1], home=attempt.source)


def merge_cold(*, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    """Merges while no VM runs on the two; QEMU's own locks refuse it otherwise.

    Raises:
        MigrationError: MergeFailed, StorageFailed.
    """
    for volume in (base, overlay):
        home.driver.activate(volume.name)
    _make_room(base=base, home=home, held=home.driver.size_bytes(overlay.name))
    qemu_img.commit(overlay.image, base.image)


def _merge(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    with attempt.node.turns.of(attempt.domain.uuid):
        if attempt.is_running():
            _merge_live(attempt, overlay=overlay, base=base, home=home)
        else:
            merge_cold(overlay=overlay, base=base, home=home)
    attempt.reach(Moment.ACTED)
    settle_persistent_source(attempt, base)
    _tell_of_detect_zeroes(attempt, base)


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


def _merge_live(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    has_begun = False
    disk, job = attempt.look()
    while disk.active is not None and disk.active.path == overlay.path:
        if job is None and has_begun:
            raise MigrationError(
                Reason.MERGE_FAILED,
                f"The merge of {overlay.path} into {base.path} ended before its time: QEMU met an error there (its log "
                "tells which), or somebody aborted the job. It is tried again.",
            )
        has_begun = True
        if job is None:
            _make_room(base=base, home=home, held=attempt.held_at_most(overlay, home.driver))
            block_jobs.start_commit(attempt.domain, target=attempt.target, into_path=base.path)
            attempt.node.extender.look_soon(attempt.domain.uuid)
            attempt.reach(Moment.MIDWAY)
        elif not job.is_commit or (job.mirror is not None and job.mirror.layer.path != base.path):
            raise MigrationError(
                Reason.FOREIGN_CHANGE,
                f"The disk {attempt.target} is under a foreign block job ({job.kind}), so {overlay.path} cannot be "
                f"merged. End it with `virsh blockjob VM {attempt.target} --abort`: the migration then goes on.",
            )
        elif job.is_ready:
            pivot_to(attempt, base)
        else:
            attempt.wait(SAMPLE_SECONDS if job.stays_ready else _POLL_SECONDS)
        disk, job = attempt.look()


def _make_room(*, base: JournalVolume, home: OpenDomain, held: int) -> None:
    """Extends the volume below for all that the overlay holds, before a merge that could outrun the watermark."""
    if base.type is not StorageType.BLOCK or base.format is not VolumeFormat.QCOW2:
        return
    home.driver.extend(
        base.name,
        merged_volume_size(
            base_size=home.driver.size_bytes(base.name),
            overlay_allocated=held,
            high_watermark=home.domain.spec.thin_provisioning.high_watermark,
            capacity=base.capacity_bytes,
        ),
    )
