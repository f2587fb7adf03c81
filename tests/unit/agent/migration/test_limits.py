"""When a migration may pivot, when it has to give up, how long it waits before it tries again."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from diskmigration.agent.migration import limits
from diskmigration.api.disk_migration import Cutover, CutoverPolicy
from tests.unit.agent.builders import EPOCH, migration

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize(
    ("policy", "not_before", "is_open"),
    [
        (CutoverPolicy.AUTOMATIC, None, True),
        (CutoverPolicy.AUTOMATIC, EPOCH - SECOND, True),
        (CutoverPolicy.AUTOMATIC, EPOCH, True),
        (CutoverPolicy.AUTOMATIC, EPOCH + SECOND, False),
        (CutoverPolicy.MANUAL, None, False),
        (CutoverPolicy.MANUAL, EPOCH - SECOND, False),
    ],
)
def test_the_window_for_the_pivot(
    policy: CutoverPolicy, not_before: datetime | None, *, is_open: bool, suspend: bool
) -> None:
    spec = migration().spec.model_copy(
        update={"cutover": Cutover(policy=policy, not_before=not_before), "suspend": suspend}
    )
    assert limits.cutover_is_open(spec, now=EPOCH) is (is_open and not suspend)


def test_a_window_in_another_time_zone_is_the_same_moment() -> None:
    spec = migration(spec={"cutover": {"notBefore": "2026-01-01T02:00:00+02:00"}}).spec
    assert limits.cutover_is_open(spec, now=EPOCH)
    assert not limits.cutover_is_open(spec, now=EPOCH - SECOND)
    assert spec.cutover.not_before == EPOCH.astimezone(timezone(timedelta(hours=2)))
    assert EPOCH.tzinfo is UTC


@pytest.mark.parametrize(
    ("deadline", "started", "has_passed"),
    [
        (None, EPOCH - timedelta(days=365), False),
        (60, None, False),
        (60, EPOCH - 59 * SECOND, False),
        (60, EPOCH - 60 * SECOND, True),
        (60, EPOCH + SECOND, False),
    ],
)
def test_the_deadline(deadline: int | None, started: datetime | None, has_passed: bool) -> None:
    one = migration(spec={"activeDeadlineSeconds": deadline})
    assert limits.deadline_has_passed(one, started=started, now=EPOCH) is has_passed


def test_both_a_wish_and_a_deletion_cancel() -> None:
    assert not limits.wants_cancel(migration())
    assert limits.wants_cancel(migration(spec={"cancel": True}))
    assert limits.wants_cancel(migration(deletionTimestamp="2026-01-01T00:00:00Z"))
