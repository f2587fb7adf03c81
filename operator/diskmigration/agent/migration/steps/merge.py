"""Merging: the migration's snapshot, or its copy at the destination, goes into the volume below it."""

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.migration.steps.merge_room import Written, base_end, make_room
from diskmigration.agent.migration.steps.pivot import pivot_to
from diskmigration.agent.migration.steps.replicate import SAMPLE_SECONDS
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.errors import MigrationError, Reason

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
    with seen_if_full(attempt.destination, attempt.journal.destination[-1].name, Reason.DESTINATION_FULL):
        _merge(attempt, overlay=overlay, base=attempt.journal.destination[-1], home=attempt.destination)


def merge_back(attempt: Attempt) -> None:
    """A migration that was given up: the snapshot goes back into the source's top volume.

    Raises:
        MigrationError: MergeFailed, PivotFailed, SourceFull; the VM runs on the snapshot, and this is tried again.
    """
    snapshot = attempt.journal.snapshot
    assert snapshot is not None  # noqa: S101 - decided only where there is one
    with seen_if_full(attempt.source, attempt.journal.source[-1].name, Reason.SOURCE_FULL):
        _merge(attempt, overlay=snapshot, base=attempt.journal.source[-1], home=attempt.source)


def merge_cold(
    *,
    overlay: JournalVolume,
    base: JournalVolume,
    home: OpenDomain,
    first_end: int | None = None,
    has_failed: bool = False,
) -> None:
    """Merges while no VM runs on the two; QEMU's own locks refuse it otherwise.

    `first_end` and `has_failed` tell of earlier tries: see merge_room.

    Raises:
        MigrationError: MergeFailed, StorageFailed.
    """
    for volume in (base, overlay):
        home.driver.activate(volume.name)
    make_room(overlay=overlay, base=base, home=home, written=Written(), first_end=first_end, has_failed=has_failed)
    qemu_img.commit(overlay.image, base.image)


def _merge(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    with attempt.node.turns.of(attempt.domain.uuid):
        if attempt.is_running():
            _merge_live(attempt, overlay=overlay, base=base, home=home)
        else:
            _note_first_end(attempt, base, home)
            first_end, has_failed = attempt.journal.merge_base_end, attempt.failures > 0
            merge_cold(overlay=overlay, base=base, home=home, first_end=first_end, has_failed=has_failed)
    attempt.reach(Moment.ACTED)
    settle_persistent_source(attempt, base)
    if not attempt.journal.is_merged and attempt.active_path() == base.path:
        attempt.record(is_merged=True)
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
            _note_first_end(attempt, base, home)
            make_room(
                overlay=overlay,
                base=base,
                home=home,
                written=Written(attempt.written_since_open(overlay), attempt.written_since_open(base)),
                first_end=attempt.journal.merge_base_end,
                has_failed=attempt.failures > 0,
            )
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
            pivot_to(attempt, base, is_merged=True)
        else:
            attempt.wait(SAMPLE_SECONDS if job.stays_ready else _POLL_SECONDS)
        disk, job = attempt.look()


def _note_first_end(attempt: Attempt, base: JournalVolume, home: OpenDomain) -> None:
    """How far the volume below is filled before anything is merged: a retry must not add the same again."""
    if attempt.journal.merge_base_end is not None:
        return
    home.driver.activate(base.name)
    if (end := base_end(base)) is not None:
        attempt.record(merge_base_end=end)
