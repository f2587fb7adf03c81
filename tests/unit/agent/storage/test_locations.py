"""A volume is located once for as long as a QEMU has it open, and again whenever it may lie elsewhere."""

from pathlib import Path

import pytest

from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Located, Locations
from tests.unit.agent.builders import storage_domain

PATH = "/dev/pool/volume"


class Place:
    """A storage domain that counts how often it was asked, and has the volume or not."""

    def __init__(self) -> None:
        self.domains = StorageDomains({})
        self.domains.put(storage_domain("pool", "loop"))
        self.asked = 0
        self.has_it = True
        self.locations = Locations(self.domains, self.locate)

    def locate(self, path: Path) -> Located | None:
        self.asked += 1
        return (self.domains.get("pool"), path.name) if self.has_it else None


@pytest.fixture
def place() -> Place:
    return Place()


def test_it_is_located_once(place: Place) -> None:
    for _ in range(3):
        found = place.locations.of_run("vm", 1)(4, PATH)
        assert found is not None
        assert found[1] == "volume"
    assert place.asked == 1


@pytest.mark.parametrize(
    ("vm", "run", "blockdev", "path"),
    [("vm", 1, 5, PATH), ("vm", 2, 4, PATH), ("other", 1, 4, PATH), ("vm", 1, 4, "/x")],
)
def test_one_that_was_opened_again_is_located_again(place: Place, vm: str, run: int, blockdev: int, path: str) -> None:
    place.locations.of_run("vm", 1)(4, PATH)
    place.locations.of_run(vm, run)(blockdev, path)
    assert place.asked == 2


def test_it_is_located_again_when_the_storage_domains_changed(place: Place) -> None:
    place.locations.of_run("vm", 1)(4, PATH)
    place.domains.update_node_labels({"disk": "fast"})
    place.locations.of_run("vm", 1)(4, PATH)
    assert place.asked == 2
    place.domains.put(storage_domain("other", "loop"))
    place.locations.of_run("vm", 1)(4, PATH)
    assert place.asked == 3


def test_labels_that_stay_the_same_change_nothing(place: Place) -> None:
    place.locations.of_run("vm", 1)(4, PATH)
    place.domains.update_node_labels({})
    place.locations.of_run("vm", 1)(4, PATH)
    assert place.asked == 1


def test_one_that_is_nowhere_is_looked_for_again(place: Place) -> None:
    place.has_it = False
    assert place.locations.of_run("vm", 1)(4, PATH) is None
    place.has_it = True
    assert place.locations.of_run("vm", 1)(4, PATH) is not None


def test_the_volumes_of_a_vm_that_has_gone_are_forgotten(place: Place) -> None:
    place.locations.of_run("vm", 1)(4, PATH)
    place.locations.keep_only(["other"])
    place.locations.of_run("vm", 1)(4, PATH)
    assert place.asked == 2


@pytest.mark.parametrize(
    ("vm", "opened", "asked"),
    [
        ("vm", {(4, PATH), (5, "/dev/pool/other")}, 1),
        ("other", set(), 1),
        ("vm", set(), 2),
        ("vm", {(5, PATH)}, 2),
        ("vm", {(4, "/dev/pool/other")}, 2),
    ],
)
def test_a_volume_that_is_not_open_any_more_is_forgotten(
    place: Place, vm: str, opened: set[tuple[int, str]], asked: int
) -> None:
    place.locations.of_run("vm", 1)(4, PATH)
    place.locations.keep_open(vm, opened)
    place.locations.of_run("vm", 1)(4, PATH)
    assert place.asked == asked
