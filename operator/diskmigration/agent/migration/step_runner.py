"""Take the step that was decided on: wait, end the attempt, or act on the disk."""

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import (
    Step,
    drops_active_layer,
)
from diskmigration.agent.migration.ending import end_attempt, give_up_for_foreign_work
from diskmigration.agent.migration.opening import ASK_HOSTS_SECONDS
from diskmigration.agent.migration.run import LOOK_SECONDS, Run
from diskmigration.agent.migration.steps.clean_up import clean_up_source, discard_destination
from diskmigration.agent.migration.steps.cold import copy_cold, pivot_cold
from diskmigration.agent.migration.steps.cold_switch import settle_cold_switch
from diskmigration.agent.migration.steps.copy_chain import copy_chain
from diskmigration.agent.migration.steps.foreign_change import (
    await_return,
    has_internal_snapshot,
    leave_snapshot,
    leave_to_others,
)
from diskmigration.agent.migration.steps.merge import merge_at_destination, merge_back
from diskmigration.agent.migration.steps.pivot import pivot, settle_pivot
from diskmigration.agent.migration.steps.prepare_destination import prepare_destination
from diskmigration.agent.migration.steps.replicate import (
    SAMPLE_SECONDS,
    abort_replication,
    apply_bandwidth,
    start_replication,
    switch_copy_mode,
)
from diskmigration.agent.migration.steps.snapshot import skip_snapshot, take_snapshot

_SAVED = (
    "The VM was shut off with its memory saved, and what was saved names its disks: nothing is changed. Start it, or "
    "drop what was saved with `virsh managedsave-remove {uuid}`: the migration then goes on."
)

_ACTS = {
    Step.TAKE_SNAPSHOT: take_snapshot,
    Step.SKIP_SNAPSHOT: skip_snapshot,
    Step.PREPARE_DESTINATION: prepare_destination,
    Step.COPY_CHAIN: copy_chain,
    Step.START_REPLICATION: start_replication,
    Step.DROP_REPLICATION: abort_replication,
    Step.SWITCH_COPY_MODE: switch_copy_mode,
    Step.PIVOT: pivot,
    Step.SETTLE_PIVOT: settle_pivot,
    Step.SETTLE_COLD_SWITCH: settle_cold_switch,
    Step.COPY_COLD: copy_cold,
    Step.PIVOT_COLD: pivot_cold,
    Step.MERGE: merge_at_destination,
    Step.CLEAN_UP_SOURCE: clean_up_source,
    Step.ABORT_REPLICATION: abort_replication,
    Step.MERGE_BACK: merge_back,
    Step.DISCARD_DESTINATION: discard_destination,
}


def take_step(run: Run, context: MigrationContext, step: Step, job: BlockJob | None, *, whereabouts: str) -> None:
    """Take the step; `whereabouts` tells where the VM runs.

    Raises:
        StoppedError: look around, and decide again.
        MigrationError: the step has failed.
    """
    if not _waits_or_ends(run, context, step, job, whereabouts):
        _act(run, context, step, job)


def _waits_or_ends(run: Run, context: MigrationContext, step: Step, job: BlockJob | None, whereabouts: str) -> bool:
    """Take a step in which nothing is done to the disk; False for any other. `whereabouts` tells where its VM runs."""
    if step is Step.AWAIT_RESTORE:
        run.show(run.phase, wait=_SAVED.format(uuid=context.domain.uuid))
        run.wait(LOOK_SECONDS)
    elif step is Step.AWAIT_OTHER_HOSTS:
        run.show(run.phase, wait=whereabouts)
        run.wait(ASK_HOSTS_SECONDS)
    elif step is Step.AWAIT_RETURN_OF_VM:
        run.show(run.phase, wait=await_return(context, whereabouts))
        run.wait(ASK_HOSTS_SECONDS)
    elif step is Step.STOP_FOR_FOREIGN_CHANGE:
        end_attempt(run, context, leave_to_others(context, whereabouts))
    elif step is Step.GIVE_UP_FOR_FOREIGN_WORK:
        give_up_for_foreign_work(run, context, job)
    else:
        return False
    return True


def _act(run: Run, context: MigrationContext, step: Step, job: BlockJob | None) -> None:
    if context.step is not step:
        context.status.forget_merge()
    run.note_step(context, step)
    context.step = step
    if step is not Step.PIVOT_COLD:
        context.cold_copy.release()
    context.failpoint("before")
    if job is None and drops_active_layer(step) and has_internal_snapshot(context):
        end_attempt(run, context, leave_snapshot(context))
    elif step is Step.AWAIT_CUTOVER and job is None:
        context.status.note_beat()
        run.wait(LOOK_SECONDS)
    elif step in (Step.AWAIT_SYNC, Step.AWAIT_CUTOVER) and job is not None:
        apply_bandwidth(context, job)
        almost_in_step = step is Step.AWAIT_SYNC and job.stays_ready
        run.wait(SAMPLE_SECONDS if almost_in_step else LOOK_SECONDS)
    else:
        _ACTS[step](context)
        if context.merge is None:
            context.status.note_success()
