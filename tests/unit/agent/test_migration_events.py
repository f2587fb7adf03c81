"""A migration that goes well has three Events, and what went wrong is told once."""

import itertools
from datetime import UTC, datetime

from diskmigration.agent.migration_events import happenings
from diskmigration.api.conditions import Condition, condition
from diskmigration.api.disk_migration import DiskMigrationStatus, Failure, Phase, RetainedVolume, Side
from diskmigration.api.errors import Reason
from diskmigration.api.storage_domain import StorageType
from diskmigration.cluster.events import EventType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DESTINATION = Side(storage_domain_name="b", type=StorageType.FILE)


def reasons(*statuses: DiskMigrationStatus) -> list[str]:
    """Those of the Events of a migration that has these statuses one after the other."""
    return [told.reason for before, after in itertools.pairwise(statuses) for told in happenings(before, after)]


def converging(reason: str, is_true: bool) -> tuple[Condition, ...]:
    return (condition((), "Converging", is_true, reason=reason, message="", generation=1, now=NOW),)


def test_a_migration_that_goes_well_tells_of_its_pivot_and_its_end() -> None:
    before = [phase for phase in Phase if phase not in (Phase.PENDING, Phase.FAILED, Phase.CANCELLED, Phase.SUCCEEDED)]
    statuses = [DiskMigrationStatus(phase=phase, destination=DESTINATION) for phase in before]
    pivoted = [
        DiskMigrationStatus(phase=phase, destination=DESTINATION, pivoted_time=NOW)
        for phase in (Phase.MERGING, Phase.CLEANING_UP, Phase.SUCCEEDED, Phase.SUCCEEDED)
    ]
    assert reasons(*statuses, *pivoted) == ["Pivoted", "Succeeded"]


def test_phases_that_were_never_written_leave_no_event_out() -> None:
    end = DiskMigrationStatus(phase=Phase.SUCCEEDED, destination=DESTINATION, pivoted_time=NOW)
    assert reasons(DiskMigrationStatus(phase=Phase.SCHEDULED), end) == ["Pivoted", "Succeeded"]


def test_a_failure_is_a_warning_with_its_message() -> None:
    failure = Failure(reason=Reason.STORAGE_FAILED, message="it is broken", phase=Phase.COPYING_CHAIN)
    [told] = happenings(DiskMigrationStatus(), DiskMigrationStatus(phase=Phase.FAILED, failure=failure))
    assert (told.reason, told.note, told.event_type) == ("Failed", "it is broken", EventType.WARNING)


def test_what_was_kept_is_told_at_the_end() -> None:
    kept = Side(
        storage_domain_name="a",
        type=StorageType.FILE,
        retained=(RetainedVolume(name="v", path="/v", reason="it is used"),),
    )
    [_, told] = happenings(DiskMigrationStatus(), DiskMigrationStatus(phase=Phase.SUCCEEDED, source=kept))
    assert told.reason == "SourceRetained"
    assert told.note == "Kept in the storage domain a: v. it is used"


def test_a_guest_that_is_too_fast_is_told_and_one_that_never_was_is_not() -> None:
    nothing, well = DiskMigrationStatus(), DiskMigrationStatus(conditions=converging("Copying", is_true=True))
    fast = DiskMigrationStatus(conditions=converging("GuestWritesFaster", is_true=False))
    assert reasons(nothing, well) == []
    assert reasons(nothing, well, fast, fast, well) == ["GuestWritesFaster", "Copying"]
