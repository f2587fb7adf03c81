"""A disk's volumes grow in their order, and what fails keeps the rest from growing past it.

The volumes are as large as they may be once they have grown, so that no threshold is armed and libvirt is not asked.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from diskmigration.agent.extender.growth import Growth
from diskmigration.agent.extender.paces import Paces
from diskmigration.agent.extender.watched import WatchedDisk, WatchedVolume
from diskmigration.agent.extender.watermark import Policy, ThinVolume, largest_useful_size
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.statistics import LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import NoRoomError, StorageDriver
from tests.unit.agent.builders import GIB, MIB, storage_domain

CAPACITY = 60 * MIB
LARGEST = largest_useful_size(CAPACITY)
SMALL = 32 * MIB
DOMAIN = Domain(cast("Connection", None), "vm")


@dataclass
class Sizes:
    """A storage domain that has volumes of these sizes; `order` is in which it was asked to extend them."""

    now: dict[str, int]
    refuses: frozenset[str] = frozenset()
    order: list[str] = field(default_factory=list)

    def size_bytes(self, volume: str) -> int:
        return self.now[volume]

    def extend(self, volume: str, size_bytes: int) -> int:
        self.order.append(volume)
        if volume in self.refuses:
            raise NoRoomError("It is full.")
        self.now[volume] = size_bytes
        return size_bytes


def replication(sizes: Sizes) -> WatchedDisk:
    """A disk both of whose volumes were small when it was looked at, and are written to their ends."""

    def volume(name: str, index: int) -> WatchedVolume:
        # One that stays as it is has its threshold already; a refused mirror keeps both.
        stays = name in sizes.refuses or "mirror" in sizes.refuses
        armed = SMALL - 16 * MIB if stays else 0
        statistics = LayerStatistics("vda", index, f"/dev/{name}", SMALL, CAPACITY, SMALL, armed)
        pool = OpenDomain(storage_domain("pool", "loop"), cast("StorageDriver", sizes))
        thin = ThinVolume(f"/dev/{name}", SMALL, SMALL, CAPACITY, Policy(16 * MIB, GIB))
        return WatchedVolume(statistics, pool, name, thin)

    return WatchedDisk("vda", active=volume("source", 1), mirror=volume("mirror", 2), is_copy=True)


@pytest.fixture
def extend() -> Callable[[Sizes], tuple[Growth, list[str]]]:
    """Has the disk extended, to the end; gives the VMs that are to be looked at again as well."""

    def run(sizes: Sizes) -> tuple[Growth, list[str]]:
        looks: list[str] = []
        growth = Growth(Paces(), look_again=looks.append)
        disk = replication(sizes)
        started = threading.Event()
        size_bytes = sizes.size_bytes

        def tell(volume: str) -> int:
            started.set()
            return size_bytes(volume)

        sizes.size_bytes = tell  # type: ignore[method-assign]  # to know that it is under way before it is stopped
        growth.start(DOMAIN, disk, disk.plan())
        assert started.wait(10)
        growth.stop()
        return growth, looks

    return run


def test_the_destination_grows_before_the_source(extend: Callable[[Sizes], tuple[Growth, list[str]]]) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL})
    growth, looks = extend(sizes)
    assert sizes.order == ["mirror", "source"]
    assert sizes.now == {"source": LARGEST, "mirror": LARGEST}
    assert looks == ["vm"]
    assert [growth.extensions_of(path) for path in ("/dev/source", "/dev/mirror")] == [1, 1]


def test_a_destination_that_does_not_grow_keeps_its_source_from_growing(
    extend: Callable[[Sizes], tuple[Growth, list[str]]],
) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL}, refuses=frozenset({"mirror"}))
    growth, looks = extend(sizes)
    assert sizes.order == ["mirror"]
    assert sizes.now == {"source": SMALL, "mirror": SMALL}
    assert growth.trouble_of("/dev/mirror") is not None
    assert looks == []
    assert growth.relieved("vm") == frozenset()


def test_a_source_that_does_not_grow_leaves_the_destination_the_larger_one(
    extend: Callable[[Sizes], tuple[Growth, list[str]]],
) -> None:
    sizes = Sizes({"source": SMALL, "mirror": SMALL}, refuses=frozenset({"source"}))
    growth, looks = extend(sizes)
    assert sizes.now == {"source": SMALL, "mirror": LARGEST}
    assert growth.trouble_of("/dev/source") is not None
    assert growth.trouble_of("/dev/mirror") is None
    assert looks == []


def test_what_has_grown_since_the_look_is_not_extended_twice(
    extend: Callable[[Sizes], tuple[Growth, list[str]]],
) -> None:
    sizes = Sizes({"source": LARGEST, "mirror": LARGEST})
    growth, looks = extend(sizes)
    assert sizes.order == []
    assert growth.trouble_of("/dev/mirror") is None
    assert growth.extensions_of("/dev/mirror") == 0
    assert looks == ["vm"]
