"""Merging: the migration's snapshot, or its copy at the destination, goes into the volume below it."""

import logging
from collections.abc import Callable
from pathlib import Path

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.disk_activity import require_active_disk
from diskmigration.agent.migration.disturbance import disturbance, mark_of
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.steps.cold_switch import settle_cold_switch, switch_cold
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.migration.steps.merge_room import Written, base_end, make_room
from diskmigration.agent.migration.steps.pivot import pivot_to
from diskmigration.agent.migration.steps.replicate import SAMPLE_SECONDS
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.image_locks import require_no_writers
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_log = logging.getLogger(__name__)

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
    keep_on: Callable[[], bool],
    first_end: int | None = None,
    has_failed: bool = False,
) -> None:
    """Merge while no VM runs on the two.

    `first_end` and `has_failed` tell of earlier tries: see merge_room.

    Raises:
        StoppedError: `keep_on` said no; it can be merged again.
        ImageInUseError: somebody writes to one of them, or did when it was done; nothing may be removed.
        MigrationError: MergeFailed, StorageFailed.
    """
    for volume in (base, overlay):
        home.driver.activate(volume.name, alone=True)
    paths = [Path(volume.path) for volume in (overlay, base)]
    require_no_writers(paths)
    make_room(
        overlay=overlay,
        base=base,
        home=home,
        written=Written(),
        first_end=first_end,
        has_failed=has_failed,
        keep_on=keep_on,
    )
    qemu_img.commit(overlay.image, base.image, keep_on=keep_on)
    require_no_writers(paths)


def _merge(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    with attempt.node.turns.of(attempt.domain.uuid):
        if not attempt.is_running():
            _merge_off(attempt, overlay=overlay, base=base, home=home)
            return
        _require_fresh_base(attempt, base)
        _merge_live(attempt, overlay=overlay, base=base, home=home)
    attempt.reach(Moment.ACTED)
    settle_persistent_source(attempt, base)
    if not attempt.journal.is_merged and attempt.active_path() == base.path:
        attempt.record(is_merged=True)
    _tell_of_detect_zeroes(attempt, base)


def _merge_off(attempt: Attempt, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    """Merge for a VM that is off; if it starts meanwhile, its XML is left as it is, and the merge is made again."""
    home.driver.activate(overlay.name)
    since = mark_of(attempt, overlay)
    if attempt.is_running() or since.starts is None:
        return
    _note_first_end(attempt, base, home)
    if base.type is StorageType.BLOCK and not attempt.journal.has_cold_merge:
        attempt.record(has_cold_merge=True)
    first_end, has_failed = attempt.journal.merge_base_end, attempt.failures > 0
    merge_cold(
        overlay=overlay,
        base=base,
        home=home,
        keep_on=attempt.keep_on,
        first_end=first_end,
        has_failed=has_failed,
    )
    attempt.reach(Moment.ACTED)
    if (why := disturbance(attempt, overlay, since)) is not None:
        _log.info("a merge does not count", extra={"migration": attempt.journal.migration.key, "why": why})
        return
    # A VM that starts from now on reads what was merged.
    attempt.record(has_cold_merge=False)
    switch_cold(attempt, old=overlay, new=base, since=since)
    settle_cold_switch(attempt)


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
                keep_on=attempt.keep_on,
            )
            require_active_disk(attempt)
            block_jobs.start_commit(attempt.domain, target=attempt.target, into_path=base.path)
            attempt.node.extender.observe_soon(attempt.domain.uuid)
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
