"""The search finds the highest rate that passes, whatever it starts from, and tries none twice."""

from hypothesis import given
from hypothesis import strategies as st

from bench.search import highest_passing


@given(limit=st.integers(0, 1000), start=st.integers(1, 1000), highest=st.integers(1, 1000))
def test_it_comes_within_its_resolution_of_the_limit(limit: int, start: int, highest: int) -> None:
    tried: list[int] = []

    def passes(rate: int) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest_passing(passes, start=start, highest=highest)

    best = min(limit, highest)
    assert found <= best <= found + max(1, int(found * 0.1))
    assert len(set(tried)) == len(tried)
    assert all(1 <= rate <= highest for rate in tried)
    assert found == 0 or found in tried


def test_a_rate_that_passes_at_once_and_is_the_highest_is_tried_alone() -> None:
    tried: list[int] = []
    assert highest_passing(lambda rate: not tried.append(rate), start=80, highest=80) == 80  # type: ignore[func-returns-value]  # the trial is noted
    assert tried == [80]
