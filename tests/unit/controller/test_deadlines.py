from datetime import timedelta

from diskmigration.controller import deadlines
from tests.unit.controller.builders import EPOCH, migration, moment


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


def test_the_grace_counts_from_when_it_was_refused() -> None:
    now = EPOCH + timedelta(seconds=1000)
    assert deadlines.seconds_to_giving_up(migration(status=accepted("False", 990)), 30, now) == 20
    assert deadlines.seconds_to_giving_up(migration(status=accepted("False", 900)), 30, now) == -70


def test_one_that_waited_long_or_was_suspended_has_the_whole_grace() -> None:
    now = EPOCH + timedelta(seconds=1000)
    for status in ("True", "Unknown"):
        assert deadlines.seconds_to_giving_up(migration(status=accepted(status, 0)), 30, now) == 30
    assert deadlines.seconds_to_giving_up(migration(), 30, now) == 30
