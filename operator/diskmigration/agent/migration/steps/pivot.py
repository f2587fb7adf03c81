"""Pivoting: the destination becomes the active layer. Whether it has is asked of libvirt, never assumed."""

from functools import partial

from diskmigration.agent.hypervisor import block_jobs
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.steps.definition import remember_disk, settle_persistent_source
from diskmigration.agent.storage import qemu_img
from diskmigration.api.disk_migration import Failure, Phase
from diskmigration.api.errors import MigrationError, Reason

_SETTLE_SECONDS = 0.2


def pivot(context: MigrationContext) -> None:
    """Pivot the synchronized mirror, and wait until the live XML says so: libvirt may answer before it does.

    Raises:
        TurnTakenError: another disk of the VM is being switched.
        MigrationError: PivotFailed, DestinationFull; the VM is still on its source.
    """
    mirror = context.journal.mirror
    context.keep_destination()
    with context.turn():
        context.failpoint("midway")
        with seen_if_full(context.destination, context.journal.mirror.name, Reason.DESTINATION_FULL):
            pivot_to(context, mirror, has_pivoted=True, is_merged=False)
    context.failpoint("acted")


def settle_pivot(context: MigrationContext) -> None:
    """Resolve a pivot that was interrupted by the VM's end. libvirt may report the old side although QEMU had switched.

    With the same data on both sides either is as good. Else nobody can tell which has the guest's last writes, and the
    migration ends with both kept.

    Raises:
        MigrationError: StorageFailed.
    """
    journal = context.journal
    activate_all(context)
    path, other_path = context.active_path(), journal.pivoting_to or ""
    sides = (journal.chain_of(journal.volume(side)) for side in (path, other_path))
    with context.doing(f"Comparing {path} with {other_path}"):
        is_equal = qemu_img.is_equal(*sides, keep_on=context.keep_on)
    if is_equal:
        context.record(pivoting_to=None)
        return
    message = (
        f"The VM ended during the pivot. libvirt has its disk {context.target} at {path}, but {other_path} has "
        "other data, and which of them has the guest's last writes cannot be told. Both were kept, with all that is "
        "below them. Look into both before you start the VM, and have its XML name the right one."
    )
    failure = Failure(reason=Reason.VIRTUAL_MACHINE_STOPPED, message=message, phase=Phase.PIVOTING)
    context.record(failure=failure, outcome=Phase.FAILED)


def activate_all(context: MigrationContext) -> None:
    """Make all volumes of both sides ready for use on this node, where no VM does.

    Raises:
        MigrationError: StorageFailed.
    """
    for driver, volumes in (
        (context.source.driver, context.journal.at_source),
        (context.destination.driver, context.journal.at_destination),
    ):
        with context.doing(f"Activating the volumes in the storage domain {driver.name}"):
            for volume in volumes:
                driver.activate(volume.name)


def pivot_to(context: MigrationContext, volume: JournalVolume, **known: bool) -> None:
    """Pivot the disk's block job, and return when the volume that it writes to is the active layer in both XMLs.

    `known` are fields that the journal has from then on. Until then it says that the pivot was asked for.

    Raises:
        MigrationError: PivotFailed; the active layer is the one that it was.
        HypervisorUnavailableError: libvirtd was restarted, and is to be asked again.
        DomainGoneError: the VM ended before it was pivoted.
    """
    remember_disk(context)
    before = context.journal.pivoting_to
    context.record(pivoting_to=volume.path)
    try:
        context.act(f"pivoting {context.target}", partial(block_jobs.pivot, context.domain, target=context.target))
    except (DomainGoneError, block_jobs.JobGoneError):
        # QEMU was not asked: libvirt saw that the VM or the job had ended. An agent before this one may have asked.
        context.record(pivoting_to=before)
        raise
    with context.doing(f"Waiting for QEMU to complete the pivot to {volume.path}"):
        while (seen := context.observe()).job is not None:
            context.wait(_SETTLE_SECONDS)
    if seen.disk.mirror is not None:
        raise HypervisorUnavailableError(f"libvirtd was restarted while {context.target} was pivoted.")
    path = seen.active_path
    if path != volume.path:
        raise MigrationError(
            Reason.PIVOT_FAILED,
            f"The block job of {context.target} ended while pivoting, and the VM is still on {path or 'no volume'}.",
        )
    settle_persistent_source(context, volume)
    context.record(pivoting_to=None, **known)
