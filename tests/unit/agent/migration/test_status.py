"""The status at each moment: what people and programs, and kstatus in particular, may rely on."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.migration import status as migration_status
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.progress import Meter
from diskmigration.agent.migration.status import VolumeFigures
from diskmigration.api import conditions
from diskmigration.api.conditions import ConditionStatus
from diskmigration.api.disk_migration import (
    ConditionType,
    CopyMode,
    DiskMigrationStatus,
    Failure,
    Phase,
    RetainedVolume,
    VolumeFormat,
    VolumeRole,
)
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType
from tests.unit.agent.builders import EPOCH, GIB, MIB, journal, migration, storage_domain

ACTIVE = [phase for phase in Phase if not phase.is_final and not phase.belongs_to_operator]
FINAL = [phase for phase in Phase if phase.is_final]
BEFORE = DiskMigrationStatus(node_name="node-a")


def moment(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def under_way(
    before: DiskMigrationStatus = BEFORE,
    *,
    phase: Phase = Phase.REPLICATING,
    found: Journal | None = None,
    meter: Meter | None = None,
    now: datetime = EPOCH,
    figures: dict[str, VolumeFigures] | None = None,
    message: str = "",
    has_pivoted: bool = False,
    stalled: MigrationError | None = None,
    falls_behind: bool = False,
) -> DiskMigrationStatus:
    if has_pivoted and before.pivoted_time is None:
        before = before.model_copy(update={"pivoted_time": now})
    return migration_status.under_way(
        before,
        migration(),
        phase=phase,
        journal=found or journal(),
        figures=figures or {},
        meter=meter or Meter(),
        message=message,
        now=now,
        stalled=stalled,
        falls_behind=falls_behind,
    )


def ended(
    before: DiskMigrationStatus, *, phase: Phase, reason: Reason = Reason.COPY_FAILED, now: datetime = EPOCH
) -> DiskMigrationStatus:
    return migration_status.ended(
        before, migration(generation=3), phase=phase, reason=reason, message="Because.", now=now
    )


def state(status: DiskMigrationStatus, kind: ConditionType) -> ConditionStatus:
    found = conditions.find(status.conditions, kind)
    assert found is not None
    return found.status


walks = st.lists(st.sampled_from(ACTIVE), max_size=8)


@given(walks, st.sampled_from([None, *FINAL]))
def test_reconciling_and_stalled_are_never_both_true(walk: list[Phase], end: Phase | None) -> None:
    status = BEFORE
    for phase in [*walk, *([end] if end is not None else [])]:
        status = ended(status, phase=phase) if phase.is_final else under_way(status, phase=phase)
        kinds = (ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.READY)
        assert [state(status, kind) for kind in kinds].count(ConditionStatus.TRUE) == 1


@pytest.mark.parametrize("phase", ACTIVE)
def test_while_it_runs_it_reconciles_and_has_not_succeeded(phase: Phase) -> None:
    status = under_way(phase=phase)
    assert status.phase is phase
    assert state(status, ConditionType.RECONCILING) is ConditionStatus.TRUE
    assert state(status, ConditionType.SUCCEEDED) is ConditionStatus.UNKNOWN
    assert state(status, ConditionType.READY) is ConditionStatus.FALSE
    assert state(status, ConditionType.STALLED) is ConditionStatus.FALSE
    assert status.completion_time is None


def test_what_somebody_has_to_look_at_is_said_until_it_is_over() -> None:
    trouble = MigrationError(Reason.IMPOSSIBLE_ALLOCATION, "Look at it.")
    first = under_way()
    second = under_way(first, stalled=trouble)
    assert state(second, ConditionType.STALLED) is ConditionStatus.TRUE
    assert state(second, ConditionType.RECONCILING) is ConditionStatus.FALSE
    assert state(second, ConditionType.SUCCEEDED) is ConditionStatus.UNKNOWN, "it has not failed"
    assert all((found.reason, found.message) == ("ImpossibleAllocation", "Look at it.") for found in second.conditions)
    assert second.phase is Phase.REPLICATING
    third = under_way(second)
    assert state(third, ConditionType.STALLED) is ConditionStatus.FALSE
    assert state(third, ConditionType.RECONCILING) is ConditionStatus.TRUE


@pytest.mark.parametrize(
    ("phase", "ready", "stalled"),
    [
        (Phase.SUCCEEDED, ConditionStatus.TRUE, ConditionStatus.FALSE),
        (Phase.FAILED, ConditionStatus.FALSE, ConditionStatus.TRUE),
        (Phase.CANCELLED, ConditionStatus.FALSE, ConditionStatus.TRUE),
    ],
)
def test_the_end(phase: Phase, ready: ConditionStatus, stalled: ConditionStatus) -> None:
    status = ended(under_way(), phase=phase, now=moment(9))
    assert state(status, ConditionType.READY) is ready
    assert state(status, ConditionType.SUCCEEDED) is ready
    assert state(status, ConditionType.STALLED) is stalled
    assert state(status, ConditionType.RECONCILING) is ConditionStatus.FALSE
    assert (status.phase, status.completion_time, status.observed_generation) == (phase, moment(9), 3)
    assert all(found.observed_generation == 3 for found in status.conditions)
    assert all((found.reason, found.message) == ("CopyFailed", "Because.") for found in status.conditions)


def test_a_transition_time_is_that_of_the_change() -> None:
    first = under_way(phase=Phase.REPLICATING, now=moment(0))
    second = under_way(first, phase=Phase.SYNCHRONIZED, now=moment(10))
    third = under_way(second, phase=Phase.SYNCHRONIZED, now=moment(20), message="It waits for its window.")
    last = ended(third, phase=Phase.SUCCEEDED, now=moment(30))

    def since(status: DiskMigrationStatus, kind: ConditionType) -> datetime:
        found = conditions.find(status.conditions, kind)
        assert found is not None
        return found.last_transition_time

    assert [since(status, ConditionType.SYNCHRONIZED) for status in (first, second, third, last)] == [
        moment(0),
        moment(10),
        moment(10),
        moment(10),
    ]
    assert [since(status, ConditionType.READY) for status in (first, second, third, last)] == [
        moment(0),
        moment(0),
        moment(0),
        moment(30),
    ]
    found = conditions.find(third.conditions, ConditionType.RECONCILING)
    assert found is not None
    assert (found.reason, found.message) == ("Synchronized", "It waits for its window.")


def test_synchronized_is_told_from_the_first_time_on() -> None:
    copying = under_way(phase=Phase.COPYING_CHAIN, now=moment(0))
    assert copying.synchronized_time is None
    assert state(copying, ConditionType.SYNCHRONIZED) is ConditionStatus.FALSE
    first = under_way(copying, phase=Phase.SYNCHRONIZED, now=moment(5))
    pivoting = under_way(first, phase=Phase.PIVOTING, now=moment(6))
    merging = under_way(pivoting, phase=Phase.MERGING, now=moment(7), has_pivoted=True)
    cleaning = under_way(merging, phase=Phase.CLEANING_UP, now=moment(8), has_pivoted=True)
    last = ended(cleaning, phase=Phase.SUCCEEDED, now=moment(9))
    for status in (first, pivoting, merging, cleaning, last):
        assert status.synchronized_time == moment(5)
        assert state(status, ConditionType.SYNCHRONIZED) is ConditionStatus.TRUE


def test_one_without_a_merge_stays_synchronized_to_the_end() -> None:
    pivoting = under_way(under_way(phase=Phase.SYNCHRONIZED), phase=Phase.PIVOTING, now=moment(6))
    assert pivoting.pivoted_time is None
    cleaning = under_way(pivoting, phase=Phase.CLEANING_UP, now=moment(7), has_pivoted=True)
    later = under_way(cleaning, phase=Phase.CLEANING_UP, now=moment(8), has_pivoted=True)
    last = ended(later, phase=Phase.SUCCEEDED, now=moment(9))
    for status in (cleaning, later, last):
        assert status.pivoted_time == moment(7)
        assert state(status, ConditionType.SYNCHRONIZED) is ConditionStatus.TRUE


def test_one_that_goes_back_is_not_synchronized() -> None:
    synchronized = under_way(phase=Phase.SYNCHRONIZED)
    status = under_way(synchronized, phase=Phase.CLEANING_UP, found=journal(cancelled=True))
    assert state(status, ConditionType.SYNCHRONIZED) is ConditionStatus.FALSE
    assert state(ended(status, phase=Phase.CANCELLED), ConditionType.SYNCHRONIZED) is ConditionStatus.FALSE


def test_a_failure_keeps_the_phase_in_which_it_happened() -> None:
    failure = Failure(reason=Reason.BLOCK_JOB_FAILED, message="ENOSPC", phase=Phase.REPLICATING)
    cleaning = under_way(phase=Phase.CLEANING_UP, found=journal(failure=failure))
    assert cleaning.failure == failure
    last = ended(cleaning, phase=Phase.FAILED, reason=Reason.BLOCK_JOB_FAILED)
    assert last.failure is not None
    assert (last.failure.phase, last.failure.reason) == (Phase.REPLICATING, Reason.BLOCK_JOB_FAILED)


def test_a_refusal_is_told_with_the_phase_it_stood_in() -> None:
    fresh = ended(DiskMigrationStatus(), phase=Phase.FAILED)
    assert fresh.failure is not None
    assert (fresh.failure.phase, fresh.failure.message, fresh.attempts) == (Phase.SCHEDULED, "Because.", 1)
    waiting = ended(DiskMigrationStatus(phase=Phase.PENDING), phase=Phase.FAILED)
    assert waiting.failure is not None
    assert waiting.failure.phase is Phase.PENDING


def test_a_success_tells_no_failure_of_an_earlier_attempt() -> None:
    failure = Failure(reason=Reason.COPY_FAILED, message="No.", phase=Phase.COPYING_CHAIN)
    failed = under_way(phase=Phase.CLEANING_UP, found=journal(failure=failure))
    again = under_way(failed, phase=Phase.COPYING_CHAIN, found=journal(attempt=2))
    assert (again.failure, again.attempts) == (None, 2)
    assert ended(failed, phase=Phase.SUCCEEDED).failure is None


def test_only_a_success_is_shown_as_full() -> None:
    meter = Meter().advanced(now=0, copied=90, total=100)
    running = under_way(meter=meter)
    assert running.display is not None
    assert running.display.progress == "90%"
    last = ended(running, phase=Phase.SUCCEEDED)
    assert last.progress is not None
    assert last.display is not None
    assert (last.progress.percent, last.progress.copied_bytes, last.display.progress) == (100, 100, "100%")
    failed = ended(running, phase=Phase.FAILED)
    assert failed.progress == running.progress
    assert failed.display is not None
    assert failed.display.progress == "90%"


def test_progress_is_dated_when_a_byte_moved() -> None:
    first = under_way(meter=Meter().advanced(now=0, copied=10, total=100), now=moment(0))
    same = under_way(first, meter=Meter().advanced(now=0, copied=10, total=200), now=moment(5))
    more = under_way(same, meter=Meter().advanced(now=0, copied=11, total=200), now=moment(9))
    assert [status.last_progress_time for status in (first, same, more)] == [moment(0), moment(0), moment(9)]


def test_both_sides_are_shown_base_first_without_what_is_gone() -> None:
    found = journal(length=2)
    assert found.snapshot is not None
    figures = {
        volume.path: VolumeFigures(size_bytes=number * GIB, allocated_bytes=number * MIB, extensions=number)
        for number, volume in enumerate((*found.source, found.snapshot, *found.destination), start=1)
    }
    status = under_way(found=found, figures=figures)
    assert status.source is not None
    assert status.destination is not None
    assert (status.source.storage_domain_name, status.source.type) == ("nfs", StorageType.FILE)
    assert (status.destination.storage_domain_name, status.destination.type) == ("san", StorageType.BLOCK)
    assert [volume.role for volume in status.source.volumes] == [
        VolumeRole.INTERNAL,
        VolumeRole.ACTIVE,
        VolumeRole.SNAPSHOT,
    ]
    assert [volume.role for volume in status.destination.volumes] == [VolumeRole.INTERNAL, VolumeRole.ACTIVE]
    assert [volume.extensions for volume in status.destination.volumes] == [4, 5]
    assert status.allocated_bytes == 9 * MIB
    assert status.display is not None
    assert status.display.allocated == "9Mi"


def test_what_was_resolved_is_shown() -> None:
    spec = {"bandwidth": "200Mi", "copyMode": "WriteBlocking"}
    thin = {"chunkSize": "1Gi", "replicationChunkSize": "3Gi", "highWatermark": "256Mi"}
    wished = migration(spec=spec)
    to_block = journal(migration=wished, destination_domain=storage_domain("san", "loop", thinProvisioning=thin))
    on_block = migration_status.effective(wished, to_block)
    assert on_block.bandwidth_bytes_per_second == 200 * MIB
    assert (on_block.chunk_size_bytes, on_block.high_watermark_bytes) == (3 * GIB, 256 * MIB)
    assert (on_block.format, on_block.copy_mode) == (VolumeFormat.QCOW2, CopyMode.WRITE_BLOCKING)
    on_file = migration_status.effective(migration(), journal(destination_domain=storage_domain("nfs")))
    assert (on_file.bandwidth_bytes_per_second, on_file.chunk_size_bytes, on_file.high_watermark_bytes) == (None,) * 3


@pytest.mark.parametrize(
    ("is_write_blocking", "expected"), [(False, CopyMode.BACKGROUND), (True, CopyMode.WRITE_BLOCKING)]
)
def test_what_auto_has_come_to_is_shown(is_write_blocking: bool, expected: CopyMode) -> None:
    wished = migration(spec={"copyMode": "Auto"})
    found = migration_status.effective(wished, journal(migration=wished, is_write_blocking=is_write_blocking))
    assert found.copy_mode is expected


def test_a_mirror_that_falls_behind_is_told_until_it_gains_again() -> None:
    first = under_way(phase=Phase.REPLICATING)
    behind = under_way(first, phase=Phase.REPLICATING, falls_behind=True)
    after = under_way(behind, phase=Phase.REPLICATING)
    said = [conditions.find(status.conditions, ConditionType.CONVERGING) for status in (first, behind, after)]
    assert [(one.status.value, one.reason) if one is not None else None for one in said] == [
        None,
        ("False", "GuestWritesFaster"),
        ("True", "RemainderFalls"),
    ]


def test_the_operators_fields_are_left_as_they_were() -> None:
    before = DiskMigrationStatus(node_name="node-a", start_time=EPOCH)
    status = ended(under_way(before, now=moment(5)), phase=Phase.SUCCEEDED, now=moment(9))
    assert (status.node_name, status.start_time) == ("node-a", EPOCH)


KEPT = RetainedVolume(name="base", path="/srv/nfs/base", reason="It is used by the VM web-2.")


def test_what_is_kept_is_told_in_status_column_and_message() -> None:
    done = journal(outcome=Phase.SUCCEEDED, retained_at_source=(KEPT,))
    status = under_way(phase=Phase.CLEANING_UP, found=done)
    status = migration_status.ended(
        status, migration(), phase=Phase.SUCCEEDED, reason=Reason.MIGRATED, message="Done.", now=EPOCH
    )
    assert status.source is not None
    assert status.source.retained == (KEPT,)
    assert status.display is not None
    assert status.display.retained == "1"
    message = migration_status.about_retained(done)
    assert all(word in message for word in ("nfs", "base", KEPT.reason))


def test_what_is_kept_stays_beside_the_record_of_what_was_moved() -> None:
    figures = {volume.path: VolumeFigures(GIB, MIB, 0) for volume in journal(length=2).volumes}
    before = under_way(found=journal(length=2), figures=figures)
    done = journal(length=2, outcome=Phase.SUCCEEDED, retained_at_source=(KEPT,))
    status = under_way(before, phase=Phase.CLEANING_UP, found=done)
    assert status.source is not None
    assert before.source is not None
    assert status.source.volumes == before.source.volumes
    assert status.source.retained == (KEPT,)


def test_nothing_is_said_of_nothing_that_was_kept() -> None:
    status = under_way(found=journal())
    assert status.display is not None
    assert status.display.retained is None
    assert migration_status.about_retained(journal()) == ""


def test_a_copy_that_is_kept_is_told_of_at_the_destination() -> None:
    given_up = journal(outcome=Phase.CANCELLED, retained_at_destination=(KEPT,))
    status = under_way(found=given_up)
    assert status.destination is not None
    assert status.destination.retained == (KEPT,)
    assert "san" in migration_status.about_retained(given_up)


@pytest.mark.parametrize(("capacity", "may_switch"), [(GIB, True), (65 * 1024 * GIB, False)])
def test_a_mode_that_the_disk_cannot_have_is_not_advised(capacity: int, may_switch: bool) -> None:
    plan = journal()
    assert plan.overlay is not None
    plan = journal(overlay=plan.overlay.model_copy(update={"capacity_bytes": capacity}))
    status = under_way(phase=Phase.REPLICATING, found=plan, falls_behind=True)
    said = conditions.find(status.conditions, ConditionType.CONVERGING)
    assert said is not None
    assert ("WriteBlocking" in said.message) == may_switch
