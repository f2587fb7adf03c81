"""The time of day is the API server's where the machine's clock is wrong."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.clock import TOLERATED_SECONDS, Reading, reading_of, time_by

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
skews = st.floats(-1e6, 1e6)


@given(skew=skews, travel=st.floats(0, TOLERATED_SECONDS), later=st.floats(0, 1e5), part=st.floats(0, 0.999999))
def test_it_is_the_servers_however_wrong_the_machines_is(skew: float, travel: float, later: float, part: float) -> None:
    server = NOON + timedelta(seconds=part)
    date = format_datetime(server.replace(microsecond=0), usegmt=True)
    reading = reading_of(date, asked=100, answered=100 + travel)
    now = server + timedelta(seconds=travel / 2 + later)
    told = time_by(reading, steady=100 + travel + later, machine=now + timedelta(seconds=skew))
    off = abs((told - now).total_seconds())
    assert off <= TOLERATED_SECONDS + 1.6
    if abs(skew) <= TOLERATED_SECONDS - 1.6:
        assert abs(off - abs(skew)) < 0.001, "the machine's own is finer"


def test_before_the_first_answer_it_is_the_machines() -> None:
    assert time_by(None, steady=1, machine=NOON) == NOON


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Thu, 01 Jan 2026 12:00:00", "Thu, 01 Jan 2026 12:00:00 -0000"]
)
def test_what_is_no_time_tells_nothing(date: str | None) -> None:
    assert reading_of(date, asked=0, answered=0) is None


def test_an_answer_that_took_long_tells_nothing() -> None:
    date = format_datetime(NOON, usegmt=True)
    assert reading_of(date, asked=0, answered=TOLERATED_SECONDS + 0.1) is None
    assert reading_of(date, asked=0, answered=0) == Reading(NOON + timedelta(seconds=0.5), 0)
