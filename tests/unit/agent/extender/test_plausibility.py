"""An implausible report is not believed, and the user is told of it when it stays so."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.plausibility import HighWater, Plausibility, why_impossible
from diskmigration.agent.extender.watermark import ThinVolume
from diskmigration.api.errors import Reason
from tests.unit.agent.builders import GIB
from tests.unit.agent.extender.test_watermark import volume, volumes

PATH = "/dev/vg0/top"
SIZE = 4 * GIB

sizes = st.integers(0, 16 * GIB)
reports = st.lists(st.tuples(sizes, sizes), min_size=1)
"""What was reported as written, and as the volume's size."""


def judged(*allocated: int) -> Plausibility:
    """Return the judgement after these reports of one volume."""
    found = Plausibility()
    for offset in allocated:
        found = found.updated(volume(allocated=offset, physical=SIZE))
    return found


def test_it_is_told_when_it_is_reported_twice_in_a_row() -> None:
    assert judged(GIB).problem is None
    once = judged(GIB, 0)
    assert once.problem is not None, "not acted on even once"
    assert once.error(PATH) is None
    assert judged(GIB, 0, GIB, 0).error(PATH) is None

    error = judged(GIB, 0, GIB, 0, 0).error(PATH)
    assert error is not None
    assert error.reason is Reason.IMPOSSIBLE_ALLOCATION
    assert PATH in error.message


def test_it_is_over_when_the_report_is_plausible_again() -> None:
    found = judged(GIB, 0, 0, 2 * GIB)
    assert (found.problem, found.is_lasting, found.error(PATH)) == (None, False, None)


def test_an_implausible_report_is_no_measure_for_those_that_follow() -> None:
    assert judged(200 * GIB, GIB).problem is None


@given(reports)
def test_what_is_believed_only_ever_rises_and_was_plausible_when_it_came(told: list[tuple[int, int]]) -> None:
    found = Plausibility()
    for allocated, physical in told:
        before, report = found, volume(allocated=allocated, physical=physical)
        found = before.updated(report)
        assert (found.problem is None) == (why_impossible(report, before.believed) is None)
        if found.problem is None:
            assert found == Plausibility(before.believed.raised_to(report))
            assert found.believed.allocated == max(allocated, before.believed.allocated) == allocated
            assert found.believed.physical == physical
        else:
            assert found.believed == before.believed
            assert found.reports == before.reports + 1
        assert found.is_lasting == (found.error(PATH) is not None) == (found.reports >= 2)


@given(volumes(), st.integers(0), st.integers(0))
def test_a_report_within_the_volume_is_possible_and_none_that_is_lower_follows(
    found: ThinVolume, less_allocated: int, less_physical: int
) -> None:
    assert why_impossible(found, HighWater()) is None
    before = HighWater().raised_to(found)
    assert why_impossible(found, before) is None
    later = replace(found, allocated=max(found.allocated - less_allocated, 0), physical=found.physical - less_physical)
    assert (why_impossible(later, before) is None) == (later == found)


@pytest.mark.parametrize(
    "impossible",
    [
        volume(allocated=-1, physical=GIB),
        volume(allocated=0, physical=0),
        volume(allocated=0, physical=-GIB),
        volume(allocated=0, physical=GIB, capacity=0),
        # Seen in the field: growth on it would go on without end (BZ998443).
        volume(allocated=101 * GIB, physical=GIB),
        volume(allocated=2**63 - 1, physical=GIB),
    ],
)
def test_an_impossible_report_is_known_as_one(impossible: ThinVolume) -> None:
    assert why_impossible(impossible, HighWater()) is not None
