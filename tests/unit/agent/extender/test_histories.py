"""The histories of a VM's volumes: one for each volume that is open, for as long as it is open."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender import histories
from diskmigration.agent.extender.histories import ArmedThreshold, Histories, VolumeHistories
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk
from diskmigration.agent.extender.watermark import Policy, ThinVolume
from diskmigration.agent.extender.write_rate import MOST_CHUNKS
from diskmigration.agent.hypervisor.statistics import LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import StorageDriver
from tests.unit.agent.builders import GIB, MIB, storage_domain

SIZE = 4 * GIB
CAPACITY = 16 * GIB
POLICY = Policy(16 * MIB, 64 * MIB)


def volume(index: int = 1, allocated: int = 0, *, path: str = "", pool: str = "pool") -> OpenVolume:
    path = path or f"/dev/volume-{index}"
    domain = OpenDomain(storage_domain(pool, "loop"), cast("StorageDriver", None))
    row = LayerStatistics("vda", index, path, allocated, CAPACITY, SIZE, 0)
    return OpenVolume(row, domain, f"volume-{index}", ThinVolume(path, allocated, SIZE, CAPACITY, POLICY))


def reported(*each: tuple[float, list[OpenVolume]], before: Histories | None = None) -> Histories:
    """Return the histories after these whole reports."""
    found = before or {}
    for at, volumes in each:
        found = histories.updated(found, volumes, at=at, is_whole=True)
    return found


indexes = st.sets(st.integers(1, 4))
offsets = st.integers(0, SIZE)
times = st.floats(0, 1000)


@given(indexes, indexes, st.booleans())
def test_a_whole_report_alone_ends_the_histories_of_volumes_that_it_does_not_have(
    first: set[int], second: set[int], is_whole: bool
) -> None:
    before = reported((0.0, [volume(index) for index in first]))
    after = histories.updated(before, [volume(index) for index in second], at=1.0, is_whole=is_whole)
    assert set(after) == {f"vda[{index}]" for index in (second if is_whole else first | second)}
    for index in first - second:
        assert is_whole or after[f"vda[{index}]"] == before[f"vda[{index}]"]


@given(st.lists(st.tuples(times, offsets), min_size=1))
def test_an_implausible_report_leaves_no_rate_and_no_other_volume_suffers(told: list[tuple[float, int]]) -> None:
    found: Histories = {}
    for at, offset in sorted(told, key=lambda report: report[0]):
        found = histories.updated(found, [volume(1, offset), volume(2, GIB)], at=at, is_whole=True)
        first = found["vda[1]"]
        assert ("/dev/volume-1" in histories.implausible(found)) == (first.plausibility.problem is not None)
        assert first.plausibility.problem is None or (first.rate(at), first.armed) == (0.0, None)
        assert "/dev/volume-2" not in histories.implausible(found)


def test_another_volume_at_the_same_device_begins_again() -> None:
    found = reported((0.0, [volume(1, GIB)]), (1.0, [volume(1, 2 * GIB)]), (2.0, [volume(1, GIB, path="/dev/other")]))
    assert found["vda[1]"].path == "/dev/other"
    assert found["vda[1]"].rate(2.0) == 0.0
    assert histories.implausible(found) == frozenset()


def test_another_run_of_the_vm_begins_again() -> None:
    known = VolumeHistories()
    known.update(1, [volume(1, GIB)], at=0.0, is_whole=True)
    known.update(1, [volume(1, 2 * GIB)], at=1.0, is_whole=True)
    known.update(2, [volume(1, MIB)], at=2.0, is_whole=True)
    assert histories.implausible(known.current()) == frozenset()
    assert known.current()["vda[1]"].rate(2.0) == 0.0


def test_a_vm_that_ended_has_no_histories() -> None:
    known = VolumeHistories()
    known.update(1, [volume(1, GIB)], at=0.0, is_whole=True)
    known.clear()
    assert known.current() == {}


def test_what_is_noted_of_a_volume_that_is_not_open_is_dropped() -> None:
    known = VolumeHistories()
    known.note_written("vda[1]", GIB, at=1.0)
    known.note_armed("vda[1]", GIB, at=1.0)
    known.note_still(at=1.0)
    assert known.current() == {}


def test_events_and_still_polls_count_for_the_rate() -> None:
    known = VolumeHistories()
    known.update(1, [volume(1, GIB)], at=0.0, is_whole=True)
    known.note_written("vda[1]", GIB + 100 * MIB, at=1.0)
    assert known.current()["vda[1]"].rate(1.0) == 100 * MIB
    known.note_still(at=11.0)
    assert known.current()["vda[1]"].rate(11.0) < 100 * MIB / 2
    assert known.current()["vda[1]"].write_rate.at == 11.0


def test_when_a_threshold_was_passed_is_that_of_the_first_of_the_disk() -> None:
    disk = ThinDisk("vda", volume(1, 200 * MIB), volume(2, 100 * MIB), is_copy=True)
    before = reported((0.0, [volume(1, 100 * MIB), volume(2, 100 * MIB)]), (1.0, [volume(1, 200 * MIB), volume(2)]))
    assert histories.due_since(before, disk, now=1.0) == 1.0, "no threshold was armed"
    armed = {**before, "vda[1]": replace(before["vda[1]"], armed=ArmedThreshold(150 * MIB, 0.0))}
    assert histories.due_since(armed, disk, now=1.0) == 0.5


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 100), min_size=2), offsets, offsets)
def test_the_slowest_domain_and_the_fastest_side_count_for_a_mirror(
    latencies: Mapping[str, float], start: int, written: int
) -> None:
    source, mirror = volume(1, start, pool="a"), volume(2, 0, pool="b")
    disk = ThinDisk("vda", source, mirror, is_copy=True)
    known = reported((0.0, [source, mirror]), (1.0, [volume(1, min(start + written, SIZE), pool="a"), mirror]))
    found = histories.adapted(known, disk, latencies.__getitem__, now=1.0)
    same = histories.adapted(known, disk, lambda _: max(latencies.values()), now=1.0)
    assert found == same
    assert found.active is not None
    assert found.mirror is not None
    assert found.mirror.thin.policy == found.active.thin.policy
    assert POLICY.high_watermark <= found.mirror.thin.policy.high_watermark <= MOST_CHUNKS * POLICY.chunk
    assert (found.active.thin.allocated, found.mirror.thin.allocated) == (start, 0)


def test_the_head_room_in_force_is_kept_with_its_storage_domain() -> None:
    known = VolumeHistories()
    known.update(1, [volume(1, GIB)], at=0.0, is_whole=True)
    adapted = known.adapt(ThinDisk("vda", volume(1, GIB), None, is_copy=False), lambda _: 1.0)
    assert adapted.active is not None
    history = known.current()["vda[1]"]
    assert (history.storage_domain, history.head_room) == ("pool", adapted.active.thin.policy.high_watermark)
