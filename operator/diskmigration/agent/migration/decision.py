"""What a migration does next. Pure: from the journal, from where libvirt says the disk is, and from what is wished."""

from dataclasses import dataclass
from enum import StrEnum

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.journal import Journal, JournalVolume, Stage
from diskmigration.api.disk_migration import CopyMode


class Place(StrEnum):
    """Which volume is the active layer."""

    SOURCE = "Source"
    SNAPSHOT = "Snapshot"
    OVERLAY = "Overlay"
    DESTINATION = "Destination"
    FOREIGN = "Foreign"


class Step(StrEnum):
    """The steps, forward and back."""

    TAKE_SNAPSHOT = "TakeSnapshot"
    FORGO_SNAPSHOT = "ForgoSnapshot"
    PREPARE_DESTINATION = "PrepareDestination"
    COPY_CHAIN = "CopyChain"
    START_REPLICATION = "StartReplication"
    DROP_REPLICATION = "DropReplication"
    SWITCH_COPY_MODE = "SwitchCopyMode"
    AWAIT_SYNC = "AwaitSync"
    AWAIT_CUTOVER = "AwaitCutover"
    PIVOT = "Pivot"
    SETTLE_PIVOT = "SettlePivot"
    SETTLE_COLD_SWITCH = "SettleColdSwitch"
    COPY_COLD = "CopyCold"
    PIVOT_COLD = "PivotCold"
    MERGE = "Merge"
    CLEAN_UP_SOURCE = "CleanUpSource"
    ABORT_REPLICATION = "AbortReplication"
    MERGE_BACK = "MergeBack"
    DISCARD_DESTINATION = "DiscardDestination"
    FINISH = "Finish"
    GIVE_UP_FOR_FOREIGN_WORK = "GiveUpForForeignWork"
    STOP_FOR_FOREIGN_CHANGE = "StopForForeignChange"
    AWAIT_END_OF_VM = "AwaitEndOfVm"
    AWAIT_RESTORE = "AwaitRestore"
    AWAIT_OTHER_HOSTS = "AwaitOtherHosts"
    AWAIT_RETURN_OF_VM = "AwaitReturnOfVm"


class Elsewhere(StrEnum):
    """Whether a VM that is off here runs on another node."""

    NOWHERE = "Nowhere"
    RUNNING = "Running"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Situation:
    """What was observed: the active layer's path, the disk's block job, and whether the pivot may happen now.

    `was_in_step` tells that this very job was once: under a busy guest the two sides are rarely equal when one looks,
    but from then on QEMU brings them together at the pivot. `falls_behind` tells that the guest writes faster than the
    job copies. `is_lost` tells that libvirt has lost track of the VM's QEMU: what libvirt says is not so, and nothing
    may be done until that has ended.

    Of a VM that is shut off, `has_cold_copy` tells that the whole disk was copied, and that nobody could write to it
    since; `was_in_step` that it was copied once. `is_saved` tells that its memory was saved, which names its disks.

    `is_put_back` tells that the XML names a volume that the guest had left: another volume of the migration holds, or
    may hold, what the guest wrote last. `elsewhere` is asked before an act on the disk of a VM that is off.
    """

    active_path: str
    job: BlockJob | None
    cutover_is_open: bool
    was_in_step: bool = False
    falls_behind: bool = False
    is_running: bool = True
    is_lost: bool = False
    is_saved: bool = False
    has_cold_copy: bool = False
    is_put_back: bool = False
    elsewhere: Elsewhere = Elsewhere.NOWHERE


def place_of(journal: Journal, path: str) -> Place:
    """Where the active layer is. The live XML is believed, and nothing else."""
    if journal.snapshot is not None and path == journal.snapshot.path:
        return Place.SNAPSHOT
    if path == journal.source[-1].path:
        return Place.SOURCE
    if journal.overlay is not None and path == journal.overlay.path:
        return Place.OVERLAY
    if path == journal.destination[-1].path:
        return Place.DESTINATION
    return Place.FOREIGN


