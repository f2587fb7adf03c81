"""CopyingChain: fill the internal volumes at the destination from those that the snapshot froze."""

import time

from diskmigration.agent.migration.attempt import Attempt, lacking_room
from diskmigration.agent.migration.journal import JournalVolume, Stage
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.storage import qemu_img
from diskmigration.api.errors import Reason


def copy_chain(attempt: Attempt) -> None:
    """Copies what is not copied yet, base first; returns early when something else has to be looked at.

    A volume whose copy was interrupted is copied again: its source is frozen, so the result is the same.

    Raises:
        MigrationError: CopyFailed, DestinationFull.
    """
    journal = attempt.journal
    pairs = tuple(zip(journal.internal_copies, journal.copy_bytes, strict=True))
    total = sum(journal.copy_bytes)
    done = sum(size for (_, volume), size in pairs if volume.name in journal.copied)
    below: JournalVolume | None = None
    for (source, destination), size in pairs:
        if destination.name not in journal.copied:
            if not _copy(attempt, source, destination, below, done=done, size=size, total=total):
                return
            done += size
            attempt.reach(Moment.MIDWAY)
            attempt.record(copied=(*attempt.journal.copied, destination.name))
        below = destination
    attempt.reach(Moment.ACTED)
    attempt.record(stage=Stage.COPIED)


def _copy(
    attempt: Attempt,
    source: JournalVolume,
    destination: JournalVolume,
    below: JournalVolume | None,
    *,
    done: int,
    size: int,
    total: int,
) -> bool:
    bandwidth = attempt.latest().spec.bandwidth

    def show(share: float) -> None:
        attempt.show_progress(now=time.monotonic(), copied=done + int(size * share), total=total)

    def keep_on() -> bool:
        # qemu-img cannot change its rate while it runs: another limit means to start this volume again.
        return attempt.keep_on() and attempt.latest().spec.bandwidth == bandwidth

    show(0.0)
    with lacking_room(Reason.DESTINATION_FULL):
        return qemu_img.copy(
            attempt.journal.chain_of(source),
            destination.image,
            below=below.image if below is not None else None,
            target_is_zero=qemu_img.is_zero_when_fresh(destination.image),
            bandwidth_bytes_per_second=bandwidth,
            on_progress=show,
            keep_on=keep_on,
        )
