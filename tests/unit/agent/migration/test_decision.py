"""What a migration does next: as a table, on any mixture of what may be found, and as whole walks from start to end."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.migration.decision import (
    Elsewhere,
    Place,
    Situation,
    Step,
    acts_on_volumes,
    is_put_back,
    newly_known,
    next_step,
    place_of,
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
COLD = {Step.FORGO_SNAPSHOT, Step.COPY_COLD, Step.PIVOT_COLD}
LIVE = {Step.TAKE_SNAPSHOT, Step.START_REPLICATION, Step.AWAIT_SYNC, Step.PIVOT}

SNAPSHOT = journal()
DIRECT = journal(strategy="Direct")


def path_of(found: Journal, place: Place) -> str:
    paths = {
        Place.SOURCE: found.source[-1].path,
        Place.SNAPSHOT: found.snapshot.path if found.snapshot is not None else "/srv/elsewhere",
        Place.OVERLAY: found.overlay.path if found.overlay is not None else "/srv/elsewhere",
        Place.DESTINATION: found.destination[-1].path,
        Place.FOREIGN: "/srv/elsewhere",
    }
    return paths[place]


def decide_when_off(found: Journal, place: Place, *, is_open: bool = True, **said: Any) -> Step:
    situation = Situation(path_of(found, place), None, cutover_is_open=is_open, is_running=False, **said)
    return next_step(found, situation)


def decide(found: Journal, place: Place, job: BlockJob | None = None, *, is_open: bool = True) -> Step:
    return next_step(found, Situation(path_of(found, place), job, cutover_is_open=is_open))


def own_job(found: Journal, *, ready: bool = False) -> BlockJob:
    return copy_job(found.mirror.path, ready=ready)


@pytest.mark.parametrize(
    ("found", "place", "job", "is_open", "expected"),
    [
        # Forward with a snapshot.
        (SNAPSHOT, Place.SOURCE, None, True, Step.TAKE_SNAPSHOT),
        (SNAPSHOT, Place.SNAPSHOT, None, True, Step.PREPARE_DESTINATION),
        (journal(stage=Stage.PREPARED), Place.SNAPSHOT, None, True, Step.COPY_CHAIN),
        (journal(stage=Stage.COPIED), Place.SNAPSHOT, None, True, Step.START_REPLICATION),
        (SNAPSHOT, Place.SNAPSHOT, own_job(SNAPSHOT), True, Step.AWAIT_SYNC),
        (SNAPSHOT, Place.SNAPSHOT, own_job(SNAPSHOT, ready=True), False, Step.AWAIT_CUTOVER),
        (SNAPSHOT, Place.SNAPSHOT, own_job(SNAPSHOT, ready=True), True, Step.PIVOT),
        (SNAPSHOT, Place.OVERLAY, None, True, Step.MERGE),
        (SNAPSHOT, Place.OVERLAY, commit_job("/srv/san/dev/base"), True, Step.MERGE),
        (SNAPSHOT, Place.DESTINATION, None, True, Step.CLEAN_UP_SOURCE),
        # Forward without one.
        (DIRECT, Place.SOURCE, None, True, Step.PREPARE_DESTINATION),
        (journal(strategy="Direct", stage=Stage.PREPARED), Place.SOURCE, None, True, Step.COPY_CHAIN),
        (journal(strategy="Direct", stage=Stage.COPIED), Place.SOURCE, None, True, Step.START_REPLICATION),
        (DIRECT, Place.SOURCE, own_job(DIRECT), True, Step.AWAIT_SYNC),
        (DIRECT, Place.SOURCE, own_job(DIRECT, ready=True), False, Step.AWAIT_CUTOVER),
        (DIRECT, Place.SOURCE, own_job(DIRECT, ready=True), True, Step.PIVOT),
        (DIRECT, Place.DESTINATION, None, True, Step.CLEAN_UP_SOURCE),
        # Of a job that libvirt has lost the mirror of.
        (journal(stage=Stage.COPIED), Place.SNAPSHOT, LOST_COPY_JOB, True, Step.DROP_REPLICATION),
        (journal(strategy="Direct", stage=Stage.COPIED), Place.SOURCE, LOST_COPY_JOB, True, Step.DROP_REPLICATION),
        (journal(stage=Stage.COPIED, cancelled=True), Place.SNAPSHOT, LOST_COPY_JOB, True, Step.ABORT_REPLICATION),
        (journal(stage=Stage.PREPARED), Place.SNAPSHOT, LOST_COPY_JOB, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (journal(stage=Stage.PREPARED, cancelled=True), Place.SNAPSHOT, LOST_COPY_JOB, True, Step.MERGE_BACK),
        # Back.
        (journal(cancelled=True), Place.SNAPSHOT, own_job(SNAPSHOT, ready=True), True, Step.ABORT_REPLICATION),
        (journal(cancelled=True), Place.SNAPSHOT, None, True, Step.MERGE_BACK),
        (journal(cancelled=True), Place.SNAPSHOT, commit_job("/srv/nfs/layer-0"), True, Step.MERGE_BACK),
        (journal(cancelled=True), Place.SOURCE, None, True, Step.DISCARD_DESTINATION),
        (journal(failure=FAILURE), Place.SNAPSHOT, own_job(SNAPSHOT), True, Step.ABORT_REPLICATION),
        (journal(failure=FAILURE), Place.SOURCE, None, True, Step.DISCARD_DESTINATION),
        (journal(strategy="Direct", cancelled=True), Place.SOURCE, own_job(DIRECT), True, Step.ABORT_REPLICATION),
        (journal(strategy="Direct", cancelled=True), Place.SOURCE, None, True, Step.DISCARD_DESTINATION),
        # After the pivot nothing goes back.
        (journal(cancelled=True), Place.OVERLAY, None, True, Step.MERGE),
        (journal(failure=FAILURE), Place.DESTINATION, None, True, Step.CLEAN_UP_SOURCE),
        # Somebody else's.
        (SNAPSHOT, Place.FOREIGN, None, True, Step.STOP_FOR_FOREIGN_CHANGE),
        (SNAPSHOT, Place.SNAPSHOT, copy_job("/srv/elsewhere", ready=True), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (SNAPSHOT, Place.SNAPSHOT, commit_job("/srv/nfs/layer-0"), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (SNAPSHOT, Place.SOURCE, PULL_JOB, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (SNAPSHOT, Place.SOURCE, own_job(SNAPSHOT), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (DIRECT, Place.SOURCE, copy_job("/srv/elsewhere"), True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        # The snapshot was merged by somebody else: what was copied below it is no more what is there.
        (journal(stage=Stage.PREPARED), Place.SOURCE, None, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (journal(stage=Stage.COPIED), Place.SOURCE, None, True, Step.GIVE_UP_FOR_FOREIGN_WORK),
        # It waits with the merge, and with nothing else.
        (journal(cancelled=True), Place.SNAPSHOT, copy_job("/srv/elsewhere"), True, Step.MERGE_BACK),
        (journal(strategy="Direct", cancelled=True), Place.SOURCE, PULL_JOB, True, Step.DISCARD_DESTINATION),
        # It has ended.
        (journal(outcome=Phase.SUCCEEDED), Place.DESTINATION, None, True, Step.FINISH),
        (journal(outcome=Phase.FAILED, failure=FAILURE), Place.SOURCE, None, True, Step.FINISH),
        (journal(outcome=Phase.CANCELLED, cancelled=True), Place.FOREIGN, PULL_JOB, True, Step.FINISH),
    ],
)
def test_the_table(found: Journal, place: Place, job: BlockJob | None, is_open: bool, expected: Step) -> None:
    assert decide(found, place, job, is_open=is_open) is expected


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
    assert decide(SNAPSHOT, Place.SNAPSHOT, job) is Step.AWAIT_SYNC


@pytest.mark.parametrize(("word", "expected"), [("yes", Step.PIVOT), ("", Step.AWAIT_SYNC)])
def test_a_job_that_was_in_step_stays_so_under_a_busy_guest(word: str, expected: Step) -> None:
    job = copy_job(SNAPSHOT.mirror.path, state=word, current=9, end=10)
    path = path_of(SNAPSHOT, Place.SNAPSHOT)
    assert next_step(SNAPSHOT, Situation(path, job, cutover_is_open=True, was_in_step=True)) is expected


@pytest.mark.parametrize(
    ("found", "place", "expected"),
    [
        (SNAPSHOT, Place.SOURCE, Step.FORGO_SNAPSHOT),
        (journal(snapshot=None, overlay=None), Place.SOURCE, Step.PREPARE_DESTINATION),
        (SNAPSHOT, Place.SNAPSHOT, Step.PREPARE_DESTINATION),
        (journal(stage=Stage.PREPARED), Place.SNAPSHOT, Step.COPY_CHAIN),
        (journal(stage=Stage.COPIED), Place.SNAPSHOT, Step.COPY_COLD),
        (DIRECT, Place.SOURCE, Step.PREPARE_DESTINATION),
        (journal(strategy="Direct", stage=Stage.COPIED), Place.SOURCE, Step.COPY_COLD),
        (SNAPSHOT, Place.OVERLAY, Step.MERGE),
        (SNAPSHOT, Place.DESTINATION, Step.CLEAN_UP_SOURCE),
        (journal(stage=Stage.COPIED), Place.SOURCE, Step.GIVE_UP_FOR_FOREIGN_WORK),
        (journal(cancelled=True), Place.SNAPSHOT, Step.MERGE_BACK),
        (journal(cancelled=True), Place.SOURCE, Step.DISCARD_DESTINATION),
    ],
)
def test_the_table_of_a_vm_that_is_shut_off(found: Journal, place: Place, expected: Step) -> None:
    assert decide_when_off(found, place) is expected


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
    assert decide_when_off(found, Place.SNAPSHOT, is_open=is_open, **said) is expected


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
    situation = Situation(path_of(found, Place.SNAPSHOT), own_job(found), cutover_is_open=True, falls_behind=True)
    assert next_step(found, situation) is expected
    in_step = Situation(
        path_of(found, Place.SNAPSHOT), own_job(found, ready=True), cutover_is_open=True, falls_behind=True
    )
    assert next_step(found, in_step) is Step.PIVOT


@pytest.mark.parametrize("place", Place)
def test_nothing_is_done_while_the_memory_that_names_the_disk_is_saved(place: Place) -> None:
    for found in (SNAPSHOT, journal(cancelled=True), journal(failure=FAILURE, stage=Stage.COPIED)):
        assert decide_when_off(found, place, is_saved=True) is Step.AWAIT_RESTORE


@pytest.mark.parametrize("place", Place)
def test_nothing_is_done_while_libvirt_has_lost_track(place: Place) -> None:
    for found in (SNAPSHOT, journal(cancelled=True), journal(failure=FAILURE, stage=Stage.COPIED)):
        assert decide_when_off(found, place, is_lost=True) is Step.AWAIT_END_OF_VM
    assert decide_when_off(journal(outcome=Phase.SUCCEEDED), place, is_lost=True) is Step.FINISH


@pytest.mark.parametrize("place", Place)
def test_nothing_is_done_while_the_vm_may_run_on_another_node(place: Place) -> None:
    for found in (SNAPSHOT, journal(stage=Stage.COPIED), journal(cancelled=True), journal(failure=FAILURE)):
        assert decide_when_off(found, place, elsewhere=Elsewhere.UNKNOWN) is Step.AWAIT_OTHER_HOSTS
        step = decide_when_off(found, place, elsewhere=Elsewhere.RUNNING)
        assert step is (Step.STOP_FOR_FOREIGN_CHANGE if found.rolls_back else Step.AWAIT_RETURN_OF_VM)
        # What writes to the disk then is the other node's QEMU.
        assert decide_when_off(found, place, elsewhere=Elsewhere.RUNNING, is_lost=True) is step


@pytest.mark.parametrize(
    ("found", "place", "is_running", "is_same_run", "expected"),
    [
        # Where the journal expects the disk.
        (SNAPSHOT, Place.SOURCE, True, False, False),
        (journal(stage=Stage.COPIED), Place.SNAPSHOT, True, False, False),
        (journal(has_pivoted=True), Place.OVERLAY, True, False, False),
        (journal(has_pivoted=True, is_merged=True), Place.DESTINATION, False, False, False),
        (journal(strategy="Direct", has_pivoted=True), Place.DESTINATION, True, False, False),
        (journal(is_merged=True, cancelled=True), Place.SOURCE, False, False, False),
        # A definition from before the pivot.
        (journal(has_pivoted=True), Place.SOURCE, True, True, True),
        (journal(has_pivoted=True), Place.SNAPSHOT, False, False, True),
        (journal(strategy="Direct", has_pivoted=True), Place.SOURCE, False, False, True),
        # One from before a merge, after which the guest wrote to the volume below.
        (journal(is_merged=True, cancelled=True), Place.SNAPSHOT, True, False, True),
        (journal(has_pivoted=True, is_merged=True), Place.OVERLAY, False, False, True),
        # A QEMU that was asked to pivot, and another one that runs now.
        (journal(pivoting_to=SNAPSHOT.mirror.path), Place.SNAPSHOT, True, False, True),
        (journal(pivoting_to=SNAPSHOT.mirror.path), Place.SNAPSHOT, True, True, False),
        (journal(pivoting_to=SNAPSHOT.mirror.path), Place.SNAPSHOT, False, False, False),
        (journal(pivoting_to=SNAPSHOT.mirror.path), Place.OVERLAY, True, False, False),
    ],
)
def test_a_definition_that_was_put_back(
    found: Journal, place: Place, is_running: bool, is_same_run: bool, expected: bool
) -> None:
    assert is_put_back(found, place, is_running=is_running, is_same_run=is_same_run) is expected


@pytest.mark.parametrize(
    ("found", "place", "is_same_run", "expected"),
    [
        (SNAPSHOT, Place.SOURCE, False, SNAPSHOT.snapshot),
        (journal(stage=Stage.COPIED), Place.SOURCE, False, SNAPSHOT.snapshot),
        (journal(has_pivoted=True), Place.DESTINATION, False, SNAPSHOT.overlay),
        # QEMU went there by itself, and took along what was above.
        (journal(stage=Stage.COPIED), Place.SOURCE, True, None),
        (journal(has_pivoted=True), Place.DESTINATION, True, None),
        (journal(is_merged=True), Place.SOURCE, False, None),
        # Nothing of the migration is above.
        (SNAPSHOT, Place.SNAPSHOT, False, None),
        (SNAPSHOT, Place.OVERLAY, False, None),
        (DIRECT, Place.SOURCE, False, None),
        (DIRECT, Place.DESTINATION, False, None),
        (SNAPSHOT, Place.FOREIGN, False, None),
    ],
)
def test_what_the_guest_may_have_written_to_last(
    found: Journal, place: Place, is_same_run: bool, expected: object
) -> None:
    assert volume_in_doubt(found, place, is_same_run=is_same_run) == expected


@pytest.mark.parametrize(
    ("found", "place", "is_same_run", "expected"),
    [
        (journal(stage=Stage.COPIED), Place.OVERLAY, False, {"has_pivoted": True, "is_merged": False}),
        (DIRECT, Place.DESTINATION, False, {"has_pivoted": True, "is_merged": False}),
        (journal(has_pivoted=True), Place.DESTINATION, True, {"is_merged": True}),
        (journal(has_pivoted=True), Place.DESTINATION, False, {}),
        (journal(stage=Stage.PREPARED), Place.SOURCE, True, {"is_merged": True}),
        (journal(stage=Stage.PREPARED), Place.SOURCE, False, {}),
        # Before the snapshot it has always been there.
        (SNAPSHOT, Place.SOURCE, True, {}),
        (SNAPSHOT, Place.SNAPSHOT, True, {}),
    ],
)
def test_what_a_place_tells(found: Journal, place: Place, is_same_run: bool, expected: dict[str, bool]) -> None:
    assert newly_known(found, place, is_same_run=is_same_run) == expected


@pytest.mark.parametrize("given_up", [{}, {"cancelled": True}, {"failure": FAILURE}])
def test_a_pivot_in_whose_midst_the_vm_ended_is_settled_before_anything_else(given_up: dict[str, Any]) -> None:
    to_overlay = journal(stage=Stage.COPIED, pivoting_to=SNAPSHOT.mirror.path, **given_up)
    assert decide_when_off(to_overlay, Place.SNAPSHOT) is Step.SETTLE_PIVOT
    assert decide_when_off(to_overlay, Place.OVERLAY) is Step.MERGE
    back = journal(pivoting_to=SNAPSHOT.source[-1].path, **given_up)
    assert decide_when_off(back, Place.SNAPSHOT) is Step.SETTLE_PIVOT
    merge = journal(pivoting_to=SNAPSHOT.destination[-1].path, **given_up)
    assert decide_when_off(merge, Place.OVERLAY) is Step.SETTLE_PIVOT
    assert decide_when_off(merge, Place.DESTINATION) is Step.CLEAN_UP_SOURCE
    # Of a VM that runs, libvirt tells all.
    assert decide(to_overlay, Place.SNAPSHOT) is not Step.SETTLE_PIVOT


@pytest.mark.parametrize("given_up", [{}, {"cancelled": True}, {"failure": FAILURE}])
@pytest.mark.parametrize("place", [Place.SNAPSHOT, Place.OVERLAY])
def test_a_change_of_the_xml_of_a_vm_that_was_off_is_proven_before_anything_else(
    place: Place, given_up: dict[str, Any]
) -> None:
    old, new = SNAPSHOT.mirrored.path, SNAPSHOT.mirror.path
    switch = ColdSwitch(old=old, new=new, old_mark="1", new_mark=None)
    found = journal(stage=Stage.COPIED, cold_switch=switch, **given_up)
    assert decide(found, place) is Step.SETTLE_COLD_SWITCH
    assert decide_when_off(found, place) is Step.SETTLE_COLD_SWITCH
    assert decide_when_off(found, place, is_lost=True) is Step.AWAIT_END_OF_VM
    assert decide(found, Place.FOREIGN) is Step.STOP_FOR_FOREIGN_CHANGE


def test_where_the_active_layer_is_is_told_by_its_path_alone() -> None:
    for place in Place:
        assert place_of(SNAPSHOT, path_of(SNAPSHOT, place)) is place
    assert place_of(DIRECT, path_of(SNAPSHOT, Place.SNAPSHOT)) is Place.FOREIGN
    assert place_of(DIRECT, path_of(DIRECT, Place.DESTINATION)) is Place.DESTINATION
    assert place_of(DIRECT, "") is Place.FOREIGN


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


BEFORE_PIVOT = (Place.SOURCE, Place.SNAPSHOT)
PAST_PIVOT = (Place.OVERLAY, Place.DESTINATION)


@st.composite
def findings(
    draw: st.DrawFn,
    /,
    *,
    places: tuple[Place, ...] = tuple(Place),
    jobs: Callable[[Journal], tuple[BlockJob | None, ...]] = every_job,
    **changes: object,
) -> tuple[Journal, Situation]:
    """Any journal that has not ended, with any active layer and any job, unless told otherwise."""
    found = draw(journals).model_copy(update=changes)
    possible = [place for place in places if place is Place.FOREIGN or path_of(found, place) != "/srv/elsewhere"]
    situation = Situation(
        path_of(found, draw(st.sampled_from(possible))),
        draw(st.sampled_from(jobs(found))),
        cutover_is_open=draw(st.booleans()),
    )
    return found, situation


def is_own_copy(found: Journal, job: BlockJob) -> bool:
    if job is LOST_COPY_JOB:
        return found.stage is Stage.COPIED
    return job.is_copy and job.mirror is not None and job.mirror.layer.path == found.mirror.path


@given(findings(places=BEFORE_PIVOT, cancelled=True) | findings(places=BEFORE_PIVOT, failure=FAILURE))
def test_one_that_rolls_back_before_the_pivot_never_goes_forward(case: tuple[Journal, Situation]) -> None:
    assert next_step(*case) in BACKWARD


@given(findings(places=PAST_PIVOT))
def test_after_the_pivot_nothing_goes_back(case: tuple[Journal, Situation]) -> None:
    assert next_step(*case) in AFTER_PIVOT


@given(findings(places=(*BEFORE_PIVOT, Place.FOREIGN)))
def test_before_the_pivot_the_source_is_never_cleaned_up(case: tuple[Journal, Situation]) -> None:
    assert next_step(*case) not in AFTER_PIVOT


@given(findings(places=(Place.FOREIGN,)))
def test_a_foreign_active_layer_always_stops_it(case: tuple[Journal, Situation]) -> None:
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
    case: tuple[Journal, Situation], said: dict[str, Any]
) -> None:
    found, situation = case
    assert not acts_on_volumes(next_step(found, replace(situation, **said)))


@given(findings(places=BEFORE_PIVOT, jobs=foreign_jobs, cancelled=False, failure=None))
def test_a_foreign_job_always_stops_one_that_goes_forward(case: tuple[Journal, Situation]) -> None:
    assert next_step(*case) is Step.GIVE_UP_FOR_FOREIGN_WORK


@given(findings())
def test_a_foreign_copy_is_never_aborted(case: tuple[Journal, Situation]) -> None:
    found, situation = case
    if next_step(found, situation) in (Step.ABORT_REPLICATION, Step.DROP_REPLICATION):
        assert situation.job is not None
        assert is_own_copy(found, situation.job)


@given(findings())
def test_nothing_is_discarded_while_its_own_mirror_writes(case: tuple[Journal, Situation]) -> None:
    found, situation = case
    if next_step(found, situation) is Step.DISCARD_DESTINATION:
        assert situation.job is None or not is_own_copy(found, situation.job)


@given(findings())
def test_only_a_ready_job_is_pivoted_and_only_in_its_window(case: tuple[Journal, Situation]) -> None:
    found, situation = case
    if next_step(found, situation) is Step.PIVOT:
        assert situation.cutover_is_open
        assert situation.job is not None
        assert situation.job.is_ready
        assert is_own_copy(found, situation.job)


@given(findings(), st.sampled_from((Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)))
def test_one_that_has_ended_only_finishes(case: tuple[Journal, Situation], outcome: Phase) -> None:
    found, situation = case
    assert next_step(found.model_copy(update={"outcome": outcome}), situation) is Step.FINISH


@pytest.mark.parametrize("step", Step)
def test_every_step_has_a_phase_of_the_agents(step: Step) -> None:
    assert not phase_of(step).belongs_to_operator
    assert not phase_of(step).is_final


def test_every_way_back_is_a_clean_up() -> None:
    assert {phase_of(step) for step in BACKWARD} == {Phase.CLEANING_UP}


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
            Step.FORGO_SNAPSHOT: {"snapshot": None, "overlay": None},
            Step.PREPARE_DESTINATION: {"stage": Stage.PREPARED},
            Step.COPY_CHAIN: {"stage": Stage.COPIED},
            Step.CLEAN_UP_SOURCE: {"outcome": Phase.SUCCEEDED},
        }

    def look(self) -> Step:
        situation = Situation(
            self.path,
            self.job,
            cutover_is_open=self.is_open,
            is_running=self.is_running,
            has_cold_copy=self.has_cold_copy,
        )
        return next_step(self.journal, situation)

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
        if step is Step.FORGO_SNAPSHOT:
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
    positions = [order.index(phase_of(step)) for step in walk.steps]
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
