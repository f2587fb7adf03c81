"""A guest that writes faster than its mirror copies is told from one that only writes, and from a hanging storage."""

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.migration.convergence import WINDOW_SECONDS, Convergence

MIB = 2**20


def watched(*, copied_per_second: int, written_per_second: int, remaining: int, seconds: int = 60) -> Convergence:
    """A job that is read every second."""
    found, copied = Convergence(), 0
    for second in range(seconds):
        found = found.advanced(now=float(second), copied=copied, remaining=max(remaining, 0))
        step = min(copied_per_second, remaining)
        copied += step
        remaining += written_per_second - step
    return found


def test_a_guest_that_writes_as_fast_as_is_copied_is_seen() -> None:
    assert watched(copied_per_second=100 * MIB, written_per_second=100 * MIB, remaining=1024 * MIB).falls_behind
    assert watched(copied_per_second=100 * MIB, written_per_second=300 * MIB, remaining=1024 * MIB).falls_behind


def test_nothing_is_said_before_it_was_watched_for_long_enough() -> None:
    seconds = int(WINDOW_SECONDS)
    assert not watched(
        copied_per_second=MIB, written_per_second=MIB, remaining=1024 * MIB, seconds=seconds
    ).falls_behind


def test_a_storage_that_hangs_is_not_the_guests_fault() -> None:
    assert not watched(copied_per_second=0, written_per_second=MIB, remaining=1024 * MIB).falls_behind


def test_it_is_taken_back_when_the_guest_calms_down() -> None:
    found = watched(copied_per_second=MIB, written_per_second=MIB, remaining=1024 * MIB)
    later = found.advanced(now=100.0, copied=400 * MIB, remaining=900 * MIB)
    assert not later.falls_behind


@given(rate=st.integers(MIB, 1024 * MIB), share=st.floats(0.0, 0.85), remaining=st.integers(0, 2**40))
def test_one_that_gains_is_left_alone_however_slow_it_is(rate: int, share: float, remaining: int) -> None:
    found = watched(copied_per_second=rate, written_per_second=int(rate * share), remaining=remaining)
    assert not found.falls_behind or remaining < 70 * rate
