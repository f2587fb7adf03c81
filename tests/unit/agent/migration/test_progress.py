"""The meter: figures that never go back, and a clock that tells whether bytes still move."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.migration.progress import TELL_SECONDS, MergeProgress, Meter

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
readings = st.lists(st.tuples(st.integers(0, 2**50), st.integers(1, 2**50)), min_size=1, max_size=30)


@given(readings)
def test_what_is_shown_never_goes_back(found: list[tuple[int, int]]) -> None:
    meter = Meter()
    for second, (copied, total) in enumerate(found):
        after = meter.advanced(now=float(second), copied=copied, total=total)
        assert after.copied >= meter.copied
        assert after.total >= meter.total
        assert after.percent >= meter.percent
        assert 0 <= after.copied <= after.total
        assert 0 <= after.percent < 100
        assert after.bytes_per_second() >= 0
        meter = after


@given(st.integers(0, 2**50))
def test_a_full_copy_is_not_yet_a_finished_move(total: int) -> None:
    meter = Meter().advanced(now=0, copied=total, total=total)
    assert meter.percent == (99 if total else 0)
    assert meter.copied == total


def test_a_guest_that_writes_makes_the_whole_grow_but_the_share_stays() -> None:
    meter = Meter().advanced(now=0, copied=50, total=100).advanced(now=1, copied=60, total=200)
    assert (meter.copied, meter.total, meter.percent) == (60, 200, 50)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    for second in range(100):
        meter = meter.advanced(now=second, copied=1000 * second, total=10**9)
    for second in range(100, 111):
        meter = meter.advanced(now=second, copied=99_000 + 10 * (second - 99), total=10**9)
    assert meter.bytes_per_second() == 10


def test_one_reading_tells_no_rate_and_no_end() -> None:
    status = Meter().advanced(now=0, copied=10, total=100).to_status(wall_clock=EPOCH)
    assert status.bytes_per_second == 0
    assert status.estimated_completion_time is None


def test_the_end_is_estimated_from_the_rate() -> None:
    meter = Meter().advanced(now=0, copied=0, total=1000).advanced(now=1, copied=100, total=1000)
    status = meter.to_status(wall_clock=EPOCH)
    assert status.bytes_per_second == 100
    assert status.estimated_completion_time == EPOCH + timedelta(seconds=9)
    assert (status.copied_bytes, status.total_bytes, status.percent) == (100, 1000, 10)


@given(st.integers(1, 2**60))
def test_a_very_slow_copy_has_an_end_all_the_same(total: int) -> None:
    meter = Meter().advanced(now=0, copied=0, total=total).advanced(now=1, copied=1, total=total)
    status = meter.to_status(wall_clock=EPOCH)
    assert status.estimated_completion_time is None or status.estimated_completion_time >= EPOCH


def test_one_that_moves_is_not_stuck() -> None:
    meter = Meter()
    for second in range(0, 1000, 10):
        meter = meter.advanced(now=second, copied=second + 1, total=10_000)
        assert not meter.is_stuck(now=second + 10, timeout_seconds=10)


def test_one_that_reads_the_same_for_too_long_is_stuck() -> None:
    meter = Meter().advanced(now=0, copied=5, total=10)
    for second in range(1, 31):
        meter = meter.advanced(now=second, copied=5, total=10)
    assert not meter.is_stuck(now=30, timeout_seconds=30)
    assert meter.is_stuck(now=30.1, timeout_seconds=30)


def test_a_whole_that_grows_is_no_progress() -> None:
    meter = Meter().advanced(now=0, copied=5, total=10).advanced(now=20, copied=5, total=1000)
    assert meter.is_stuck(now=20, timeout_seconds=10)


def test_a_copy_that_begins_again_still_moves() -> None:
    meter = Meter().advanced(now=0, copied=500, total=1000).advanced(now=20, copied=3, total=1000)
    assert meter.copied == 500
    assert not meter.is_stuck(now=25, timeout_seconds=10)


@pytest.mark.parametrize("meter", [Meter(), Meter().advanced(now=0, copied=5, total=10).restarted(now=1000)])
def test_before_the_first_byte_and_after_a_wait_the_clock_starts_anew(meter: Meter) -> None:
    assert not meter.is_stuck(now=1000, timeout_seconds=10)


def test_a_time_in_which_nobody_could_look_is_no_lack_of_progress() -> None:
    meter = Meter().advanced(now=0, copied=10, total=100)
    assert meter.is_stuck(now=100, timeout_seconds=50)
    looked_again = meter.excused(80, now=100)
    assert not looked_again.is_stuck(now=100, timeout_seconds=50)
    # It counts on from what it had counted before.
    assert not looked_again.is_stuck(now=130, timeout_seconds=50)
    assert looked_again.is_stuck(now=131, timeout_seconds=50)


def test_an_excuse_never_reaches_into_the_future() -> None:
    assert Meter().excused(10, now=5) == Meter()
    assert Meter().advanced(now=0, copied=1, total=2).excused(1000, now=5).last_progress_at == 5


def message_of(merge: MergeProgress) -> str:
    return merge.activity.message if merge.activity is not None else ""


def test_a_merge_tells_of_each_percent_and_of_a_while_without_one() -> None:
    def advanced(before: MergeProgress, now: float, copied: int) -> MergeProgress:
        return before.advanced(
            now=now, what="Merging a into b", since=EPOCH, share=copied / 1000, copied=copied, total=1000
        )

    first = advanced(MergeProgress(), 0.0, 0)
    assert message_of(first) == "Merging a into b since 2026-01-01T00:00:00Z: 0 % (0 of 1000)."
    assert advanced(first, 1.0, 9) is first
    assert "1 %" in message_of(advanced(first, 1.0, 10))
    assert "(9 of" in message_of(advanced(first, TELL_SECONDS, 9))


def test_a_merge_of_unknown_size_tells_its_share() -> None:
    told = MergeProgress().advanced(now=0.0, what="Merging a into b", since=EPOCH, share=0.5)
    assert message_of(told) == "Merging a into b since 2026-01-01T00:00:00Z: 50 %."


def test_a_merge_that_has_no_total_yet_tells_that_it_has_begun() -> None:
    begun = MergeProgress().advanced(now=0.0, what="Merging a into b", since=EPOCH, share=None)
    assert message_of(begun) == "Merging a into b since 2026-01-01T00:00:00Z."
    assert begun.advanced(now=1.0, what="Merging a into b", since=EPOCH, share=None) is begun
    assert "0 %" in message_of(begun.advanced(now=1.0, what="Merging a into b", since=EPOCH, share=0.0))
