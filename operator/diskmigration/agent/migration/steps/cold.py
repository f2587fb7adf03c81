"""Replicating and Pivoting of a VM that is shut off: the active layer is copied too, and the XML names the copy.

QEMU's own locks keep a VM that starts meanwhile from writing to what is being copied: libvirt refuses to start it. What
was copied counts only for as long as the lock was held: a VM may have run since.
"""

import time

from diskmigration.agent.migration.attempt import Attempt, lacking_room
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.steps.copy_volume import copy_volume
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.migration.steps.foreign_change import has_internal_snapshot
from diskmigration.agent.migration.steps.mirror_volume import extend_mirror, format_volume
from diskmigration.agent.migration.volume_access import require_openable
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.image_locks import ImageInUseError
from diskmigration.api.errors import MigrationError, Reason

_SETTLE_SECONDS = 0.2


def copy_cold(attempt: Attempt) -> None:
    """Copies the active layer, and keeps writers out from before that on; returns early when the round begins anew.

    Raises:
        MigrationError: CopyFailed, DestinationFull, StorageFailed, VirtualMachineNotRunning.
    """
    journal = attempt.journal
    mirrored, mirror = journal.mirrored, journal.mirror
    attempt.source.driver.activate(mirrored.name)
    try:
        attempt.keep_writers_out()
    except ImageInUseError:
        # It starts just now, or is about to be seen as one that libvirt has lost track of.
        attempt.wait(_SETTLE_SECONDS)
        return
    # The next round tells of a snapshot that was taken before the lock was held.
    if attempt.is_running() or has_internal_snapshot(attempt):
        return
    if not journal.has_cold_copy:
        attempt.record(has_cold_copy=True)
    extend_mirror(attempt)
    with lacking_room(Reason.DESTINATION_FULL):
        format_volume(attempt, mirror)
    attempt.reach(Moment.MIDWAY)
    bandwidth = attempt.latest().spec.bandwidth
    internal = sum(journal.copy_bytes)
    # With nothing of its own below it, the copy takes in the whole chain.
    chain = journal.chain_of(mirrored)
    size = qemu_img.measure(chain if journal.below(mirror) is None else chain[-1:], target=mirror.format).required_bytes

    def show(share: float) -> None:
        attempt.show_progress(now=time.monotonic(), copied=internal + int(size * share), total=internal + size)

    show(0.0)
    with lacking_room(Reason.DESTINATION_FULL):
        is_whole = copy_volume(
            journal,
            mirrored,
            mirror,
            bandwidth=bandwidth,
            on_progress=show,
            keep_on=lambda: attempt.keeps_on_at(bandwidth),
        )
    if is_whole:
        attempt.reach(Moment.ACTED)
        attempt.has_cold_copy = attempt.was_in_step = True


def pivot_cold(attempt: Attempt) -> None:
    """Have the persistent XML name the copy, which QEMU can open, while writers are still kept out.

    Raises:
        MigrationError: PivotFailed, VolumeNotAccessible; the VM is still on its source.
    """
    mirrored, mirror = attempt.journal.mirrored, attempt.journal.mirror
    for volume in attempt.journal.at_destination:
        require_openable(attempt.domain, attempt.journal, volume, attempt.destination.driver)
    attempt.keep_destination()
    with attempt.node.turns.of(attempt.domain.uuid):
        attempt.reach(Moment.MIDWAY)
        if attempt.active_path() != mirrored.path:
            # The definition was replaced while the copy was made.
            return
        settle_persistent_source(attempt, mirror)
        # One that began to start with the old XML is about to be refused by its QEMU.
        while attempt.active_path() == mirrored.path and attempt.is_running():
            attempt.wait(_SETTLE_SECONDS)
    attempt.reach(Moment.ACTED)
    if (path := attempt.active_path()) != mirror.path:
        raise MigrationError(
            Reason.PIVOT_FAILED, f"libvirt took the XML that has {attempt.target} on {mirror.path}, but shows {path}."
        )
    attempt.record(has_pivoted=True, is_merged=False)
