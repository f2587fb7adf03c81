"""A loop outlives what its turns raise, and does not spin on it."""

import logging

import pytest

from diskmigration.observability.loops import PAUSE_SECONDS, surviving


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(116, "stale"), UnicodeError("odd")])
def test_a_turn_that_fails_is_logged_and_followed_by_a_pause(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    with caplog.at_level(logging.ERROR), surviving("the loop", pause=pauses.append):
        raise error
    assert pauses == [PAUSE_SECONDS]
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.__dict__["loop"] == "the loop"


def test_a_turn_that_goes_well_is_followed_by_the_next_at_once() -> None:
    pauses: list[float] = []
    with surviving("the loop", pause=pauses.append):
        pass
    assert pauses == []


def test_the_end_of_the_process_is_no_failure() -> None:
    with pytest.raises(SystemExit), surviving("the loop", pause=lambda _: None):
        raise SystemExit