def is_replication(journal: Journal, job: BlockJob) -> bool:
    """Whether the job is this migration's mirror, and nobody else's."""
    return job.is_copy and job.mirror is not None and job.mirror.layer.path == journal.mirror.path


def next_step(journal: Journal, situation: Situation) -> Step:
    """The one thing to do now. Before the pivot a given-up migration goes back; after it, the only way is forward."""
    if journal.outcome is not None:
        return Step.FINISH
    hindrance = _hindrance(journal, situation)
    if hindrance is not None:
        return hindrance
    place = place_of(journal, situation.active_path)
    if place is Place.FOREIGN or situation.is_put_back:
        return Step.STOP_FOR_FOREIGN_CHANGE
    return _settling(journal, situation) or _onward(journal, place, situation)


def _settling(journal: Journal, situation: Situation) -> Step | None:
    if journal.cold_switch is not None:
        return Step.SETTLE_COLD_SWITCH
    if not situation.is_running and journal.pivoting_to not in (None, situation.active_path):
        return Step.SETTLE_PIVOT
    return None


def _hindrance(journal: Journal, situation: Situation) -> Step | None:
    """Return what to do where nothing may be touched, wherever the XML has the disk."""
    if not situation.is_running and situation.elsewhere is Elsewhere.RUNNING:
        # A migration that is given up has nothing to wait for. It is the other node's QEMU that writes here.
        return Step.STOP_FOR_FOREIGN_CHANGE if journal.rolls_back else Step.AWAIT_RETURN_OF_VM
    if situation.is_lost:
        return Step.AWAIT_END_OF_VM
    if not situation.is_running and situation.elsewhere is Elsewhere.UNKNOWN:
        return Step.AWAIT_OTHER_HOSTS
    return Step.AWAIT_RESTORE if situation.is_saved else None


def _onward(journal: Journal, place: Place, situation: Situation) -> Step:
    if place in (Place.OVERLAY, Place.DESTINATION):
        return _after_pivot(journal, place)
    if journal.rolls_back:
        return _back(journal, place, situation.job)
    return _forward(journal, place, situation)


def _forward(journal: Journal, place: Place, situation: Situation) -> Step:
    if situation.job is not None:
        return _with_job(journal, place, situation, situation.job)
    if journal.takes_snapshot and place is Place.SOURCE:
        return _without_snapshot(journal, situation)
    if journal.stage is Stage.BEGUN:
        return Step.PREPARE_DESTINATION
    if journal.stage is Stage.PREPARED:
        return Step.COPY_CHAIN
    return Step.START_REPLICATION if situation.is_running else _cold(situation)


def _without_snapshot(journal: Journal, situation: Situation) -> Step:
    if journal.stage is not Stage.BEGUN:
        # What lies below the snapshot is being copied since, and must not have been written to.
        return Step.GIVE_UP_FOR_FOREIGN_WORK
    return Step.TAKE_SNAPSHOT if situation.is_running else Step.FORGO_SNAPSHOT


def _cold(situation: Situation) -> Step:
    """What a VM that is shut off is copied with; while the cutover is waited for, it may start any moment."""
    if not situation.cutover_is_open and (situation.has_cold_copy or situation.was_in_step):
        return Step.AWAIT_CUTOVER
    return Step.PIVOT_COLD if situation.has_cold_copy else Step.COPY_COLD


def _is_lost_replication(journal: Journal, job: BlockJob) -> bool:
    """Whether the job is this migration's mirror, and libvirtd was killed before it had noted more than that it is."""
    return job.is_copy_without_mirror and journal.stage is Stage.COPIED


def _with_job(journal: Journal, place: Place, situation: Situation, job: BlockJob) -> Step:
    if journal.takes_snapshot and place is not Place.SNAPSHOT:
        return Step.GIVE_UP_FOR_FOREIGN_WORK
    if _is_lost_replication(journal, job):
        return Step.DROP_REPLICATION
    if not is_replication(journal, job):
        return Step.GIVE_UP_FOR_FOREIGN_WORK
    if not (job.is_ready or (situation.was_in_step and job.stays_ready)):
        is_auto = journal.migration.spec.copy_mode is CopyMode.AUTO
        may_switch = is_auto and journal.can_be_write_blocking and not journal.is_write_blocking
        return Step.SWITCH_COPY_MODE if situation.falls_behind and may_switch else Step.AWAIT_SYNC
    return Step.PIVOT if situation.cutover_is_open else Step.AWAIT_CUTOVER


