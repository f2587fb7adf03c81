"""A disk's volumes grow in their order for as long as the guest has room, and the guest comes first when it has not.

Nothing here asks libvirt: whoever is told that a volume has grown arms its threshold.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.extension_scheduler import ExtensionScheduler, PriorityExecutor
from diskmigration.agent.extender.extensions import DiskExtensions, VmExtensions
from diskmigration.agent.extender.histories import VolumeHistories
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk
from diskmigration.agent.extender.watermark import Extension, Policy, ThinVolume, largest_useful_size
from diskmigration.agent.extender.write_rate import SAFETY, UNMEASURED_SECONDS
from diskmigration.agent.hypervisor.statistics import LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import NoRoomError, StorageDriver
from tests.unit.agent.builders import GIB, MIB, storage_domain
from tests.unit.agent.waiting import PATIENCE_SECONDS, until

CAPACITY = 60 * MIB
LARGEST = largest_useful_size(CAPACITY)
SMALL = 32 * MIB


@dataclass
class Sizes:
    """Storage domains that have volumes of these sizes; `order` and `asked_at` tell when they were asked to grow them.

    Those that `holds` names answer when it is set.
    """

    now: dict[str, int]
    refuses: frozenset[str] = frozenset()
    holds: dict[str, threading.Event] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    asked_at: dict[str, float] = field(default_factory=dict)

    def size_bytes(self, volume: str) -> int:
        return self.now[volume]

    def extend(self, volume: str, size_bytes: int) -> int:
        self.asked_at[volume] = time.monotonic()
        self.order.append(volume)
        if volume in self.holds:
            assert self.holds[volume].wait(PATIENCE_SECONDS)
        if volume in self.refuses:
            raise NoRoomError("It is full.")
        self.now[volume] = size_bytes
        return size_bytes


def slow_destination() -> Sizes:
    """Small volumes of which the mirror does not grow before it is let go."""
    return Sizes({"source": SMALL, "mirror": SMALL}, holds={"mirror": threading.Event()})


def replication(sizes: Sizes, *, is_full: bool = False) -> ThinDisk:
    """A disk both of whose volumes were small when it was observed."""

    def volume(name: str, index: int) -> OpenVolume:
        allocated = SMALL - 8 * MIB
        statistics = LayerStatistics("vda", index, f"/dev/{name}", allocated, CAPACITY, SMALL, 0)
        pool = OpenDomain(storage_domain(f"of-{name}", "loop"), cast("StorageDriver", sizes))
        thin = ThinVolume(f"/dev/{name}", allocated, SMALL, CAPACITY, Policy(16 * MIB, GIB))
        return OpenVolume(statistics, pool, name, thin)

    source = volume("source", 1)
    source = replace(source, thin=replace(source.thin, is_full=is_full))
    return ThinDisk("vda", active=source, mirror=volume("mirror", 2), is_copy=True)


@dataclass
class Bench:
    """What grows, and which volumes are told to have grown."""

    extensions: VmExtensions
    known: VolumeHistories
    grown: list[tuple[str, int]]

    def start(self, disk: ThinDisk) -> None:
        self.extensions.start(disk, disk.plan())

    def writes(self, disk: ThinDisk, *, bytes_per_second: int) -> float:
        """The guest has written at that rate to the source, and goes on so from the time that is returned."""
        assert disk.active is not None
        now = time.monotonic()
        before = replace(disk.active.thin, allocated=disk.active.thin.allocated - bytes_per_second)
        self.known.clear()
        self.known.update(1, [replace(disk.active, thin=before)], at=now - 1, is_whole=True)
        self.known.update(1, [disk.active], at=now, is_whole=True)
        return now

    def trouble_of(self, name: str) -> object:
        outcome = self.extensions.outcome(f"/dev/{name}")
        return outcome.trouble if outcome is not None else None

    def count_of(self, name: str) -> int:
        outcome = self.extensions.outcome(f"/dev/{name}")
        return outcome.extensions if outcome is not None else 0

    def grow_the_source_of(self, sizes: Sizes, *, bytes_per_second: int) -> float:
        """Has a disk that is written at that rate extended; returns after how many seconds of it the source was."""
        disk = replication(sizes)
        written_at = self.writes(disk, bytes_per_second=bytes_per_second)
        self.start(disk)
        until(lambda: sizes.now["source"] == LARGEST)
        return sizes.asked_at["source"] - written_at


@pytest.fixture
def bench() -> Iterator[Bench]:
    scheduler, known, grown = ExtensionScheduler(), VolumeHistories(), list[tuple[str, int]]()
    extensions = VmExtensions("vm", scheduler, known, lambda volume, size: grown.append((volume.path, size)))
    yield Bench(extensions, known, grown)
    scheduler.stop()


def test_the_destination_grows_before_the_source(bench: Bench) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL})
    bench.start(replication(sizes))
    until(lambda: len(bench.grown) == 2)
    assert sizes.order == ["mirror", "source"]
    assert sizes.now == {"source": LARGEST, "mirror": LARGEST}
    assert bench.grown == [("/dev/mirror", LARGEST), ("/dev/source", LARGEST)]
    assert [bench.count_of(name) for name in ("source", "mirror")] == [1, 1]
    assert bench.extensions.grown() == {"vda"}


def test_an_extension_that_no_thread_could_be_started_for_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, refused = PriorityExecutor.submit, [RuntimeError("can't start new thread")]

    def refuse_once(pool: PriorityExecutor, due_at: float, work: Callable[[], None]) -> None:
        if refused:
            raise refused.pop()
        submit(pool, due_at, work)

    monkeypatch.setattr(PriorityExecutor, "submit", refuse_once)
    sizes = Sizes({"source": SMALL, "mirror": SMALL})
    disk = replace(replication(sizes), mirror=None, is_copy=False)
    bench.start(disk)
    assert sizes.order == []
    bench.start(disk)
    until(lambda: bench.grown == [("/dev/source", LARGEST)])
    assert sizes.now["source"] == LARGEST


def test_a_source_with_room_waits_for_a_slow_destination_however_often_it_is_observed(bench: Bench) -> None:
    sizes = slow_destination()
    disk = replication(sizes)
    bench.writes(disk, bytes_per_second=MIB // 16)
    for _ in range(3):
        bench.start(disk)
    until(lambda: sizes.order == ["mirror"])
    # By then its storage domain has had its turn.
    another = replace(disk, target="vdb", mirror=None, is_copy=False)
    bench.start(another)
    until(lambda: bench.extensions.grown() == {"vdb"})
    assert sizes.order == ["mirror", "source"]
    sizes.now["source"] = SMALL
    sizes.holds["mirror"].set()
    until(lambda: len(bench.grown) == 3)
    assert sizes.order == ["mirror", "source", "source"]


def test_a_source_that_stays_the_smaller_one_grows_at_the_same_time(bench: Bench) -> None:
    sizes = slow_destination()
    disk = replication(sizes)
    assert disk.active is not None
    assert disk.mirror is not None
    size = sizes.now["mirror"] = SMALL + 8 * MIB
    mirror = replace(disk.mirror, thin=replace(disk.mirror.thin, physical=size))
    due = (Extension("/dev/mirror", LARGEST), Extension("/dev/source", size))
    bench.extensions.start(replace(disk, mirror=mirror), due)
    until(lambda: bench.extensions.grown() == {"vda"})
    assert sizes.now == {"source": size, "mirror": size}
    sizes.holds["mirror"].set()
    until(lambda: len(bench.grown) == 2)
    assert sizes.now == {"source": size, "mirror": LARGEST}


def test_a_source_that_is_almost_full_does_not_wait(bench: Bench) -> None:
    sizes = slow_destination()
    bench.grow_the_source_of(sizes, bytes_per_second=20 * MIB)
    assert sizes.now["mirror"] == SMALL
    sizes.holds["mirror"].set()
    until(lambda: sizes.now["mirror"] == LARGEST)


def test_a_source_waits_no_longer_than_it_has_room(bench: Bench) -> None:
    sizes = slow_destination()
    # Full in half a second.
    seconds = bench.grow_the_source_of(sizes, bytes_per_second=16 * MIB)
    assert seconds >= 0.5 - SAFETY * UNMEASURED_SECONDS
    assert sizes.now["mirror"] == SMALL
    sizes.holds["mirror"].set()


def test_a_source_that_is_found_to_fill_faster_waits_no_longer(bench: Bench) -> None:
    sizes = slow_destination()
    disk = replication(sizes)
    bench.start(disk)
    until(lambda: sizes.order == ["mirror"])
    bench.writes(disk, bytes_per_second=20 * MIB)
    bench.start(disk)
    until(lambda: sizes.now["source"] == LARGEST)
    sizes.holds["mirror"].set()


def test_a_guest_that_stands_still_waits_for_the_destination_no_longer_than_that_ever_took(bench: Bench) -> None:
    sizes = slow_destination()
    started_at = time.monotonic()
    bench.start(replication(sizes, is_full=True))
    until(lambda: bench.extensions.grown() == {"vda"})
    assert sizes.asked_at["source"] - started_at >= SAFETY * UNMEASURED_SECONDS
    assert sizes.now == {"source": LARGEST, "mirror": SMALL}
    sizes.holds["mirror"].set()


def test_a_destination_that_cannot_grow_does_not_stop_the_guest(bench: Bench) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL}, refuses=frozenset({"mirror"}))
    bench.start(replication(sizes))
    until(lambda: bench.grown == [("/dev/source", LARGEST)])
    assert sizes.order == ["mirror", "source"]
    assert sizes.now == {"source": LARGEST, "mirror": SMALL}
    assert bench.trouble_of("mirror") is not None
    assert bench.extensions.grown() == {"vda"}


def test_a_source_that_does_not_grow_leaves_the_destination_the_larger_one(bench: Bench) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL}, refuses=frozenset({"source"}))
    bench.start(replication(sizes))
    until(lambda: bench.trouble_of("source") is not None)
    assert sizes.now == {"source": SMALL, "mirror": LARGEST}
    assert bench.trouble_of("mirror") is None
    assert bench.extensions.grown() == frozenset()


def test_what_has_grown_since_the_observation_is_not_extended_twice(bench: Bench) -> None:
    sizes = Sizes({"source": LARGEST, "mirror": LARGEST})
    bench.start(replication(sizes))
    until(lambda: len(bench.grown) == 2)
    assert sizes.order == []
    assert bench.trouble_of("mirror") is None
    assert bench.count_of("mirror") == 0


def test_a_disk_of_which_nothing_is_under_way_any_more_is_at_rest(bench: Bench) -> None:
    sizes = slow_destination()
    bench.start(replication(sizes))
    until(lambda: sizes.order == ["mirror"])
    assert bench.extensions.are_under_way()
    sizes.holds["mirror"].set()
    until(lambda: not bench.extensions.are_under_way())
    bench.extensions.forget_grown()
    assert bench.extensions.grown() == frozenset()


requests = st.lists(
    st.tuples(st.sampled_from(["request", "end"]), st.sampled_from(["mirror", "source"]), st.booleans()), max_size=20
)


@given(requests)
def test_one_extension_of_a_volume_is_under_way_and_the_source_waits_only_for_the_mirror(
    steps: list[tuple[str, str, bool]],
) -> None:
    begun: list[str] = []
    disk = DiskExtensions(ExtensionScheduler())
    running, waiting = set[str](), set[str]()
    for step, path, has_room in steps:
        before = len(begun)
        if step == "request":
            after = "mirror" if path == "source" else None
            disk.request(path, lambda path=path: begun.append(path), after=after, seconds=1e6 if has_room else 0.0)  # type: ignore[misc]  # bound now
            if path not in running:
                waits = path == "source" and has_room and running == {"mirror"}
                (waiting if waits else running).add(path)
                waiting -= running
        elif path in running:
            disk.end(path, has_grown=True, is_active=path == "source")
            running.remove(path)
            running, waiting = running | waiting, set()
        assert disk.are_under_way == bool(running | waiting)
        assert set(begun[before:]) <= running
    assert len(begun) >= len(running)


def test_what_a_migration_has_left_behind_is_forgotten(bench: Bench) -> None:
    bench.start(replication(Sizes({"source": SMALL, "mirror": SMALL})))
    until(lambda: len(bench.grown) == 2)
    bench.extensions.forget(["/dev/source", "/dev/never-seen"])
    assert bench.extensions.outcome("/dev/source") is None
    assert bench.count_of("mirror") == 1
