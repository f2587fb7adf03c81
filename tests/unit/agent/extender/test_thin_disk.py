"""An event is acted on by older statistics only where they are of the volumes that the disk has now."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from diskmigration.agent.extender.thin_disk import disk_by_event
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer, Mirror
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import StorageDriver
from tests.unit.agent.builders import GIB, MIB, storage_domain

SOURCE = Layer("block", "/dev/source", "qcow2", 1)
MIRROR = Layer("block", "/dev/mirror", "qcow2", 2)


@dataclass(frozen=True)
class Sizes:
    """A driver that knows sizes, and nothing else."""

    now: dict[str, int] = field(default_factory=dict)

    def size_bytes(self, volume: str) -> int:
        return self.now[volume]


class Located(StorageDomains):
    """Every path is a volume of one block domain."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__({})
        self.asked: list[Path] = []
        self.pool = OpenDomain(storage_domain("pool", "loop"), cast("StorageDriver", Sizes(sizes)))

    def locate_in_any(self, path: Path) -> tuple[OpenDomain, str]:
        self.asked.append(path)
        return self.pool, path.name

    def locate_open(self, _blockdev: int, path: str) -> tuple[OpenDomain, str]:
        return self.locate_in_any(Path(path))


def disk(mirror: Layer | None) -> DomainDescription:
    job = Mirror(mirror, "copy", "") if mirror is not None else None
    found = DomainDisk("vda", "disk", "block", (SOURCE,), chain_is_known=True, mirror=job)
    return DomainDescription("vm", "uuid", (found,))


def known(*layers: Layer) -> DomainStatistics:
    rows = (LayerStatistics("vda", layer.index or 0, layer.path, 8 * MIB, GIB, 64 * MIB, 0) for layer in layers)
    return DomainStatistics("uuid", 1, tuple(rows))


@pytest.fixture
def domains() -> Located:
    return Located({"source": 96 * MIB, "mirror": 64 * MIB})


def test_it_is_written_as_the_event_says_and_as_large_as_the_kernel_says(domains: Located) -> None:
    statistics = known(SOURCE, MIRROR).written_up_to("vda[1]", 90 * MIB)
    found = disk_by_event(disk(MIRROR), statistics, domains.locate_open, target="vda")
    assert found is not None
    assert found.active is not None
    assert found.mirror is not None
    assert (found.active.thin.allocated, found.active.thin.physical) == (90 * MIB, 96 * MIB)
    assert (found.mirror.thin.allocated, found.mirror.thin.physical) == (8 * MIB, 64 * MIB)
    assert found.is_copy


def test_a_mirror_that_the_statistics_do_not_know_is_not_left_out(domains: Located) -> None:
    assert disk_by_event(disk(MIRROR), known(SOURCE), domains.locate_open, target="vda") is None


@pytest.mark.parametrize("change", [{"path": "/dev/other"}, {"index": 7}])
def test_statistics_of_another_volume_are_not_taken(domains: Located, change: dict[str, object]) -> None:
    other = replace(SOURCE, **change)  # type: ignore[arg-type]  # the two cases above
    assert disk_by_event(disk(None), known(other), domains.locate_open, target="vda") is None


def test_an_event_that_cannot_be_true_is_left_to_the_observation(domains: Located) -> None:
    statistics = known(SOURCE).written_up_to("vda[1]", 100 * GIB)
    assert disk_by_event(disk(None), statistics, domains.locate_open, target="vda") is None


def test_a_mirror_that_has_ended_has_the_source_extended_alone(domains: Located) -> None:
    found = disk_by_event(disk(None), known(SOURCE, MIRROR), domains.locate_open, target="vda")
    assert found is not None
    assert found.mirror is None


def test_a_volume_that_is_left_out_does_not_keep_the_other_from_growing() -> None:
    domains = Located({"source": 64 * MIB, "mirror": 64 * MIB})
    full = known(SOURCE, MIRROR).written_up_to("vda[1]", 60 * MIB).written_up_to("vda[2]", 60 * MIB)
    found = disk_by_event(disk(MIRROR), full, domains.locate_open, target="vda")
    assert found is not None
    for left_out in ("/dev/source", "/dev/mirror"):
        [extension] = found.without({left_out}).plan()
        assert {extension.path, left_out} == {"/dev/source", "/dev/mirror"}


def test_a_disk_that_is_gone_is_none_at_all(domains: Located) -> None:
    assert disk_by_event(disk(None), known(SOURCE), domains.locate_open, target="vdb") is None
