"""Conditions: their transition times, and how they are looked up."""

from datetime import UTC, datetime, timedelta

import pytest

from diskmigration.api import conditions
from diskmigration.api.conditions import Condition, ConditionStatus

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
LATER = EPOCH + timedelta(hours=1)


def made(status: ConditionStatus | bool, *, before: tuple[Condition, ...] = (), now: datetime = EPOCH) -> Condition:
    return conditions.condition(before, "Ready", status, reason="Why", message="Because.", generation=2, now=now)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(True, "True"), (False, "False"), (ConditionStatus.UNKNOWN, "Unknown"), (ConditionStatus.TRUE, "True")],
)
def test_it_is_written_as_metav1_condition(status: ConditionStatus | bool, expected: str) -> None:
    assert made(status).to_wire() == {
        "type": "Ready",
        "status": expected,
        "reason": "Why",
        "message": "Because.",
        "observedGeneration": 2,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def test_the_transition_time_stays_while_the_status_does() -> None:
    first = made(status=False)
    assert made(status=False, before=(first,), now=LATER).last_transition_time == EPOCH
    assert made(status=True, before=(first,), now=LATER).last_transition_time == LATER
    assert made(ConditionStatus.UNKNOWN, before=(first,), now=LATER).last_transition_time == LATER


def test_another_conditions_time_is_not_taken() -> None:
    other = made(status=True).model_copy(update={"type": "Accepted"})
    assert made(status=True, before=(other,), now=LATER).last_transition_time == LATER


def test_only_true_is_true() -> None:
    for status in ConditionStatus:
        assert conditions.is_true((made(status),), "Ready") is (status is ConditionStatus.TRUE)
    assert not conditions.is_true((), "Ready")
    assert conditions.find((made(status=True),), "Accepted") is None


def test_what_is_written_is_what_is_read() -> None:
    assert Condition.from_wire(made(status=True).to_wire()) == made(status=True)
