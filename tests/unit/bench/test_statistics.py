"""Medians, spreads and ratios of what was measured in pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics import Spread, differences, ratios, spread

_SECONDS = st.floats(min_value=0.001, max_value=1e6)


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)


def test_nothing_measured_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


@given(st.lists(_SECONDS, min_size=1))
def test_the_median_lies_between_the_ends(values: list[float]) -> None:
    found = spread(values)
    assert found.least <= found.median <= found.greatest


def test_pairs_are_compared_each_with_its_own() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert differences([2.0, 9.0], [1.0, 3.0]) == [1.0, 6.0]


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        ratios([1.0], [0.0])
