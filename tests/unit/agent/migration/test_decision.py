"""What a migration does next: as a table, on any mixture of what may be found, and as whole walks from start to end."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.decision import (
    ActiveLayer,
    DiskObservation,
    Elsewhere,
    Step,
    active_layer_of,
    acts_on_volumes,
    is_put_back,
    newly_known,
    next_step,
    volume_in_doubt,
)
from diskmigration.agent.migration.journal import ColdSwitch, Journal, Stage
from diskmigration.agent.migration.phases import phase_of
from diskmigration.api.disk_migration import Failure, Phase
from diskmigration.api.errors import Reason
from tests.unit.agent.builders import LOST_COPY_JOB, PULL_JOB, commit_job, copy_job, journal, migration

FAILURE = Failure(reason=Reason.COPY_FAILED, message="No.", phase=Phase.COPYING_CHAIN)
BACKWARD = {Step.ABORT_REPLICATION, Step.MERGE_BACK, Step.DISCARD_DESTINATION}
STOPS = {Step.GIVE_UP_FOR_FOREIGN_WORK, Step.STOP_FOR_FOREIGN_CHANGE, Step.FINISH}
AFTER_PIVOT = {Step.MERGE, Step.CLEAN_UP_SOURCE}
FORWARD = set(Step) - BACKWARD - STOPS
COLD = {Step.SKIP_SNAPSHOT, Step.COPY_COLD, Step.PIVOT_COLD}
LIVE = {Step.TAKE_SNAPSHOT, Step.START_REPLICATION, Step.AWAIT_SYNC, Step.PIVOT}

SNAPSHOT = journal()
DIRECT = journal(strategy="Direct")


def path_of(found: Journal, layer: ActiveLayer) -> str:
    paths = {
        ActiveLayer.SOURCE: found.source[-1].path,
        ActiveLayer.SNAPSHOT: found.snapshot.path if found.snapshot is not None else "/srv/elsewhere",
        ActiveLayer.OVERLAY: found.overlay.path if found.overlay is not None else "/srv/elsewhere",
        ActiveLayer.DESTINATION: found.destination[-1].path,
        ActiveLayer.FOREIGN: "/srv/elsewhere",
    }
    return paths[layer]


def decide_when_off(found: Journal, layer: ActiveLayer, *, is_open: bool = True, **said: Any) -> Step:
    observation = DiskObservation(path_of(found, layer), None, cutover_is_open=is_open, is_running=False, **said)
    return next_step(found, observation)


def decide(found: Journal, layer: ActiveLayer, job: BlockJob | None = None, *, is_open: bool = True) -> Step:
    return next_step(found, DiskObservation(path_of(found, layer), job, cutover_is_open=is_open))


def own_job(found: Journal, *, ready: bool = False) -> BlockJob:
    return copy_job(found.mirror.path, ready=ready)


@pytest.mark.parametrize(
    ("found", "layer", "job", "is_open", "expected"),
    [
        # Forward with a snapshot.
        (SNAPSHOT, ActiveLayer.SOURCE, None, True, Step.TAKE_SNAPSHOT),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, None, True, Step.PREPARE_DESTINATION),
        (journal(stage=Stage.PREPARED), ActiveLayer.SNAPSHOT, None, True, Step.COPY_CHAIN),
        (journal(stage=Stage.COPIED), ActiveLayer.SNAPSHOT, None, True, Step.START_REPLICATION),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, own_job(SNAPSHOT), True, Step.AWAIT_SYNC),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, own_job(SNAPSHOT, ready=True), False, Step.AWAIT_CUTOVER),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, own_job(SNAPSHOT, ready=True), True, Step.PIVOT),
        (SNAPSHOT, ActiveLayer.OVERLAY, None, True, Step.MERGE),
        (SNAPSHOT, ActiveLayer.OVERLAY, commit_job("/srv/san/dev/base"), True, Step.MERGE),
        (SNAPSHOT, ActiveLayer.DESTINATION, None, True, Step.CLEAN_UP_SOURCE),
        # Forward without one.
        (DIRECT, ActiveLayer.SOURCE, None, True, Step.PREPARE_DESTINATION),
        (journal(strategy="Direct", stage=Stage.PREPARED), ActiveLayer.SOURCE, None, True, Step.COPY_CHAIN),
        (journal(strategy="Direct", stage=Stage.COPIED), ActiveLayer.SOURCE, None, True, Step.START_REPLICATION),
        (DIRECT, ActiveLayer.SOURCE, own_job(DIRECT), True, Step.AWAIT_SYNC),
        (DIRECT, ActiveLayer.SOURCE, own_job(DIRECT, ready=True), False, Step.AWAIT_CUTOVER),
        (DIRECT, ActiveLayer.SOURCE, own_job(DIRECT, ready=True), True, Step.PIVOT),
        (DIRECT, ActiveLayer.DESTINATION, None, True, Step.CLEAN_UP_SOURCE),
        # Of a job that libvirt has lost the mirror of.
        (journal(stage=Stage.COPIED), ActiveLayer.SNAPSHOT, LOST_COPY_JOB, True, Step.DROP_REPLICATION),
        (
            journal(strategy="Direct", stage=Stage.COPIED),
            ActiveLayer.SOURCE,
            LOST_COPY_JOB,
            True,
            Step.DROP_REPLICATION,
        ),
        (
            journal(stage=Stage.COPIED, cancelled=True),
            ActiveLayer.SNAPSHOT,
            LOST_COPY_JOB,
            True,
            Step.ABORT_REPLICATION,
        ),
        (journal(stage=Stage.PREPARED), ActiveLayer.SNAPSHOT, LOST_COPY_JOB, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (journal(stage=Stage.PREPARED, cancelled=True), ActiveLayer.SNAPSHOT, LOST_COPY_JOB, True, Step.MERGE_BACK),
        # Back.
        (journal(cancelled=True), ActiveLayer.SNAPSHOT, own_job(SNAPSHOT, ready=True), True, Step.ABORT_REPLICATION),
        (journal(cancelled=True), ActiveLayer.SNAPSHOT, None, True, Step.MERGE_BACK),
        (journal(cancelled=True), ActiveLayer.SNAPSHOT, commit_job("/srv/nfs/layer-0"), True, Step.MERGE_BACK),
        (journal(cancelled=True), ActiveLayer.SOURCE, None, True, Step.DISCARD_DESTINATION),
        (journal(failure=FAILURE), ActiveLayer.SNAPSHOT, own_job(SNAPSHOT), True, Step.ABORT_REPLICATION),
        (journal(failure=FAILURE), ActiveLayer.SOURCE, None, True, Step.DISCARD_DESTINATION),
        (journal(strategy="Direct", cancelled=True), ActiveLayer.SOURCE, own_job(DIRECT), True, Step.ABORT_REPLICATION),
        (journal(strategy="Direct", cancelled=True), ActiveLayer.SOURCE, None, True, Step.DISCARD_DESTINATION),
        # After the pivot nothing goes back.
        (journal(cancelled=True), ActiveLayer.OVERLAY, None, True, Step.MERGE),
        (journal(failure=FAILURE), ActiveLayer.DESTINATION, None, True, Step.CLEAN_UP_SOURCE),
        # Somebody else's.
        (SNAPSHOT, ActiveLayer.FOREIGN, None, True, Step.STOP_FOR_FOREIGN_CHANGE),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, copy_job("/srv/elsewhere", ready=True), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, commit_job("/srv/nfs/layer-0"), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (SNAPSHOT, ActiveLayer.SOURCE, PULL_JOB, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (SNAPSHOT, ActiveLayer.SOURCE, own_job(SNAPSHOT), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (DIRECT, ActiveLayer.SOURCE, copy_job("/srv/elsewhere"), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        # The snapshot was merged by somebody else: what was copied below it is no more what is there.
        (journal(stage=Stage.PREPARED), ActiveLayer.SOURCE, None, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (journal(stage=Stage.COPIED), ActiveLayer.SOURCE, None, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        # It waits with the merge, and with nothing else.
        (journal(cancelled=True), ActiveLayer.SNAPSHOT, copy_job("/srv/elsewhere"), True, Step.MERGE_BACK),
        (journal(strategy="Direct", cancelled=True), ActiveLayer.SOURCE, PULL_JOB, True, Step.DISCARD_DESTINATION),
        # It has ended.
        (journal(outcome=Phase.SUCCEEDED), ActiveLayer.DESTINATION, None, True, Step.FINISH),
        (journal(outcome=Phase.FAILED, failure=FAILURE), ActiveLayer.SOURCE, None, True, Step.FINISH),
        (journal(outcome=Phase.CANCELLED, cancelled=True), ActiveLayer.FOREIGN, PULL_JOB, True, Step.FINISH),
    ],
)
def test_the_table(found: Journal, layer: ActiveLayer, job: BlockJob | None, is_open: bool, expected: Step) -> None:
    assert decide(found, layer, job, is_open=is_open) is expected


@pytest.mark.parametrize(
    ("word", "current", "end"),
    [
        # Each of these was taken for ready by an earlier system, too early (BZ1376580, BZ1442266).
        ("", 10, 10),
        ("yes", 9, 10),
        ("yes", 0, 0),
        ("", 0, 1),
        # A pivot or an abort is under way.
        ("pivot", 10, 10),
        ("abort", 10, 10),
    ],
)
def test_a_job_that_is_not_ready_is_not_pivoted(word: str, current: int, end: int) -> None:
    job = copy_job(SNAPSHOT.mirror.path, state=word, current=current, end=end)
    assert decide(SNAPSHOT, ActiveLayer.SNAPSHOT, job) is Step.AWAIT_SYNC


@pytest.mark.parametrize(("word", "expected"), [("yes", Step.PIVOT), ("", Step.AWAIT_SYNC)])
def test_a_job_that_was_in_step_stays_so_under_a_busy_guest(word: str, expected: Step) -> None:
    job = copy_job(SNAPSHOT.mirror.path, state=word, current=9, end=10)
    path = path_of(SNAPSHOT, ActiveLayer.SNAPSHOT)
    assert next_step(SNAPSHOT, DiskObservation(path, job, cutover_is_open=True, was_in_step=True)) is expected


@pytest.mark.parametrize(
    ("found", "layer", "expected"),
    [
        (SNAPSHOT, ActiveLayer.SOURCE, Step.SKIP_SNAPSHOT),
        (journal(snapshot=None, overlay=None), ActiveLayer.SOURCE, Step.PREPARE_DESTINATION),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, Step.PREPARE_DESTINATION),
        (journal(stage=Stage.PREPARED), ActiveLayer.SNAPSHOT, Step.COPY_CHAIN),
        (journal(stage=Stage.COPIED), ActiveLayer.SNAPSHOT, Step.COPY_COLD),
        (DIRECT, ActiveLayer.SOURCE, Step.PREPARE_DESTINATION),
        (journal(strategy="Direct", stage=Stage.COPIED), ActiveLayer.SOURCE, Step.COPY_COLD),
        (SNAPSHOT, ActiveLayer.OVERLAY, Step.MERGE),
        (SNAPSHOT, ActiveLayer.DESTINATION, Step.CLEAN_UP_SOURCE),
        (journal(stage=Stage.COPIED), ActiveLayer.SOURCE, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (journal(cancelled=True), ActiveLayer.SNAPSHOT, Step.MERGE_BACK),
        (journal(cancelled=True), ActiveLayer.SOURCE, Step.DISCARD_DESTINATION),
    ],
)
def test_the_table_of_a_vm_that_is_shut_off(found: Journal, layer: ActiveLayer, expected: Step) -> None:
    assert decide_when_off(found, layer) is expected


@pytest.mark.parametrize(
    ("is_open", "has_cold_copy", "was_in_step", "expected"),
    [
        (True, False, False, Step.COPY_COLD),
        (True, False, True, Step.COPY_COLD),
        (True, True, True, Step.PIVOT_COLD),
        (False, False, False, Step.COPY_COLD),
        (False, True, True, Step.AWAIT_CUTOVER),
        (False, False, True, Step.AWAIT_CUTOVER),
    ],
)
def test_only_a_copy_to_which_nobody_could_have_written_is_pivoted_to(
    is_open: bool, has_cold_copy: bool, was_in_step: bool, expected: Step
) -> None:
    found = journal(stage=Stage.COPIED)
    said = {"has_cold_copy": has_cold_copy, "was_in_step": was_in_step}
    assert decide_when_off(found, ActiveLayer.SNAPSHOT, is_open=is_open, **said) is expected


@pytest.mark.parametrize(
    ("copy_mode", "is_write_blocking", "expected"),
    [
        ("Background", False, Step.AWAIT_SYNC),
        ("WriteBlocking", False, Step.AWAIT_SYNC),
        ("Auto", False, Step.SWITCH_COPY_MODE),
        ("Auto", True, Step.AWAIT_SYNC),
    ],
)
def test_only_auto_switches_a_mirror_that_falls_behind_and_once(
    copy_mode: str, is_write_blocking: bool, expected: Step
) -> None:
    found = journal(
        stage=Stage.COPIED, migration=migration(spec={"copyMode": copy_mode}), is_write_blocking=is_write_blocking
    )
    observation = DiskObservation(
        path_of(found, ActiveLayer.SNAPSHOT), own_job(found), cutover_is_open=True, falls_behind=True
    )
    assert next_step(found, observation) is expected
    in_step = DiskObservation(
        path_of(found, ActiveLayer.SNAPSHOT), own_job(found, ready=True), cutover_is_open=True, falls_behind=True
    )
    assert next_step(found, in_step) is Step.PIVOT


@pytest.mark.parametrize("layer", ActiveLayer)
def test_nothing_is_done_while_the_memory_that_names_the_disk_is_saved(layer: ActiveLayer) -> None:
    for found in (SNAPSHOT, journal(cancelled=True), journal(failure=FAILURE, stage=Stage.COPIED)):
        assert decide_when_off(found, layer, is_saved=True) is Step.AWAIT_RESTORE


@pytest.mark.parametrize("layer", ActiveLayer)
def test_nothing_is_done_while_libvirt_has_lost_track(layer: ActiveLayer) -> None:
    for found in (SNAPSHOT, journal(cancelled=True), journal(failure=FAILURE, stage=Stage.COPIED)):
        assert decide_when_off(found, layer, is_lost=True) is Step.AWAIT_END_OF_VM
    assert decide_when_off(journal(outcome=Phase.SUCCEEDED), layer, is_lost=True) is Step.FINISH


@pytest.mark.parametrize("layer", ActiveLayer)
def test_nothing_is_done_while_the_vm_may_run_on_another_node(layer: ActiveLayer) -> None:
    for found in (SNAPSHOT, journal(stage=Stage.COPIED), journal(cancelled=True), journal(failure=FAILURE)):
        assert decide_when_off(found, layer, elsewhere=Elsewhere.UNKNOWN) is Step.AWAIT_OTHER_HOSTS
        step = decide_when_off(found, layer, elsewhere=Elsewhere.RUNNING)
        assert step is (Step.STOP_FOR_FOREIGN_CHANGE if found.rolls_back else Step.AWAIT_RETURN_OF_VM)
        # What writes to the disk then is the other node's QEMU.
        assert decide_when_off(found, layer, elsewhere=Elsewhere.RUNNING, is_lost=True) is step


@pytest.mark.parametrize(
    ("found", "layer", "is_running", "is_same_run", "expected"),
    [
        # Where the journal expects the disk.
        (SNAPSHOT, ActiveLayer.SOURCE, True, False, False),
        (journal(stage=Stage.COPIED), ActiveLayer.SNAPSHOT, True, False, False),
        (journal(has_pivoted=True), ActiveLayer.OVERLAY, True, False, False),
        (journal(has_pivoted=True, is_merged=True), ActiveLayer.DESTINATION, False, False, False),
        (journal(strategy="Direct", has_pivoted=True), ActiveLayer.DESTINATION, True, False, False),
        (journal(is_merged=True, cancelled=True), ActiveLayer.SOURCE, False, False, False),
        # A definition from before the pivot.
        (journal(has_pivoted=True), ActiveLayer.SOURCE, True, True, True),
        (journal(has_pivoted=True), ActiveLayer.SNAPSHOT, False, False, True),
        (journal(strategy="Direct", has_pivoted=True), ActiveLayer.SOURCE, False, False, True),
        # One from before a merge, after which the guest wrote to the volume below.
        (journal(is_merged=True, cancelled=True), ActiveLayer.SNAPSHOT, True, False, True),
        (journal(has_pivoted=True, is_merged=True), ActiveLayer.OVERLAY, False, False, True),
        # A QEMU that was asked to pivot, and another one that runs now.
        (journal(pivoting_to=SNAPSHOT.mirror.path), ActiveLayer.SNAPSHOT, True, False, True),
        (journal(pivoting_to=SNAPSHOT.mirror.path), ActiveLayer.SNAPSHOT, True, True, False),
        (journal(pivoting_to=SNAPSHOT.mirror.path), ActiveLayer.SNAPSHOT, False, False, False),
        (journal(pivoting_to=SNAPSHOT.mirror.path), ActiveLayer.OVERLAY, True, False, False),
    ],
)
def test_a_definition_that_was_put_back(
    found: Journal, layer: ActiveLayer, is_running: bool, is_same_run: bool, expected: bool
) -> None:
    assert is_put_back(found, layer, is_running=is_running, is_same_run=is_same_run) is expected


@pytest.mark.parametrize(
    ("found", "layer", "is_same_run", "expected"),
    [
        (SNAPSHOT, ActiveLayer.SOURCE, False, SNAPSHOT.snapshot),
        (journal(stage=Stage.COPIED), ActiveLayer.SOURCE, False, SNAPSHOT.snapshot),
        (journal(has_pivoted=True), ActiveLayer.DESTINATION, False, SNAPSHOT.overlay),
        # QEMU went there by itself, and took along what was above.
        (journal(stage=Stage.COPIED), ActiveLayer.SOURCE, True, None),
        (journal(has_pivoted=True), ActiveLayer.DESTINATION, True, None),
        (journal(is_merged=True), ActiveLayer.SOURCE, False, None),
        # Nothing of the migration is above.
        (SNAPSHOT, ActiveLayer.SNAPSHOT, False, None),
        (SNAPSHOT, ActiveLayer.OVERLAY, False, None),
        (DIRECT, ActiveLayer.SOURCE, False, None),
        (DIRECT, ActiveLayer.DESTINATION, False, None),
        (SNAPSHOT, ActiveLayer.FOREIGN, False, None),
    ],
)
def test_what_the_guest_may_have_written_to_last(
    found: Journal, layer: ActiveLayer, is_same_run: bool, expected: object
) -> None:
    assert volume_in_doubt(found, layer, is_same_run=is_same_run) == expected


@pytest.mark.parametrize(
    ("found", "layer", "is_same_run", "expected"),
    [
        (journal(stage=Stage.COPIED), ActiveLayer.OVERLAY, False, {"has_pivoted": True, "is_merged": False}),
        (DIRECT, ActiveLayer.DESTINATION, False, {"has_pivoted": True, "is_merged": False}),
        (journal(has_pivoted=True), ActiveLayer.DESTINATION, True, {"is_merged": True}),
        (journal(has_pivoted=True), ActiveLayer.DESTINATION, False, {}),
        (journal(stage=Stage.PREPARED), ActiveLayer.SOURCE, True, {"is_merged": True}),
        (journal(stage=Stage.PREPARED), ActiveLayer.SOURCE, False, {}),
        # Before the snapshot it has always been there.
        (SNAPSHOT, ActiveLayer.SOURCE, True, {}),
        (SNAPSHOT, ActiveLayer.SNAPSHOT, True, {}),
    ],
)
def test_what_a_place_tells(found: Journal, layer: ActiveLayer, is_same_run: bool, expected: dict[str, bool]) -> None:
    assert newly_known(found, layer, is_same_run=is_same_run) == expected


@pytest.mark.parametrize("given_up", [{}, {"cancelled": True}, {"failure": FAILURE}])
def test_a_pivot_in_whose_midst_the_vm_ended_is_settled_before_anything_else(given_up: dict[str, Any]) -> None:
    to_overlay = journal(stage=Stage.COPIED, pivoting_to=SNAPSHOT.mirror.path, **given_up)
    assert decide_when_off(to_overlay, ActiveLayer.SNAPSHOT) is Step.SETTLE_PIVOT
    assert decide_when_off(to_overlay, ActiveLayer.OVERLAY) is Step.MERGE
    back = journal(pivoting_to=SNAPSHOT.source[-1].path, **given_up)
    assert decide_when_off(back, ActiveLayer.SNAPSHOT) is Step.SETTLE_PIVOT
    merge = journal(pivoting_to=SNAPSHOT.destination[-1].path, **given_up)
    assert decide_when_off(merge, ActiveLayer.OVERLAY) is Step.SETTLE_PIVOT
    assert decide_when_off(merge, ActiveLayer.DESTINATION) is Step.CLEAN_UP_SOURCE
    # Of a VM that runs, libvirt tells all.
    assert decide(to_overlay, ActiveLayer.SNAPSHOT) is not Step.SETTLE_PIVOT


@pytest.mark.parametrize("given_up", [{}, {"cancelled": True}, {"failure": FAILURE}])
@pytest.mark.parametrize("layer", [ActiveLayer.SNAPSHOT, ActiveLayer.OVERLAY])
def test_a_change_of_the_xml_of_a_vm_that_was_off_is_proven_before_anything_else(
    layer: ActiveLayer, given_up: dict[str, Any]
) -> None:
    old, new = SNAPSHOT.mirrored.path, SNAPSHOT.mirror.path
    switch = ColdSwitch(old=old, new=new, old_mark="1", new_mark=None)
    found = journal(stage=Stage.COPIED, cold_switch=switch, **given_up)
    assert decide(found, layer) is Step.SETTLE_COLD_SWITCH
    assert decide_when_off(found, layer) is Step.SETTLE_COLD_SWITCH
    assert decide_when_off(found, layer, is_lost=True) is Step.AWAIT_END_OF_VM
    assert decide(found, ActiveLayer.FOREIGN) is Step.STOP_FOR_FOREIGN_CHANGE


def test_where_the_active_layer_is_is_told_by_its_path_alone() -> None:
    for layer in ActiveLayer:
        assert active_layer_of(SNAPSHOT, path_of(SNAPSHOT, layer)) is layer
    assert active_layer_of(DIRECT, path_of(SNAPSHOT, ActiveLayer.SNAPSHOT)) is ActiveLayer.FOREIGN
    assert active_layer_of(DIRECT, path_of(DIRECT, ActiveLayer.DESTINATION)) is ActiveLayer.DESTINATION
    assert active_layer_of(DIRECT, "") is ActiveLayer.FOREIGN


journals = st.builds(
    lambda strategy, length, flatten, stage, failure, cancelled, outcome: journal(
        strategy=strategy,
        length=length,
        flatten=flatten,
        stage=stage,
        failure=failure,
        cancelled=cancelled,
        outcome=outcome,
    ),
    strategy=st.sampled_from(("Snapshot", "Direct")),
    length=st.integers(1, 4),
    flatten=st.booleans(),
    stage=st.sampled_from(Stage),
    failure=st.sampled_from((None, FAILURE)),
    cancelled=st.booleans(),
    outcome=st.none(),
)


def every_job(found: Journal) -> tuple[BlockJob | None, ...]:
    return (None, own_job(found), own_job(found, ready=True), LOST_COPY_JOB, *foreign_jobs(found))


def foreign_jobs(found: Journal) -> tuple[BlockJob, ...]:
    return (
        copy_job("/srv/elsewhere"),
        copy_job("/srv/elsewhere", ready=True),
        commit_job(found.source[-1].path),
        commit_job(found.destination[-1].path, ready=True),
        PULL_JOB,
    )


BEFORE_PIVOT = (ActiveLayer.SOURCE, ActiveLayer.SNAPSHOT)
PAST_PIVOT = (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION)


@st.composite
def findings(
    draw: st.DrawFn,
    /,
    *,
    layers: tuple[ActiveLayer, ...] = tuple(ActiveLayer),
    jobs: Callable[[Journal], tuple[BlockJob | None, ...]] = every_job,
    **changes: object,
) -> tuple[Journal, DiskObservation]:
    """Any journal that has not ended, with any active layer and any job, unless told otherwise."""
    found = draw(journals).model_copy(update=changes)
    possible = [layer for layer in layers if layer is ActiveLayer.FOREIGN or path_of(found, layer) != "/srv/elsewhere"]
    observation = DiskObservation(
        path_of(found, draw(st.sampled_from(possible))),
        draw(st.sampled_from(jobs(found))),
        cutover_is_open=draw(st.booleans()),
    )
    return found, observation


def is_own_copy(found: Journal, job: BlockJob) -> bool:
    if job is LOST_COPY_JOB:
        return found.stage is Stage.COPIED
    return job.is_copy and job.mirror is not None and job.mirror.layer.path == found.mirror.path


@given(findings(layers=BEFORE_PIVOT, cancelled=True) | findings(layers=BEFORE_PIVOT, failure=FAILURE))
def test_one_that_rolls_back_before_the_pivot_never_goes_forward(case: tuple[Journal, DiskObservation]) -> None:
    assert next_step(*case) in BACKWARD


@given(findings(layers=PAST_PIVOT))
def test_after_the_pivot_nothing_goes_back(case: tuple[Journal, DiskObservation]) -> None:
    assert next_step(*case) in AFTER_PIVOT


@given(findings(layers=(*BEFORE_PIVOT, ActiveLayer.FOREIGN)))
def test_before_the_pivot_the_source_is_never_cleaned_up(case: tuple[Journal, DiskObservation]) -> None:
    assert next_step(*case) not in AFTER_PIVOT


@given(findings(layers=(ActiveLayer.FOREIGN,)))
def test_a_foreign_active_layer_always_stops_it(case: tuple[Journal, DiskObservation]) -> None:
    assert next_step(*case) is Step.STOP_FOR_FOREIGN_CHANGE


@given(
    findings(),
    st.sampled_from(
        (
            {"is_lost": True},
            {"is_running": False, "elsewhere": Elsewhere.RUNNING},
            {"is_running": False, "elsewhere": Elsewhere.UNKNOWN},
            {"is_put_back": True},
        )
    ),
)
def test_no_volume_is_touched_that_may_hold_the_last_writes(
    case: tuple[Journal, DiskObservation], said: dict[str, Any]
) -> None:
    found, observation = case
    assert not acts_on_volumes(next_step(found, replace(observation, **said)))


@given(findings(layers=BEFORE_PIVOT, jobs=foreign_jobs, cancelled=False, failure=None))
def test_a_foreign_job_always_stops_one_that_goes_forward(case: tuple[Journal, DiskObservation]) -> None:
    assert next_step(*case) is Step.GIVE_UP_FOR_FOREIGN_WORK


@given(findings())
def test_a_foreign_copy_is_never_aborted(case: tuple[Journal, DiskObservation]) -> None:
    found, observation = case
    if next_step(found, observation) in (Step.ABORT_REPLICATION, Step.DROP_REPLICATION):
        assert observation.job is not None
        assert is_own_copy(found, observation.job)


@given(findings())
def test_nothing_is_discarded_while_its_own_mirror_writes(case: tuple[Journal, DiskObservation]) -> None:
    found, observation = case
    if next_step(found, observation) is Step.DISCARD_DESTINATION:
        assert observation.job is None or not is_own_copy(found, observation.job)


@given(findings())
def test_only_a_ready_job_is_pivoted_and_only_in_its_window(case: tuple[Journal, DiskObservation]) -> None:
    found, observation = case
    if next_step(found, observation) is Step.PIVOT:
        assert observation.cutover_is_open
        assert observation.job is not None
        assert observation.job.is_ready
        assert is_own_copy(found, observation.job)


@given(findings(), st.sampled_from((Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)))
def test_one_that_has_ended_only_finishes(case: tuple[Journal, DiskObservation], outcome: Phase) -> None:
    found, observation = case
    assert next_step(found.model_copy(update={"outcome": outcome}), observation) is Step.FINISH


@pytest.mark.parametrize("step", Step)
def test_every_step_has_a_phase_of_the_agents(step: Step) -> None:
    assert not phase_of(step, journal()).belongs_to_operator
    assert not phase_of(step, journal()).is_final


def test_every_way_back_is_a_clean_up() -> None:
    assert {phase_of(step, journal()) for step in BACKWARD} == {Phase.CLEANING_UP}


@pytest.mark.parametrize("step", [Step.SETTLE_PIVOT, Step.SETTLE_COLD_SWITCH])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Phase.PIVOTING),
        ({"has_pivoted": True}, Phase.MERGING),
        ({"cancelled": True}, Phase.CLEANING_UP),
    ],
)
def test_a_switch_that_was_interrupted_is_settled_in_the_phase_in_which_it_was(
    step: Step, changes: dict[str, Any], expected: Phase
) -> None:
    assert phase_of(step, journal(**changes)) is expected


class Walk:
    """A VM that does what each step asks, as libvirt would, and a journal that is written as the steps write it."""

    def __init__(self, found: Journal) -> None:
        self.journal = found
        self.path = found.source[-1].path
        self.job: BlockJob | None = None
        self.is_open = False
        self.is_running = True
        self.has_cold_copy = False
        self.steps: list[Step] = []
        self.jobs = {
            Step.START_REPLICATION: own_job(found),
            Step.AWAIT_SYNC: own_job(found, ready=True),
            Step.PIVOT: None,
            Step.ABORT_REPLICATION: None,
            Step.DROP_REPLICATION: None,
        }
        self.paths = {
            Step.TAKE_SNAPSHOT: found.mirrored.path,
            Step.PIVOT: found.mirror.path,
            Step.PIVOT_COLD: found.mirror.path,
            Step.MERGE: found.destination[-1].path,
            Step.MERGE_BACK: found.source[-1].path,
        }
        self.records: dict[Step, dict[str, object]] = {
            Step.SKIP_SNAPSHOT: {"snapshot": None, "overlay": None},
            Step.PREPARE_DESTINATION: {"stage": Stage.PREPARED},
            Step.COPY_CHAIN: {"stage": Stage.COPIED},
            Step.CLEAN_UP_SOURCE: {"outcome": Phase.SUCCEEDED},
        }

    def look(self) -> Step:
        observation = DiskObservation(
            self.path,
            self.job,
            cutover_is_open=self.is_open,
            is_running=self.is_running,
            has_cold_copy=self.has_cold_copy,
        )
        return next_step(self.journal, observation)

    def switch(self) -> None:
        """The VM is shut off, or started; either ends what only the other can have."""
        self.is_running = not self.is_running
        self.job, self.has_cold_copy = None, False

    def act(self, step: Step) -> None:
        self.steps.append(step)
        assert len(self.steps) < 50, self.steps
        self.job = self.jobs.get(step, self.job)
        self.path = self.paths.get(step, self.path)
        self.is_open |= step is Step.AWAIT_CUTOVER
        self.has_cold_copy = step is Step.COPY_COLD
        if step is Step.SKIP_SNAPSHOT:
            self.paths |= {Step.PIVOT: self.journal.destination[-1].path}
            self.paths |= {Step.PIVOT_COLD: self.journal.destination[-1].path}
            self.jobs[Step.START_REPLICATION] = copy_job(self.journal.destination[-1].path)
            self.jobs[Step.AWAIT_SYNC] = copy_job(self.journal.destination[-1].path, ready=True)
        self.record(**self.records.get(step, {}))

    def record(self, **changes: object) -> None:
        self.journal = self.journal.model_copy(update=changes)

    def give_up(self, **changes: object) -> None:
        self.record(**changes)
        outcome = Phase.FAILED if self.journal.failure is not None else Phase.CANCELLED
        self.records[Step.DISCARD_DESTINATION] = {"outcome": outcome}

    def to_the_end(self) -> None:
        while (step := self.look()) is not Step.FINISH:
            self.act(step)


plans = st.builds(
    journal, strategy=st.sampled_from(("Snapshot", "Direct")), length=st.integers(1, 4), flatten=st.booleans()
)


@given(plans)
def test_an_undisturbed_walk_ends_at_the_destination_with_its_phases_in_order(found: Journal) -> None:
    walk = Walk(found)
    walk.to_the_end()
    assert walk.journal.outcome is Phase.SUCCEEDED
    assert walk.path == found.destination[-1].path
    order = list(Phase)
    positions = [order.index(phase_of(step, found)) for step in walk.steps]
    assert positions == sorted(positions)
    assert set(walk.steps) <= FORWARD


@given(plans, st.sets(st.integers(0, 20)))
def test_a_vm_may_stop_and_start_at_any_step_and_its_disk_moves(found: Journal, switches: set[int]) -> None:
    walk = Walk(found)
    for _ in range(60):
        if len(walk.steps) in switches:
            switches.discard(len(walk.steps))
            walk.switch()
        step = walk.look()
        if step is Step.FINISH:
            break
        assert step not in (LIVE if not walk.is_running else COLD)
        walk.act(step)
    assert walk.journal.outcome is Phase.SUCCEEDED
    assert walk.path == found.destination[-1].path


@given(plans, st.integers(0, 12), st.sampled_from(({"cancelled": True}, {"failure": FAILURE})))
def test_a_walk_given_up_at_any_step_ends_on_one_side_with_nothing_left(
    found: Journal, after: int, given_up: dict[str, object]
) -> None:
    walk = Walk(found)
    while len(walk.steps) < after and (step := walk.look()) is not Step.FINISH:
        walk.act(step)
    if walk.journal.outcome is not None:
        assert walk.journal.outcome is Phase.SUCCEEDED
        return
    had_pivoted = Step.PIVOT in walk.steps
    given_up_at = len(walk.steps)
    walk.give_up(**given_up)
    walk.to_the_end()
    assert walk.job is None
    if had_pivoted:
        assert walk.journal.outcome is Phase.SUCCEEDED
        assert walk.path == found.destination[-1].path
    else:
        assert walk.journal.outcome is (Phase.CANCELLED if "cancelled" in given_up else Phase.FAILED)
        assert walk.path == found.source[-1].path
        assert walk.steps[-1] is Step.DISCARD_DESTINATION
        assert set(walk.steps[given_up_at:]) <= BACKWARD
