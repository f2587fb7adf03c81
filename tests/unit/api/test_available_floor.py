"""spec.minAvailable as it is read, written again and counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diskmigration.api.available_floor import AvailableFloor
from diskmigration.api.storage_domain import StorageDomainSpec

GIB = 2**30


def spec_with(value: object) -> StorageDomainSpec:
    return StorageDomainSpec.from_wire({"file": {"path": "/srv/a"}, "minAvailable": value})


@pytest.mark.parametrize(
    ("value", "kept", "text"),
    [
        ("5%", 5 * GIB, "5%"),
        ("99%", 99 * GIB, "99%"),
        ("10Gi", 10 * GIB, "10.0Gi"),
        (GIB, GIB, "1.0Gi"),
        ("1073741824", GIB, "1.0Gi"),
        ("200Gi", 200 * GIB, "200.0Gi"),
    ],
)
def test_what_stays_free_of_a_hundred_gibibytes(value: object, kept: int, text: str) -> None:
    floor = spec_with(value).available_floor
    assert (floor.of(100 * GIB), str(floor)) == (kept, text)


@pytest.mark.parametrize(
    "value", ["0%", "100%", "5 %", "%", "-5%", "1.5%", "0", 0, -1, "", "five", "1GB", True, [], {}]
)
def test_what_is_no_floor(value: object) -> None:
    with pytest.raises(ValidationError):
        spec_with(value)


def test_without_one_nothing_stays_free() -> None:
    assert StorageDomainSpec.from_wire({"file": {"path": "/srv/a"}}).available_floor.of(GIB) == 0


@given(st.one_of(st.integers(1, 99).map(lambda percent: f"{percent}%"), st.integers(1, 2**60)))
def test_it_is_read_again_as_it_was_written(value: str | int) -> None:
    spec = spec_with(value)
    assert StorageDomainSpec.from_wire(spec.to_wire()) == spec


@given(st.integers(0, 2**62), st.integers(1, 99))
def test_a_share_is_below_the_whole(capacity: int, percent: int) -> None:
    assert 0 <= AvailableFloor(percent=percent).of(capacity) <= capacity
