"""What a migration does next. Pure: from the journal, from where libvirt says the disk is, and from what is wished."""

from dataclasses import dataclass
from enum import StrEnum

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.journal import Journal, Stage
from diskmigration.api.disk_migration import CopyMode, Phase


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


@dataclass(frozen=True)
class Situation:
    """What was observed: the active layer's path, the disk's block job, and whether the pivot may happen now.

    `was_in_step` tells that this very job was once: under a busy guest the two sides are rarely equal when one looks,
    but from then on QEMU brings them together at the pivot. `falls_behind` tells that the guest writes faster than the
    job copies. `is_lost` tells that libvirt has lost track of the VM's
    QEMU: what libvirt says is not so, and nothing may be done until that has ended.

    Of a VM that is shut off, `has_cold_copy` tells that the whole disk was copied, and that nobody could write to it
    since; `was_in_step` that it was copied once. `is_saved` tells that its memory was saved, which names its disks.
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
    if situation.is_lost:
        return Step.AWAIT_END_OF_VM
    if situation.is_saved:
        return Step.AWAIT_RESTORE
    place = place_of(journal, situation.active_path)
    if place is Place.FOREIGN:
        return Step.STOP_FOR_FOREIGN_CHANGE
    if not situation.is_running and journal.pivoting_to not in (None, situation.active_path):
        return Step.SETTLE_PIVOT
    return _onward(journal, place, situation)


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


def phase_of(step: Step) -> Phase:
    """The phase that people read while the step is under way."""
    return _PHASES.get(step, Phase.CLEANING_UP)


_PHASES = {
    Step.TAKE_SNAPSHOT: Phase.SNAPSHOTTING,
    Step.FORGO_SNAPSHOT: Phase.SNAPSHOTTING,
    Step.PREPARE_DESTINATION: Phase.PREPARING_DESTINATION,
    Step.COPY_CHAIN: Phase.COPYING_CHAIN,
    Step.START_REPLICATION: Phase.REPLICATING,
    Step.DROP_REPLICATION: Phase.REPLICATING,
    Step.SWITCH_COPY_MODE: Phase.REPLICATING,
    Step.AWAIT_SYNC: Phase.REPLICATING,
    Step.AWAIT_CUTOVER: Phase.SYNCHRONIZED,
    Step.COPY_COLD: Phase.REPLICATING,
    Step.PIVOT: Phase.PIVOTING,
    Step.PIVOT_COLD: Phase.PIVOTING,
    Step.MERGE: Phase.MERGING,
}
