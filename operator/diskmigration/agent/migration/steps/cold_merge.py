"""Merging while the VM is off, by qemu-img: the XML names the volume below when it is done."""

import logging
from collections.abc import Callable
from pathlib import Path

from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.disturbance import disturbance, mark_of
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.steps.cold_switch import settle_cold_switch, switch_cold
from diskmigration.agent.migration.steps.merge_room import Written, make_room, note_begin
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.image_locks import require_no_writers
from diskmigration.agent.storage.long_command import ignore
from diskmigration.api.storage_domain import StorageType

_log = logging.getLogger(__name__)


def merge_cold(
    *,
    overlay: JournalVolume,
    base: JournalVolume,
    home: OpenDomain,
    keep_on: Callable[[], bool],
    bandwidth: int | None = None,
    on_progress: Callable[[float], None] = ignore,
    first_end: int | None = None,
    has_failed: bool = False,
) -> None:
    """Merge while no VM runs on the two. `on_progress` gets the share done, 0 to 1.

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
    qemu_img.commit(
        overlay.image, base.image, bandwidth_bytes_per_second=bandwidth, on_progress=on_progress, keep_on=keep_on
    )
    require_no_writers(paths)


def merge_off(context: MigrationContext, *, overlay: JournalVolume, base: JournalVolume, home: OpenDomain) -> None:
    """Merge for a VM that is off; if it starts meanwhile, its XML is left as it is, and the merge is made again.

    Raises:
        StoppedError: it is to be begun again, with another bandwidth.
        MigrationError: MergeFailed, PivotFailed, StorageFailed.
    """
    home.driver.activate(overlay.name)
    since = mark_of(context, overlay)
    if context.is_running() or since.starts is None:
        return
    note_begin(context, base, home)
    if base.type is StorageType.BLOCK and not context.journal.has_cold_merge:
        context.record(has_cold_merge=True)
    bandwidth = context.latest().spec.bandwidth

    def show(share: float) -> None:
        what = f"Merging {overlay.path} into {base.path}"
        context.status.show_merge(what, since=context.journal.merge_since, share=share)

    merge_cold(
        overlay=overlay,
        base=base,
        home=home,
        keep_on=lambda: context.keeps_on_at(bandwidth),
        bandwidth=bandwidth,
        on_progress=show,
        first_end=context.journal.merge_base_end,
        has_failed=context.status.failures > 0,
    )
    context.failpoint("acted")
    if (why := disturbance(context, overlay, since)) is not None:
        _log.info("a merge does not count", extra={"migration": context.journal.migration.key, "why": why})
        return
    # A VM that starts from now on reads what was merged.
    context.record(has_cold_merge=False)
    switch_cold(context, old=overlay, new=base, since=since)
    settle_cold_switch(context)
