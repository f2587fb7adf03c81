"""Replicating and Pivoting of a VM that is shut off: the active layer is copied too, and the XML names the copy.

The VM may be started meanwhile. On files QEMU's own locks refuse that; on block storage nothing does. What was copied
counts only if nobody can have written to the source since before the copy: see migration/disturbance.py.
"""

import logging
import time
from pathlib import Path

from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.disturbance import disturbance, has_started_since, mark_of
from diskmigration.agent.migration.full_domain import lacking_room, seen_if_full
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


def copy_cold(context: MigrationContext) -> None:
    """Copy the active layer, with writers kept out since before; return early when the round has to begin again.

    Raises:
        MigrationError: CopyFailed, DestinationFull, StorageFailed, VirtualMachineNotRunning.
    """
    journal = context.journal
    mirrored, mirror = journal.mirrored, journal.mirror
    with context.doing(f"Activating {mirrored.path} on this node alone"):
        context.source.driver.activate(mirrored.name, alone=True)
    try:
        context.cold_copy.lock(Path(mirrored.path))
    except ImageInUseError:
        # It starts just now, or is about to be seen as one that libvirt has lost track of.
        context.wait(_SETTLE_SECONDS)
        return
    since = mark_of(context, mirrored)
    # The next round tells of a snapshot that was taken before the lock was held.
    if context.is_running() or has_internal_snapshot(context):
        return
    if since.starts is None:
        context.wait(_SETTLE_SECONDS)
        return
    if not journal.has_cold_copy:
        context.record(has_cold_copy=True)
    extend_mirror(context)
    with lacking_room(Reason.DESTINATION_FULL):
        format_volume(context, mirror)
    context.failpoint("midway")
    bandwidth = context.latest().spec.bandwidth
    internal = sum(journal.copy_bytes)
    # With nothing of its own below it, the copy takes in the whole chain.
    chain = journal.chain_of(mirrored)
    measured = chain if journal.below(mirror) is None else chain[-1:]
    with context.doing(f"Measuring {mirrored.path}"):
        size = qemu_img.measure(measured, target=mirror.format, keep_on=context.keep_on).required_bytes

    def show(share: float) -> None:
        context.status.show_progress(now=time.monotonic(), copied=internal + int(size * share), total=internal + size)

    show(0.0)
    with seen_if_full(context.destination, mirror.name, Reason.DESTINATION_FULL):
        is_whole = copy_volume(
            journal,
            mirrored,
            mirror,
            bandwidth=bandwidth,
            on_progress=show,
            on_beat=context.status.note_beat,
            keep_on=lambda: context.keeps_on_at(bandwidth) and not has_started_since(context, since),
        )
    if is_whole:
        context.failpoint("acted")
        context.cold_copy.since = since
        context.was_in_step = True


def pivot_cold(context: MigrationContext) -> None:
    """Have the persistent XML name the copy, which QEMU can open, if it is of all that was written; else copy again.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: PivotFailed, StorageFailed, VolumeNotAccessible; the VM is still on its source.
    """
    mirrored, mirror = context.journal.mirrored, context.journal.mirror
    since = context.cold_copy.since
    assert since is not None  # noqa: S101 - decided only where there is one
    for volume in context.journal.at_destination:
        require_openable(context.domain, context.journal, volume, context.destination.driver, context.node.running)
    context.keep_destination()
    if (why := disturbance(context, mirrored, since)) is not None:
        _log.info("a cold copy does not count", extra={"migration": context.journal.migration.key, "why": why})
        context.cold_copy.release()
        return
    with context.turn():
        context.failpoint("midway")
        if context.active_path() != mirrored.path:
            # The definition was replaced while the copy was made.
            return
        switch_cold(context, old=mirrored, new=mirror, since=since)
    context.failpoint("acted")
    settle_cold_switch(context)
