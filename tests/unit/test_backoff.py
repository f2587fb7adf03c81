"""Waits between retries double up to a bound, however often something has failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent import status_writer
from diskmigration.agent.extender import enospc
from diskmigration.agent.migration import limits, orphans
from diskmigration.backoff import Backoff
from diskmigration.cluster import watching
from diskmigration.controller import controller

EVERY = {
    "attempts and steps": limits.BACKOFF,
    "guests without room": enospc.BACKOFF,
    "orphans": orphans.BACKOFF,
    "statuses": status_writer.BACKOFF,
    "watches": watching.BACKOFF,
    "objects": controller.BACKOFF,
}


def test_the_wait_doubles_from_the_first_to_the_longest() -> None:
    backoff = Backoff(first_seconds=2.0, longest_seconds=60.0)
    assert [backoff.seconds(failures) for failures in range(8)] == [0, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("backoff", EVERY.values(), ids=EVERY)
def test_what_has_failed_for_days_is_tried_again(backoff: Backoff) -> None:
    # 2.0 ** 1024 is no float any more: a minute apart, that is 17 hours.
    waits = [backoff.seconds(failures) for failures in range(1, 1200)]
    assert waits == sorted(waits)
    assert waits[0] == backoff.first_seconds > 0
    assert waits[-1] == backoff.seconds(10**9) == backoff.longest_seconds


@given(st.integers(min_value=0))
def test_the_spread_is_the_upper_half_of_the_wait(failures: int) -> None:
    backoff = Backoff(first_seconds=0.25, longest_seconds=30.0)
    assert backoff.seconds(failures) / 2 <= backoff.spread_seconds(failures) <= backoff.seconds(failures)
