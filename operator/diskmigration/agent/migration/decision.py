"""What a migration does next. Pure: from the journal, from where libvirt says the disk is, and from what is wished."""

from dataclasses import dataclass
from enum import StrEnum

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.journal import Journal, JournalVolume, Stage
from diskmigration.api.disk_migration import CopyMode


class ActiveLayer(StrEnum):
    """Which volume is the active layer."""

    SOURCE = "Source"
    SNAPSHOT = "Snapshot"
    OVERLAY = "Overlay"
    DESTINATION = "Destination"
    FOREIGN = "Foreign"


class Step(StrEnum):
    """The steps, forward and back."""

    TAKE_SNAPSHOT = "TakeSnapshot"
    SKIP_SNAPSHOT = "SkipSnapshot"
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
class DiskObservation:
    """What was observed: the active layer's path, the disk's block job, and whether the pivot may happen now.

    `was_in_step` tells that this very job was once: under a busy guest the two sides are rarely equal when one looks,
    but from then on QEMU brings them together at the pivot. `falls_behind` tells that the guest writes faster than the
    job copies. `is_lost` tells that libvirt has lost track of the VM's QEMU: what libvirt says is not so, and nothing
    may be done until that has ended.

    `has_cold_copy` tells of a VM that is shut off that the whole disk was copied, and that nobody could write to it
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


def active_layer_of(journal: Journal, path: str) -> ActiveLayer:
    """Return which volume is the active layer. The live XML is believed, and nothing else."""
    if journal.snapshot is not None and path == journal.snapshot.path:
        return ActiveLayer.SNAPSHOT
    if path == journal.source[-1].path:
        return ActiveLayer.SOURCE
    if journal.overlay is not None and path == journal.overlay.path:
        return ActiveLayer.OVERLAY
    if path == journal.destination[-1].path:
        return ActiveLayer.DESTINATION
    return ActiveLayer.FOREIGN


def is_replication(journal: Journal, job: BlockJob) -> bool:
    """Return whether the job is this migration's mirror, and nobody else's."""
    return job.is_copy and job.mirror is not None and job.mirror.layer.path == journal.mirror.path


def next_step(journal: Journal, observation: DiskObservation) -> Step:
    """Return the one thing to do now. Before the pivot a given-up migration goes back; after it, it goes forward."""
    if journal.outcome is not None:
        return Step.FINISH
    hindrance = _hindrance(journal, observation)
    if hindrance is not None:
        return hindrance
    layer = active_layer_of(journal, observation.active_path)
    if layer is ActiveLayer.FOREIGN or observation.is_put_back:
        return Step.STOP_FOR_FOREIGN_CHANGE
    return _settling(journal, observation) or _onward(journal, layer, observation)


def _settling(journal: Journal, observation: DiskObservation) -> Step | None:
    if journal.cold_switch is not None:
        return Step.SETTLE_COLD_SWITCH
    if not observation.is_running and journal.pivoting_to not in (None, observation.active_path):
        return Step.SETTLE_PIVOT
    return None


def _hindrance(journal: Journal, observation: DiskObservation) -> Step | None:
    """Return what to do where nothing may be touched, wherever the XML has the disk."""
    if not observation.is_running and observation.elsewhere is Elsewhere.RUNNING:
        # A migration that is given up has nothing to wait for. It is the other node's QEMU that writes here.
        return Step.STOP_FOR_FOREIGN_CHANGE if journal.rolls_back else Step.AWAIT_RETURN_OF_VM
    if observation.is_lost:
        return Step.AWAIT_END_OF_VM
    if not observation.is_running and observation.elsewhere is Elsewhere.UNKNOWN:
        return Step.AWAIT_OTHER_HOSTS
    return Step.AWAIT_RESTORE if observation.is_saved else None


def _onward(journal: Journal, layer: ActiveLayer, observation: DiskObservation) -> Step:
    if layer in (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION):
        return _after_pivot(journal, layer)
    if journal.rolls_back:
        return _back(journal, layer, observation.job)
    return _forward(journal, layer, observation)


def _forward(journal: Journal, layer: ActiveLayer, observation: DiskObservation) -> Step:
    if observation.job is not None:
        return _with_job(journal, layer, observation, observation.job)
    if journal.takes_snapshot and layer is ActiveLayer.SOURCE:
        return _without_snapshot(journal, observation)
    if journal.stage is Stage.BEGUN:
        return Step.PREPARE_DESTINATION
    if journal.stage is Stage.PREPARED:
        return Step.COPY_CHAIN
    return Step.START_REPLICATION if observation.is_running else _cold(observation)


def _without_snapshot(journal: Journal, observation: DiskObservation) -> Step:
    if journal.stage is not Stage.BEGUN:
        # What lies below the snapshot is being copied since, and must not have been written to.
        return Step.GIVE_UP_FOR_FOREIGN_WORK
    return Step.TAKE_SNAPSHOT if observation.is_running else Step.SKIP_SNAPSHOT


def _cold(observation: DiskObservation) -> Step:
    """Return what a VM that is shut off is copied with; while the cutover is waited for, it may start any moment."""
    if not observation.cutover_is_open and (observation.has_cold_copy or observation.was_in_step):
        return Step.AWAIT_CUTOVER
    return Step.PIVOT_COLD if observation.has_cold_copy else Step.COPY_COLD


def _is_lost_replication(journal: Journal, job: BlockJob) -> bool:
    """Return whether the job is this migration's mirror, of which a libvirtd that was killed has noted no more."""
    return job.is_copy_without_mirror and journal.stage is Stage.COPIED


