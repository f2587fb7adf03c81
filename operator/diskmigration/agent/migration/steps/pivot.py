"""Pivoting: the destination becomes the active layer. Whether it has is asked of libvirt, never assumed."""

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.moments import Moment
from diskmigration.api.errors import MigrationError, Reason

_SETTLE_SECONDS = 0.2


def pivot(attempt: Attempt) -> None:
    """Pivots the synchronized mirror, and waits until the live XML says so: libvirt may answer before it does.

    Raises:
        MigrationError: PivotFailed; the VM is still on its source.
    """
    mirror = attempt.journal.mirror
    attempt.keep_destination()
    with attempt.node.turns.of(attempt.domain.uuid):
        attempt.reach(Moment.MIDWAY)
        block_jobs.pivot(attempt.domain, target=attempt.target)
        wait_for_pivot(attempt, mirror)
    attempt.reach(Moment.ACTED)
    settle_persistent_source(attempt, mirror)


def wait_for_pivot(attempt: Attempt, volume: JournalVolume) -> None:
    """Returns when the volume is the active layer and no mirror is left.

    Raises:
        MigrationError: PivotFailed, when the job ended and the active layer is another.
    """
    while True:
        disk = attempt.disk()
        active = disk.active
        if disk.mirror is None:
            if active is not None and active.path == volume.path:
                return
            raise MigrationError(
                Reason.PIVOT_FAILED,
                f"The block job of {attempt.target} ended while pivoting, and the VM is still on "
                f"{active.path if active is not None else 'no volume'}.",
            )
        attempt.wait(_SETTLE_SECONDS)


def settle_persistent_source(attempt: Attempt, volume: JournalVolume) -> None:
    """Makes the persistent XML name the volume too.

    libvirt rewrites it at a pivot only if it matched the live one before, and says nothing otherwise.
    """
    persistent = attempt.domain.describe_persistent()
    disk = persistent.disk(attempt.target) if persistent is not None else None
    if disk is None:
        return
    active = disk.active
    if (
        active is None
        or (active.path, active.format) != (volume.path, volume.format)
        or disk.type != volume.type.lower()
    ):
        attempt.domain.replace_persistent_source(
            target=attempt.target, kind=volume.type.lower(), path=volume.path, image_format=volume.format
        )