def _after_pivot(journal: Journal, place: Place) -> Step:
    if place is Place.OVERLAY and journal.overlay is not None:
        return Step.MERGE
    return Step.CLEAN_UP_SOURCE


def _back(journal: Journal, place: Place, job: BlockJob | None) -> Step:
    if job is not None and (is_replication(journal, job) or _is_lost_replication(journal, job)):
        return Step.ABORT_REPLICATION
    if place is Place.SNAPSHOT:
        return Step.MERGE_BACK
    return Step.DISCARD_DESTINATION


WAITS = frozenset(
    {
        Step.AWAIT_SYNC,
        Step.AWAIT_CUTOVER,
        Step.AWAIT_END_OF_VM,
        Step.AWAIT_RESTORE,
        Step.AWAIT_OTHER_HOSTS,
        Step.AWAIT_RETURN_OF_VM,
    }
)
STOPS = frozenset({Step.FINISH, Step.GIVE_UP_FOR_FOREIGN_WORK, Step.STOP_FOR_FOREIGN_CHANGE})


def acts_on_volumes(step: Step) -> bool:
    """Return whether the step makes, fills, merges or removes volumes.

    Before one of those the other nodes are asked whether the VM runs there, if it is off here.
    """
    return step not in WAITS | STOPS


def drops_active_layer(step: Step) -> bool:
    """Return whether the step copies or merges the active layer's data, and so begins to do without its volume."""
    return step in (Step.START_REPLICATION, Step.COPY_COLD, Step.MERGE_BACK)


def is_put_back(journal: Journal, place: Place, *, is_running: bool, is_same_run: bool) -> bool:
    """Return whether the journal proves that the XML names a volume that the guest had left for another one.

    `is_same_run` tells that the QEMU that runs now is the one that was seen where the journal expects the disk.
    """
    if journal.has_pivoted and place in (Place.SOURCE, Place.SNAPSHOT):
        return True
    if is_running and not is_same_run and journal.pivoting_to not in (None, path_of(journal, place)):
        # A QEMU that has ended may have pivoted, and what runs now writes to the other side.
        return True
    return journal.is_merged and place in (Place.SNAPSHOT, Place.OVERLAY)


def volume_in_doubt(journal: Journal, place: Place, *, is_same_run: bool) -> JournalVolume | None:
    """Return the migration's own volume above the active layer, if the guest may have written to it last.

    A QEMU that was seen on it and is below it now went there by itself, by a merge, and took everything along.
    """
    if journal.is_merged or is_same_run:
        return None
    return {Place.SOURCE: journal.snapshot, Place.DESTINATION: journal.overlay}.get(place)


def path_of(journal: Journal, place: Place) -> str:
    """Return the path of the volume that is the active layer in that place; empty for a foreign one."""
    volumes = {
        Place.SOURCE: journal.source[-1],
        Place.SNAPSHOT: journal.snapshot,
        Place.OVERLAY: journal.overlay,
        Place.DESTINATION: journal.destination[-1],
    }
    volume = volumes.get(place)
    return volume.path if volume is not None else ""


def newly_known(journal: Journal, place: Place, *, is_same_run: bool) -> dict[str, bool]:
    """Return what the journal is to say from now on of where the guest writes, as fields of it.

    Only of a QEMU that libvirt has not lost track of, and of an XML that was not put back.
    """
    if place in (Place.OVERLAY, Place.DESTINATION) and not journal.has_pivoted:
        return {"has_pivoted": True, "is_merged": place is Place.DESTINATION and is_same_run}
    if journal.is_merged or not is_same_run:
        return {}
    is_back = place is Place.SOURCE and journal.takes_snapshot and (journal.stage is not Stage.BEGUN)
    is_through = place is Place.DESTINATION and journal.overlay is not None
    return {"is_merged": True} if is_back or is_through else {}
