"""A guest that meets the end of its volume again and again is resumed ever more rarely, and one that runs is not."""

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.resumes import LONGEST_SECONDS, RAN_SECONDS, Resumes

SECONDS_OF_A_LOOK = 0.01


def times_in(seconds: float, *, runs_for: float, has_grown: bool = False) -> list[float]:
    """When a guest is resumed that is looked at all the time, and meets the end so long after each resume."""
    found: list[float] = []
    state, now, pauses_at = Resumes(), 0.0, 0.0
    while now < seconds:
        if now >= pauses_at:
            state = state.paused(now)
            if state.may_resume(now):
                state = state.resumed(now, has_grown=has_grown)
                found.append(now)
                pauses_at = now + runs_for
        now += SECONDS_OF_A_LOOK
    return found


def test_a_guest_that_meets_the_end_at_once_is_resumed_ever_more_rarely() -> None:
    times = [round(at) for at in times_in(300.0, runs_for=0.0)]
    assert times == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_guest_whose_volume_has_grown_is_resumed_at_once() -> None:
    assert len(times_in(1.0, runs_for=0.1, has_grown=True)) == 10


def test_a_guest_that_ran_for_a_while_is_resumed_at_once() -> None:
    times = times_in(10 * RAN_SECONDS, runs_for=RAN_SECONDS)
    assert len(times) == 10


def test_waiting_for_room_is_not_running() -> None:
    state = Resumes()
    for at in (0.0, 1.0, 3.0):
        state = state.paused(at).resumed(at, has_grown=False)
    state = state.paused(3.1)
    assert not state.may_resume(6.0)
    assert state.paused(3.1 + 100 * RAN_SECONDS) == state


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans())))
def test_nobody_waits_longer_than_the_longest_delay(pauses: list[tuple[float, bool]]) -> None:
    state, now = Resumes(), 0.0
    for ran, has_grown in pauses:
        now += ran
        state = state.paused(now)
        assert 0.0 <= state.delay_seconds <= LONGEST_SECONDS
        now += state.delay_seconds
        assert state.may_resume(now)
        state = state.resumed(now, has_grown=has_grown)
