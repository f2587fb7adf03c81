"""The arithmetic that keeps a guest from running full, on any sizes a disk may have."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender import watermark
from diskmigration.agent.extender.watermark import Extension, Policy, ThinVolume

MIB = 2**20
GIB = 2**30
TIB = 2**40

capacities = st.integers(MIB, 64 * TIB)
policies = st.builds(Policy, high_watermark=st.integers(MIB, 64 * GIB), chunk=st.integers(MIB, 64 * GIB))


@st.composite
def volumes(draw: st.DrawFn, *, path: str = "/dev/volume", capacity: int | None = None) -> ThinVolume:
    """A volume whose report is possible; one in a few is larger than a qcow2 of its capacity can use."""
    capacity = draw(capacities) if capacity is None else capacity
    largest = watermark.largest_useful_size(capacity)
    physical = draw(st.one_of(st.integers(1, largest), st.integers(largest, 2 * largest)))
    return ThinVolume(
        path=path,
        allocated=draw(st.integers(0, max(physical, largest))),
        physical=physical,
        capacity=capacity,
        policy=draw(policies),
        is_full=draw(st.booleans()),
    )


@st.composite
def replications(draw: st.DrawFn) -> tuple[ThinVolume, ThinVolume]:
    """A source and its mirror: of one virtual size, as libvirt demands."""
    capacity = draw(capacities)
    return draw(volumes(path="/source", capacity=capacity)), draw(volumes(path="/mirror", capacity=capacity))


def size_after(volume: ThinVolume, plan: tuple[Extension, ...]) -> int:
    return next((extension.size for extension in plan if extension.path == volume.path), volume.physical)


def volume(
    *,
    allocated: int,
    physical: int,
    path: str = "/dev/volume",
    capacity: int = 100 * GIB,
    watermark_bytes: int = 512 * MIB,
    chunk: int = GIB,
    is_full: bool = False,
) -> ThinVolume:
    return ThinVolume(path, allocated, physical, capacity, Policy(watermark_bytes, chunk), is_full)


@pytest.mark.parametrize(
    ("allocated", "physical", "wanted"),
    [
        (0, GIB, GIB),
        (512 * MIB, GIB, GIB),
        (512 * MIB + 1, GIB, 2 * GIB),
        (GIB, GIB, 2 * GIB),
        # A guest that is far ahead gets as many chunks as it takes, in one go.
        (4 * GIB, GIB, 5 * GIB),
        (4 * GIB + 600 * MIB, GIB, 6 * GIB),
    ],
)
def test_it_grows_by_whole_chunks_below_the_watermark(allocated: int, physical: int, wanted: int) -> None:
    assert watermark.wanted_size(volume(allocated=allocated, physical=physical)) == wanted


@given(volumes())
def test_a_volume_never_shrinks(found: ThinVolume) -> None:
    assert watermark.wanted_size(found) >= found.physical
    assert all(extension.size > found.physical for extension in watermark.plan(found))


@given(volumes())
def test_a_volume_never_grows_past_its_largest_useful_size_unless_it_shows_that_it_needs_more(
    found: ThinVolume,
) -> None:
    largest = watermark.largest_useful_size(found.capacity)
    needs_more = found.allocated > largest or (found.is_full and found.physical >= largest)
    assert needs_more or watermark.wanted_size(found) <= max(found.physical, largest)


@given(volumes())
def test_a_volume_of_another_make_is_never_stuck_at_its_end(found: ThinVolume) -> None:
    largest = watermark.largest_useful_size(found.capacity)
    stuck = replace(found, physical=max(found.physical, largest), is_full=True)
    grown = watermark.wanted_size(stuck)
    assert grown >= stuck.physical + stuck.policy.chunk
    armed = watermark.threshold(stuck, physical=grown)
    assert 0 < armed < grown
    assert watermark.plan(replace(stuck, physical=grown, allocated=armed + 1, is_full=False)) != () or (
        armed == largest + 1
    ), "it wakes the extender where it is due, or where it is known to need more"


@given(volumes())
def test_enough_is_free_after_an_extension_unless_it_is_as_large_as_it_may_be(found: ThinVolume) -> None:
    size = watermark.wanted_size(found)
    is_capped = size >= watermark.limit_of(found)
    assert is_capped or size - found.allocated >= found.policy.high_watermark


@given(volumes())
def test_it_does_not_grow_while_enough_is_free(found: ThinVolume) -> None:
    roomy = replace(
        found,
        is_full=False,
        allocated=min(found.allocated, found.physical),
        physical=found.physical + found.policy.high_watermark,
    )
    assert watermark.plan(roomy) == ()


@given(volumes())
def test_it_does_not_grow_by_a_chunk_more_than_it_needs(found: ThinVolume) -> None:
    found = replace(found, allocated=max(found.allocated, found.physical - found.policy.high_watermark + 1))
    missing = found.allocated + found.policy.high_watermark - found.physical
    grown = watermark.wanted_size(found) - found.physical
    assert grown < missing + found.policy.chunk + watermark.ALIGNMENT_BYTES


@given(volumes())
def test_once_extended_nothing_more_is_due(found: ThinVolume) -> None:
    grown = replace(found, physical=watermark.wanted_size(found), is_full=False)
    assert watermark.plan(grown) == ()


@given(volumes())
def test_a_full_volume_grows_whatever_its_allocation_says(found: ThinVolume) -> None:
    largest = watermark.largest_useful_size(found.capacity)
    full = replace(found, is_full=True, allocated=0, physical=min(found.physical, largest - 1))
    size = watermark.wanted_size(full)
    assert size > full.physical
    assert size == largest or size >= full.physical + full.policy.chunk


@given(volumes())
def test_the_threshold_lies_the_watermark_below_the_end(found: ThinVolume) -> None:
    armed = watermark.threshold(found, physical=found.physical)
    largest = watermark.largest_useful_size(found.capacity)
    if found.allocated <= largest <= found.physical:
        assert armed == 0 or largest < armed < found.physical, "a volume that can use no more wakes nobody"
    else:
        assert armed == max(found.physical - found.policy.high_watermark, 1)
        assert 0 < armed <= found.physical


@given(volumes())
def test_a_write_past_the_threshold_makes_an_extension_due(found: ThinVolume) -> None:
    found = replace(found, physical=min(found.physical, watermark.largest_useful_size(found.capacity) - 1))
    armed = watermark.threshold(found, physical=found.physical)
    assert watermark.plan(replace(found, allocated=armed + 1)) != ()


@given(replications())
def test_in_a_replication_the_destination_is_never_the_smaller_one(pair: tuple[ThinVolume, ThinVolume]) -> None:
    source, mirror = pair
    plan = watermark.plan_replication(source, mirror)
    largest = watermark.largest_useful_size(mirror.capacity)
    # A source that is larger than any qcow2 of its size has nothing there that the mirror would need.
    assert size_after(mirror, plan) >= min(size_after(source, plan), largest)


@given(replications())
def test_in_a_replication_the_destination_comes_first(pair: tuple[ThinVolume, ThinVolume]) -> None:
    plan = watermark.plan_replication(*pair)
    paths = [extension.path for extension in plan]
    assert paths in ([], ["/mirror"], ["/source"], ["/mirror", "/source"])


@given(replications())
def test_at_each_moment_of_a_replication_the_destination_holds_the_source(pair: tuple[ThinVolume, ThinVolume]) -> None:
    source, mirror = pair
    sizes = {source.path: source.physical, mirror.path: mirror.physical}
    largest = watermark.largest_useful_size(mirror.capacity)
    for extension in watermark.plan_replication(source, mirror):
        sizes[extension.path] = extension.size
        assert sizes[mirror.path] >= min(sizes[source.path], largest)


@given(replications())
def test_in_a_replication_each_side_gets_what_it_asks_for(pair: tuple[ThinVolume, ThinVolume]) -> None:
    source, mirror = pair
    plan = watermark.plan_replication(source, mirror)
    assert size_after(source, plan) >= watermark.wanted_size(source)
    assert size_after(mirror, plan) >= watermark.wanted_size(mirror)
    for side in pair:
        assert size_after(side, plan) <= max(side.physical, watermark.limit_of(side))


@given(replications())
def test_in_a_replication_once_extended_nothing_more_is_due(pair: tuple[ThinVolume, ThinVolume]) -> None:
    plan = watermark.plan_replication(*pair)
    source, mirror = (replace(side, physical=size_after(side, plan), is_full=False) for side in pair)
    assert watermark.plan_replication(source, mirror) == ()


def test_the_mirror_pulls_its_source_along_when_they_go_in_step() -> None:
    source = volume(path="/source", allocated=0, physical=2 * GIB)
    mirror = volume(path="/mirror", allocated=2 * GIB, physical=2 * GIB)
    grown = 3 * GIB
    assert watermark.plan_replication(source, mirror) == (Extension("/mirror", grown), Extension("/source", grown))


def test_the_source_pulls_its_mirror_along() -> None:
    source = volume(path="/source", allocated=2 * GIB, physical=2 * GIB)
    mirror = volume(path="/mirror", allocated=0, physical=2 * GIB)
    grown = 3 * GIB
    assert watermark.plan_replication(source, mirror) == (Extension("/mirror", grown), Extension("/source", grown))


def test_a_mirror_that_is_ahead_grows_alone() -> None:
    source = volume(path="/source", allocated=0, physical=2 * GIB)
    mirror = volume(path="/mirror", allocated=8 * GIB, physical=8 * GIB)
    assert watermark.plan_replication(source, mirror) == (Extension("/mirror", 9 * GIB),)


@given(volumes(path="/mirror"), st.integers(0, 128 * TIB))
def test_a_mirror_of_a_file_takes_the_greater_need(mirror: ThinVolume, source_allocated: int) -> None:
    largest = watermark.largest_useful_size(mirror.capacity)
    size = size_after(mirror, watermark.plan_mirror_of_file(mirror, source_allocated))
    for need in (mirror.allocated, min(source_allocated, largest)):
        assert size == max(size, watermark.wanted_size(replace(mirror, allocated=need)))
    assert size <= max(mirror.physical, watermark.limit_of(mirror))
    assert size >= largest or size - max(mirror.allocated, source_allocated) >= mirror.policy.high_watermark


@pytest.mark.parametrize(("mirror_allocated", "source_allocated"), [(3 * GIB, GIB), (GIB, 3 * GIB)])
def test_either_side_of_a_mirror_of_a_file_may_ask(mirror_allocated: int, source_allocated: int) -> None:
    mirror = volume(path="/mirror", allocated=mirror_allocated, physical=3 * GIB)
    assert watermark.plan_mirror_of_file(mirror, source_allocated) == (Extension("/mirror", 4 * GIB),)


@given(capacities)
def test_the_largest_useful_size_holds_the_disk_and_little_more(capacity: int) -> None:
    largest = watermark.largest_useful_size(capacity)
    assert largest % watermark.ALIGNMENT_BYTES == 0
    assert capacity < largest <= capacity * 1.01 + 4 * MIB


@given(capacities, st.integers(0, TIB))
def test_a_larger_disk_never_has_a_smaller_limit(capacity: int, more: int) -> None:
    assert watermark.largest_useful_size(capacity + more) >= watermark.largest_useful_size(capacity)
