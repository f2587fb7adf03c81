"""Replicating and Pivoting of a VM that is shut off: the active layer is copied too, and the XML names the copy.

The VM may be started meanwhile. On files QEMU's own locks refuse that; on block storage nothing does. What was copied
counts only if nobody can have written to the source since before the copy: see migration/disturbance.py.
"""

import logging
import time

from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.disturbance import disturbance, has_started_since, mark_of
from diskmigration.agent.migration.full_domain import lacking_room
from diskmigration.agent.migration.steps.cold_switch import settle_cold_switch, switch_cold
from diskmigration.agent.migration.steps.copy_volume import copy_volume
from diskmigration.agent.migration.steps.foreign_change import has_internal_snapshot
from diskmigration.agent.migration.steps.mirror_volume import extend_mirror, format_volume
from diskmigration.agent.migration.volume_access import require_openable
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.image_locks import ImageInUseError
from diskmigration.api.errors import Reason

_log = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.2


def copy_cold(attempt: Attempt) -> None:
    """Copies the active layer, and keeps writers out from before that on; returns early when the round begins anew.

    Raises:
        MigrationError: CopyFailed, DestinationFull, StorageFailed, VirtualMachineNotRunning.
    """
    journal = attempt.journal
    mirrored, mirror = journal.mirrored, journal.mirror
    attempt.source.driver.activate(mirrored.name, alone=True)
    try:
        attempt.lock_image()
    except ImageInUseError:
        # It starts just now, or is about to be seen as one that libvirt has lost track of.
        attempt.wait(_SETTLE_SECONDS)
        return
    since = mark_of(attempt, mirrored)
    # The next round tells of a snapshot that was taken before the lock was held.
    if attempt.is_running() or has_internal_snapshot(attempt):
        return
    if since.starts is None:
        attempt.wait(_SETTLE_SECONDS)
        return
    if not journal.has_cold_copy:
        attempt.record(has_cold_copy=True)
    extend_mirror(attempt)
    with lacking_room(Reason.DESTINATION_FULL):
        format_volume(attempt, mirror)
    attempt.failpoint("midway")
    bandwidth = attempt.latest().spec.bandwidth
    internal = sum(journal.copy_bytes)
    # With nothing of its own below it, the copy takes in the whole chain.
    chain = journal.chain_of(mirrored)
    measured = chain if journal.below(mirror) is None else chain[-1:]
    size = qemu_img.measure(measured, target=mirror.format, keep_on=attempt.keep_on).required_bytes

    def show(share: float) -> None:
        attempt.status.show_progress(now=time.monotonic(), copied=internal + int(size * share), total=internal + size)

    show(0.0)
    with lacking_room(Reason.DESTINATION_FULL):
        is_whole = copy_volume(
            journal,
            mirrored,
            mirror,
            bandwidth=bandwidth,
            on_progress=show,
            on_beat=attempt.status.note_beat,
            keep_on=lambda: attempt.keeps_on_at(bandwidth) and not has_started_since(attempt, since),
        )
    if is_whole:
        attempt.failpoint("acted")
        attempt.cold_copy_mark = since
        attempt.was_in_step = True


def pivot_cold(attempt: Attempt) -> None:
    """Have the persistent XML name the copy, which QEMU can open, if it is of all that was written; else copy again.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: PivotFailed, StorageFailed, VolumeNotAccessible; the VM is still on its source.
    """
    mirrored, mirror = attempt.journal.mirrored, attempt.journal.mirror
    since = attempt.cold_copy_mark
    assert since is not None  # noqa: S101 - decided only where there is one
    for volume in attempt.journal.at_destination:
        require_openable(attempt.domain, attempt.journal, volume, attempt.destination.driver)
    attempt.keep_destination()
    if (why := disturbance(attempt, mirrored, since)) is not None:
        _log.info("a cold copy does not count", extra={"migration": attempt.journal.migration.key, "why": why})
        attempt.unlock_image()
        return
    with attempt.turn():
        attempt.failpoint("midway")
        if attempt.active_path() != mirrored.path:
            # The definition was replaced while the copy was made.
            return
        switch_cold(attempt, old=mirrored, new=mirror, since=since)
    attempt.failpoint("acted")
    settle_cold_switch(attempt)