def _with_job(journal: Journal, layer: ActiveLayer, observation: DiskObservation, job: BlockJob) -> Step:
    if journal.takes_snapshot and layer is not ActiveLayer.SNAPSHOT:
        return Step.GIVE_UP_FOR_FOREIGN_WORK
    if _is_lost_replication(journal, job):
        return Step.DROP_REPLICATION
    if not is_replication(journal, job):
        return Step.GIVE_UP_FOR_FOREIGN_WORK
    if not (job.is_ready or (observation.was_in_step and job.stays_ready)):
        is_auto = journal.migration.spec.copy_mode is CopyMode.AUTO
        may_switch = is_auto and journal.can_be_write_blocking and not journal.is_write_blocking
        return Step.SWITCH_COPY_MODE if observation.falls_behind and may_switch else Step.AWAIT_SYNC
    return Step.PIVOT if observation.cutover_is_open else Step.AWAIT_CUTOVER


def _after_pivot(journal: Journal, layer: ActiveLayer) -> Step:
    if layer is ActiveLayer.OVERLAY and journal.overlay is not None:
        return Step.MERGE
    return Step.CLEAN_UP_SOURCE


def _back(journal: Journal, layer: ActiveLayer, job: BlockJob | None) -> Step:
    if job is not None and (is_replication(journal, job) or _is_lost_replication(journal, job)):
        return Step.ABORT_REPLICATION
    if layer is ActiveLayer.SNAPSHOT:
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


def is_put_back(journal: Journal, layer: ActiveLayer, *, is_running: bool, is_same_run: bool) -> bool:
    """Return whether the journal proves that the XML names a volume that the guest had left for another one.

    `is_same_run` tells that the QEMU that runs now is the one that was seen where the journal expects the disk.
    """
    if journal.has_pivoted and layer in (ActiveLayer.SOURCE, ActiveLayer.SNAPSHOT):
        return True
    if is_running and not is_same_run and journal.pivoting_to not in (None, path_of(journal, layer)):
        # A QEMU that has ended may have pivoted, and what runs now writes to the other side.
        return True
    return journal.is_merged and layer in (ActiveLayer.SNAPSHOT, ActiveLayer.OVERLAY)


def volume_in_doubt(journal: Journal, layer: ActiveLayer, *, is_same_run: bool) -> JournalVolume | None:
    """Return the migration's own volume above the active layer, if the guest may have written to it last.

    A QEMU that was seen on it and is below it now went there by itself, by a merge, and took everything along.
    """
    if journal.is_merged or is_same_run:
        return None
    return {ActiveLayer.SOURCE: journal.snapshot, ActiveLayer.DESTINATION: journal.overlay}.get(layer)


def path_of(journal: Journal, layer: ActiveLayer) -> str:
    """Return the path of that active layer; empty for a foreign one."""
    volumes = {
        ActiveLayer.SOURCE: journal.source[-1],
        ActiveLayer.SNAPSHOT: journal.snapshot,
        ActiveLayer.OVERLAY: journal.overlay,
        ActiveLayer.DESTINATION: journal.destination[-1],
    }
    volume = volumes.get(layer)
    return volume.path if volume is not None else ""


def newly_known(journal: Journal, layer: ActiveLayer, *, is_same_run: bool) -> dict[str, bool]:
    """Return what the journal is to say from now on of where the guest writes, as fields of it.

    Only of a QEMU that libvirt has not lost track of, and of an XML that was not put back.
    """
    if layer in (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION) and not journal.has_pivoted:
        return {"has_pivoted": True, "is_merged": layer is ActiveLayer.DESTINATION and is_same_run}
    if journal.is_merged or not is_same_run:
        return {}
    is_back = layer is ActiveLayer.SOURCE and journal.takes_snapshot and (journal.stage is not Stage.BEGUN)
    is_through = layer is ActiveLayer.DESTINATION and journal.overlay is not None
    return {"is_merged": True} if is_back or is_through else {}
