"""How large the destination's volumes are made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES, largest_useful_size
from diskmigration.agent.migration.sizing import frozen_volume_size, written_volume_size
from diskmigration.api.disk_migration import Provisioning, VolumeFormat

MIB = 2**20
GIB = 2**30
TIB = 2**40

capacities = st.integers(MIB, 64 * TIB)
sizes = st.integers(0, 65 * TIB)


@given(capacities, sizes, st.booleans())
def test_a_thin_volume_takes_what_its_data_needs_and_no_more(capacity: int, required: int, is_whole: bool) -> None:
    size = frozen_volume_size(
        required=required,
        capacity=capacity,
        image_format=VolumeFormat.QCOW2,
        provisioning=Provisioning.THIN,
        is_whole_disk=is_whole,
    )
    assert required <= size < required + ALIGNMENT_BYTES


@given(capacities, sizes, st.sampled_from(Provisioning), st.booleans())
def test_a_raw_volume_is_exactly_the_disk(
    capacity: int, required: int, provisioning: Provisioning, is_whole: bool
) -> None:
    size = frozen_volume_size(
        required=required,
        capacity=capacity,
        image_format=VolumeFormat.RAW,
        provisioning=provisioning,
        is_whole_disk=is_whole,
    )
    assert size == capacity


@given(capacities, sizes)
def test_a_thick_disk_has_room_for_all_of_it(capacity: int, required: int) -> None:
    size = frozen_volume_size(
        required=required,
        capacity=capacity,
        image_format=VolumeFormat.QCOW2,
        provisioning=Provisioning.THICK,
        is_whole_disk=True,
    )
    assert size == largest_useful_size(capacity)


@given(capacities, sizes, sizes, st.integers(0, 64 * GIB))
def test_a_written_volume_has_head_room_and_is_not_below_its_source(
    capacity: int, allocated: int, at_least: int, chunk: int
) -> None:
    largest = largest_useful_size(capacity)
    size = written_volume_size(allocated=allocated, at_least=at_least, capacity=capacity, chunk=chunk)
    assert size <= largest
    assert size >= min(allocated + chunk, largest)
    assert size >= min(at_least, largest)
    assert size % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize(
    ("allocated", "at_least", "expected"),
    [(0, 0, 2 * GIB), (GIB, 0, 3 * GIB), (1, 0, 2 * GIB + MIB), (0, 5 * GIB, 5 * GIB)],
)
def test_a_written_volume_begins_a_chunk_ahead(allocated: int, at_least: int, expected: int) -> None:
    size = written_volume_size(allocated=allocated, at_least=at_least, capacity=100 * GIB, chunk=2 * GIB)
    assert size == expected
