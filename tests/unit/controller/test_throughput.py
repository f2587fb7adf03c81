"""The rate of the last moves between two storage domains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.controller.throughput import Copied, Throughput

GIB = 2**30


def test_nothing_is_known_before_a_move_has_ended() -> None:
    assert Throughput().seconds_for(("a", "b"), GIB) is None


@pytest.mark.parametrize("copied", [Copied(2**20, 1), Copied(GIB, 0)])
def test_a_move_that_tells_nothing_of_the_rate_is_passed_over(copied: Copied) -> None:
    throughput = Throughput()
    throughput.note(("a", "b"), copied)
    assert throughput.seconds_for(("a", "b"), GIB) is None


def test_each_direction_has_its_own_rate() -> None:
    throughput = Throughput()
    throughput.note(("a", "b"), Copied(GIB, 10))
    throughput.note(("b", "a"), Copied(GIB, 20))
    assert [throughput.seconds_for(lane, GIB) for lane in (("a", "b"), ("b", "a"))] == [10, 20]


@given(st.lists(st.builds(Copied, st.integers(GIB, 2**40), st.floats(1, 1e6)), min_size=1))
def test_the_rate_is_between_the_slowest_and_the_fastest(moves: list[Copied]) -> None:
    throughput = Throughput()
    for move in moves:
        throughput.note(("a", "b"), move)
    seconds = throughput.seconds_for(("a", "b"), 2**50)
    assert seconds is not None
    rates = [move.size_bytes / move.seconds for move in moves]
    assert 2**50 / max(rates) * 0.99 - 1 <= seconds <= 2**50 / min(rates) * 1.01 + 1
