"""Pivoting: the destination becomes the active layer. Whether it has is asked of libvirt, never assumed."""

import time
from datetime import UTC, datetime
from functools import partial

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.steps.definition import remember_disk, settle_persistent_source
from diskmigration.agent.storage import qemu_img
from diskmigration.api.disk_migration import Failure, Phase
from diskmigration.api.errors import MigrationError, Reason

_SETTLE_SECONDS = 0.2
_TELL_SECONDS = 2.0
"""A pivot that takes no longer is told by its phase alone."""


def pivot(attempt: Attempt) -> None:
    """Pivots the synchronized mirror, and waits until the live XML says so: libvirt may answer before it does.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: PivotFailed, DestinationFull; the VM is still on its source.
    """
    mirror = attempt.journal.mirror
    attempt.keep_destination()
    with attempt.turn():
        attempt.failpoint("midway")
        with seen_if_full(attempt.destination, attempt.journal.mirror.name, Reason.DESTINATION_FULL):
            pivot_to(attempt, mirror, has_pivoted=True, is_merged=False)
    attempt.failpoint("acted")


def settle_pivot(attempt: Attempt) -> None:
    """Of a VM that ended in the midst of a pivot: libvirt may say that it had not happened because it saw no more.

    With the same data on both sides either is as good. Else nobody can tell which has the guest's last writes, and the
    migration ends with both kept.

    Raises:
        MigrationError: StorageFailed.
    """
    journal = attempt.journal
    activate_all(attempt)
    path, other_path = attempt.active_path(), journal.pivoting_to or ""
    now = datetime.now(UTC)
    attempt.status.show_activity(f"Comparing {path} with {other_path} since {now:%Y-%m-%dT%H:%M:%SZ}.")
    sides = (journal.chain_of(journal.volume(side)) for side in (path, other_path))
    if qemu_img.is_equal(*sides, keep_on=attempt.keep_on):
        attempt.record(pivoting_to=None)
        return
    message = (
        f"The VM ended in the midst of a pivot. libvirt has its disk {attempt.target} at {path}, but {other_path} has "
        "other data, and which of them has the guest's last writes cannot be told. Both were kept, with all that is "
        "below them. Look into both before you start the VM, and have its XML name the right one."
    )
    failure = Failure(reason=Reason.VIRTUAL_MACHINE_STOPPED, message=message, phase=Phase.PIVOTING)
    attempt.record(failure=failure, outcome=Phase.FAILED)


def activate_all(attempt: Attempt) -> None:
    """Make all volumes of both sides ready for use on this node, where no VM does.

    Raises:
        MigrationError: StorageFailed.
    """
    for driver, volumes in (
        (attempt.source.driver, attempt.journal.at_source),
        (attempt.destination.driver, attempt.journal.at_destination),
    ):
        for volume in volumes:
            driver.activate(volume.name)


def pivot_to(attempt: Attempt, volume: JournalVolume, **known: bool) -> None:
    """Pivots the disk's block job, and returns when the volume that it writes to is the active layer in both XMLs.

    `known` are fields that the journal has from then on. Until then it says that the pivot was asked for.

    Raises:
        MigrationError: PivotFailed; the active layer is the one that it was.
        HypervisorUnavailableError: libvirtd was restarted, and is to be asked anew.
        DomainGoneError: the VM ended before it was pivoted.
    """
    remember_disk(attempt)
    before = attempt.journal.pivoting_to
    attempt.record(pivoting_to=volume.path)
    try:
        attempt.act(f"pivoting {attempt.target}", partial(block_jobs.pivot, attempt.domain, target=attempt.target))
    except (DomainGoneError, block_jobs.JobGoneError):
        # QEMU was not asked: libvirt saw that the VM or the job had ended. An agent before this one may have asked.
        attempt.record(pivoting_to=before)
        raise
    since, began_at = datetime.now(UTC), time.monotonic()
    while (found := attempt.look())[1] is not None:
        attempt.wait(_SETTLE_SECONDS)
        if time.monotonic() > began_at + _TELL_SECONDS:
            attempt.status.show_activity(
                f"Waiting for QEMU to complete the pivot to {volume.path} since {since:%Y-%m-%dT%H:%M:%SZ}."
            )
    disk, _ = found
    if disk.mirror is not None:
        raise HypervisorUnavailableError(f"libvirtd was restarted while {attempt.target} was pivoted.")
    path = disk.active.path if disk.active is not None else ""
    if path != volume.path:
        raise MigrationError(
            Reason.PIVOT_FAILED,
            f"The block job of {attempt.target} ended while pivoting, and the VM is still on {path or 'no volume'}.",
        )
    settle_persistent_source(attempt, volume)
    attempt.record(pivoting_to=None, **known)
