"""A report that cannot be is not believed, and is spoken of when it stays so."""

from pathlib import Path

from diskmigration.agent.extender.doubts import Doubts
from diskmigration.agent.extender.watched import WatchedVolume
from diskmigration.agent.extender.watermark import Policy, ThinVolume
from diskmigration.agent.hypervisor.statistics import LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.file import FileDriver
from diskmigration.api.errors import Reason
from tests.unit.agent.builders import GIB, storage_domain

PATH = "/dev/vg0/top"
ANY_DOMAIN = OpenDomain(storage_domain("pool"), FileDriver("pool", Path("/srv/pool")))


def reported(allocated: int, physical: int, *, path: str = PATH, index: int = 2) -> WatchedVolume:
    thin = ThinVolume(path, allocated, physical, 10 * GIB, Policy(GIB, GIB))
    statistics = LayerStatistics("vda", index, path, allocated, 10 * GIB, physical, 0)
    return WatchedVolume(statistics, ANY_DOMAIN, "top", thin)


def test_it_is_spoken_of_when_it_is_seen_twice_in_a_row() -> None:
    doubts = Doubts()
    assert doubts.judge("vm", 1, [reported(GIB, 4 * GIB)]) == frozenset()
    assert doubts.judge("vm", 1, [reported(0, 4 * GIB)]) == {PATH}, "not acted on even once"
    assert doubts.about(PATH) is None

    assert doubts.judge("vm", 1, [reported(GIB, 4 * GIB)]) == frozenset()
    assert doubts.judge("vm", 1, [reported(0, 4 * GIB)]) == {PATH}
    assert doubts.about(PATH) is None

    assert doubts.judge("vm", 1, [reported(0, 4 * GIB)]) == {PATH}
    found = doubts.about(PATH)
    assert found is not None
    assert found.reason is Reason.IMPOSSIBLE_ALLOCATION
    assert PATH in found.message
    assert doubts.count() == 1


def test_it_is_over_when_the_report_is_possible_again() -> None:
    doubts = Doubts()
    for allocated in (GIB, 0, 0, 2 * GIB):
        doubts.judge("vm", 1, [reported(allocated, 4 * GIB)])
    assert (doubts.about(PATH), doubts.count()) == (None, 0)


def test_what_was_not_believed_is_no_measure_of_what_comes_after() -> None:
    doubts = Doubts()
    doubts.judge("vm", 1, [reported(100 * GIB, 4 * GIB)])
    assert doubts.judge("vm", 1, [reported(GIB, 4 * GIB)]) == frozenset()


def test_a_volume_that_was_opened_anew_begins_anew() -> None:
    for run, index in ((2, 2), (1, 5)):
        doubts = Doubts()
        doubts.judge("vm", 1, [reported(GIB, 4 * GIB)])
        assert doubts.judge("vm", run, [reported(0, GIB, index=index)]) == frozenset()


def test_the_volumes_beside_it_are_believed() -> None:
    doubts = Doubts()
    for allocated in (GIB, 0):
        beside = reported(GIB, 4 * GIB, path="/dev/vg0/other", index=3)
        found = doubts.judge("vm", 1, [reported(allocated, 4 * GIB), beside])
    assert found == {PATH}


def test_a_vm_that_ended_is_forgotten() -> None:
    doubts = Doubts()
    for allocated in (GIB, 0, 0):
        doubts.judge("vm", 1, [reported(allocated, 4 * GIB)])
    doubts.forget("vm")
    assert doubts.count() == 0
