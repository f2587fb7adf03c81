"""A disk's volumes grow in their order for as long as the guest has room, and the guest comes first when it has not.

The volumes are as large as they may be once they have grown, so that no threshold is armed and libvirt is not asked.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from diskmigration.agent.extender.growth import Growth
from diskmigration.agent.extender.pace import SAFETY, UNMEASURED_SECONDS
from diskmigration.agent.extender.paces import Paces
from diskmigration.agent.extender.urgency import UrgentFirst
from diskmigration.agent.extender.watched import WatchedDisk, WatchedVolume
from diskmigration.agent.extender.watermark import Extension, Policy, ThinVolume, largest_useful_size
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.statistics import LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import NoRoomError, StorageDriver
from tests.unit.agent.builders import GIB, MIB, storage_domain
from tests.unit.agent.waiting import PATIENCE_SECONDS, until

CAPACITY = 60 * MIB
LARGEST = largest_useful_size(CAPACITY)
SMALL = 32 * MIB
DOMAIN = Domain(cast("Connection", None), "vm")


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


def replication(sizes: Sizes, *, is_full: bool = False) -> WatchedDisk:
    """A disk both of whose volumes were small when it was looked at; its threshold is armed on those that stay so."""

    def volume(name: str, index: int) -> WatchedVolume:
        allocated = SMALL - 8 * MIB
        threshold = SMALL - 16 * MIB if name in sizes.refuses else 0
        statistics = LayerStatistics("vda", index, f"/dev/{name}", allocated, CAPACITY, SMALL, threshold)
        pool = OpenDomain(storage_domain(f"of-{name}", "loop"), cast("StorageDriver", sizes))
        thin = ThinVolume(f"/dev/{name}", allocated, SMALL, CAPACITY, Policy(16 * MIB, GIB))
        return WatchedVolume(statistics, pool, name, thin)

    source = volume("source", 1)
    source = replace(source, thin=replace(source.thin, is_full=is_full))
    return WatchedDisk("vda", active=source, mirror=volume("mirror", 2), is_copy=True)


@dataclass
class Bench:
    """What grows, and whom it tells."""

    growth: Growth
    paces: Paces
    looks: list[str]

    def start(self, disk: WatchedDisk) -> None:
        self.growth.start(DOMAIN, disk, disk.plan())

    def writes(self, disk: WatchedDisk, *, bytes_per_second: int) -> float:
        """The guest has written at that rate to the source, and goes on so from the time that is returned."""
        assert disk.active is not None
        now = time.monotonic()
        before = replace(disk.active.thin, allocated=disk.active.thin.allocated - bytes_per_second)
        self.paces.see("vm", [replace(disk.active, thin=before)], at=now - 1)
        self.paces.see("vm", [disk.active], at=now)
        return now

    def grow_the_source_of(self, sizes: Sizes, *, bytes_per_second: int) -> float:
        """Has a disk that is written at that rate extended; returns after how many seconds of it the source was."""
        disk = replication(sizes)
        written_at = self.writes(disk, bytes_per_second=bytes_per_second)
        self.start(disk)
        until(lambda: sizes.now["source"] == LARGEST)
        return sizes.asked_at["source"] - written_at


@pytest.fixture
def bench() -> Iterator[Bench]:
    paces, looks = Paces(), list[str]()
    growth = Growth(paces, look_again=looks.append)
    yield Bench(growth, paces, looks)
    growth.stop()


def test_the_destination_grows_before_the_source(bench: Bench) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL})
    bench.start(replication(sizes))
    until(lambda: len(bench.looks) == 2)
    assert sizes.order == ["mirror", "source"]
    assert sizes.now == {"source": LARGEST, "mirror": LARGEST}
    assert [bench.growth.extensions_of(path) for path in ("/dev/source", "/dev/mirror")] == [1, 1]
    assert bench.growth.relieved("vm") == {"vda"}


def test_an_extension_that_no_thread_could_be_started_for_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, refused = UrgentFirst.submit, [RuntimeError("can't start new thread")]

    def refuse_once(pool: UrgentFirst, due_at: float, work: Callable[[], None]) -> None:
        if refused:
            raise refused.pop()
        submit(pool, due_at, work)

    monkeypatch.setattr(UrgentFirst, "submit", refuse_once)
    sizes = Sizes({"source": SMALL, "mirror": SMALL})
    disk = replace(replication(sizes), mirror=None, is_copy=False)
    bench.start(disk)
    assert sizes.order == []
    bench.start(disk)
    until(lambda: bench.looks == ["vm"])
    assert sizes.now["source"] == LARGEST


def test_a_source_with_room_waits_for_a_slow_destination_however_often_it_is_looked_at(bench: Bench) -> None:
    sizes = slow_destination()
    disk = replication(sizes)
    bench.writes(disk, bytes_per_second=MIB // 16)
    for _ in range(3):
        bench.start(disk)
    until(lambda: sizes.order == ["mirror"])
    # By then its storage domain has had its turn.
    another = replace(disk, target="vdb", mirror=None, is_copy=False)
    bench.start(another)
    until(lambda: bench.growth.relieved("vm") == {"vdb"})
    assert sizes.order == ["mirror", "source"]
    sizes.now["source"] = SMALL
    sizes.holds["mirror"].set()
    until(lambda: len(bench.looks) == 3)
    assert sizes.order == ["mirror", "source", "source"]


def test_a_source_that_stays_the_smaller_one_grows_at_the_same_time(bench: Bench) -> None:
    sizes = slow_destination()
    disk = replication(sizes)
    assert disk.active is not None
    assert disk.mirror is not None
    size = sizes.now["mirror"] = SMALL + 8 * MIB
    active = replace(disk.active, statistics=replace(disk.active.statistics, threshold_bytes=size - 16 * MIB))
    mirror = replace(disk.mirror, thin=replace(disk.mirror.thin, physical=size))
    due = (Extension("/dev/mirror", LARGEST), Extension("/dev/source", size))
    bench.growth.start(DOMAIN, replace(disk, active=active, mirror=mirror), due)
    until(lambda: bench.growth.relieved("vm") == {"vda"})
    assert sizes.now == {"source": size, "mirror": size}
    sizes.holds["mirror"].set()
    until(lambda: len(bench.looks) == 2)
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
    until(lambda: bench.growth.relieved("vm") == {"vda"})
    assert sizes.asked_at["source"] - started_at >= SAFETY * UNMEASURED_SECONDS
    assert sizes.now == {"source": LARGEST, "mirror": SMALL}
    sizes.holds["mirror"].set()


def test_a_destination_that_cannot_grow_does_not_stop_the_guest(bench: Bench) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL}, refuses=frozenset({"mirror"}))
    bench.start(replication(sizes))
    until(lambda: bench.looks == ["vm"])
    assert sizes.order == ["mirror", "source"]
    assert sizes.now == {"source": LARGEST, "mirror": SMALL}
    assert bench.growth.trouble_of("/dev/mirror") is not None
    assert bench.growth.relieved("vm") == {"vda"}


def test_a_source_that_does_not_grow_leaves_the_destination_the_larger_one(bench: Bench) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL}, refuses=frozenset({"source"}))
    bench.start(replication(sizes))
    until(lambda: bench.growth.trouble_of("/dev/source") is not None)
    assert sizes.now == {"source": SMALL, "mirror": LARGEST}
    assert bench.growth.trouble_of("/dev/mirror") is None
    assert bench.growth.relieved("vm") == frozenset()


def test_what_has_grown_since_the_look_is_not_extended_twice(bench: Bench) -> None:
    sizes = Sizes({"source": LARGEST, "mirror": LARGEST})
    bench.start(replication(sizes))
    until(lambda: len(bench.looks) == 2)
    assert sizes.order == []
    assert bench.growth.trouble_of("/dev/mirror") is None
    assert bench.growth.extensions_of("/dev/mirror") == 0
