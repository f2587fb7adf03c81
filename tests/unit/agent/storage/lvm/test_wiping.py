from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage.lvm import wiping


@given(start=st.integers(0, 1000), length=st.integers(0, 1000), step=st.integers(1, 300))
def test_the_steps_cover_what_is_left_once_and_no_more(start: int, length: int, step: int) -> None:
    end = start + length
    covered = [byte for offset, size in wiping.steps(start, end, step) for byte in range(offset, offset + size)]
    assert covered == list(range(start, end))
    assert all(0 < size <= step for _, size in wiping.steps(start, end, step))
