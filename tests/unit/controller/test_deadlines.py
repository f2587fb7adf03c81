from datetime import timedelta

import pytest

from diskmigration.api.disk_migration import Side
from diskmigration.api.errors import Reason
from diskmigration.api.storage_domain import StorageType
from diskmigration.controller import deadlines, migration_status
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.throughput import Throughput
from tests.unit.controller.builders import EPOCH, migration, moment

FILES = (Side(storage_domain_name="a", type=StorageType.FILE), Side(storage_domain_name="b", type=StorageType.FILE))
PLACE = Placement("n1", ("k",), *FILES, needed_bytes=1)


def accepted(status: str, since: float) -> dict[str, object]:
    return {"conditions": [{"type": "Accepted", "status": status, "reason": "R", "lastTransitionTime": moment(since)}]}


def test_a_deadline_counts_from_the_start() -> None:
    one = migration(spec={"activeDeadlineSeconds": 60}, status={"startTime": moment(100)})
    assert deadlines.seconds_to_deadline(one, EPOCH + timedelta(seconds=110)) == 50
    assert deadlines.seconds_to_deadline(one, EPOCH + timedelta(seconds=170)) == -10


def test_without_a_start_or_a_deadline_nothing_is_due() -> None:
    assert deadlines.seconds_to_deadline(migration(spec={"activeDeadlineSeconds": 60}), EPOCH) is None
    assert deadlines.seconds_to_deadline(migration(status={"startTime": moment()}), EPOCH) is None
    assert deadlines.seconds_to_removal(EPOCH, None, EPOCH) is None
    assert deadlines.seconds_to_removal(None, 5, EPOCH) is None


def test_a_ttl_counts_from_the_completion() -> None:
    assert deadlines.seconds_to_removal(EPOCH, 0, EPOCH) == 0
    assert deadlines.seconds_to_removal(EPOCH, 60, EPOCH + timedelta(seconds=20)) == 40


SIDES = {
    "source": {"storageDomainName": "a", "type": "File"},
    "destination": {"storageDomainName": "b", "type": "File"},
}
FULL = Refusal(Reason.DESTINATION_FULL, "full")


def left(status: dict[str, object], refusal: Refusal = FULL) -> float | None:
    return deadlines.seconds_to_giving_up(migration(status=status), refusal, 30, EPOCH + timedelta(seconds=1000))


def test_the_grace_counts_from_when_it_was_refused() -> None:
    assert left(accepted("False", 990)) == 20
    assert left(accepted("False", 900)) == -70


def test_one_that_was_suspended_or_is_new_has_the_whole_grace() -> None:
    assert left(accepted("Unknown", 0)) == 30
    assert left({"observedGeneration": -1}) == 30


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.INVALID_SPEC])
def test_one_that_was_accepted_once_is_never_refused_for_good(reason: Reason) -> None:
    queued = migration_status.queued(migration(), PLACE, 1, EPOCH)
    waiting = migration_status.waiting(migration(status=migration_status.to_wire(queued)), FULL, EPOCH)
    suspended = migration_status.held(migration(status=migration_status.to_wire(waiting)), FULL, Throughput(), EPOCH)
    for status in (queued, waiting, suspended):
        assert left(migration_status.to_wire(status), Refusal(reason, "why")) is None


def test_one_that_waits_for_its_disk_has_time_until_its_deadline() -> None:
    busy = Refusal(Reason.DISK_BUSY, "busy", sides=(PLACE.source, PLACE.destination))
    assert left(accepted("False", 0), busy) is None
    waiting = migration_status.to_wire(migration_status.waiting(migration(), busy, EPOCH))
    assert waiting["startTime"] == moment()
    assert left(waiting) is None, "and what it is refused for afterwards may pass too"


def test_what_the_spec_itself_makes_impossible_fails_at_once() -> None:
    impossible = Refusal(Reason.INVALID_SPEC, "no", is_permanent=True)
    for status in (accepted("False", 999), {**accepted("True", 0), **SIDES}):
        assert left(status, impossible) == 0
