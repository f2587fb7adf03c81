"""A read that hangs is waited for only so long, and is the only one until it has ended."""

import threading
from collections.abc import Iterator

import pytest

from diskmigration.agent.hypervisor.bounded_calls import LibvirtReader, act
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from tests.unit.agent.waiting import PATIENCE_SECONDS, until

SHORT = 0.05


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a read that hangs waits for."""
    event = threading.Event()
    yield event
    event.set()


def test_an_answer_is_handed_on() -> None:
    reader = LibvirtReader("test", seconds=PATIENCE_SECONDS)
    assert [reader.read(lambda: 1, doing="asking"), reader.read(lambda: 2, doing="asking")] == [1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("a time-out of its own"), SystemExit()])
def test_an_error_is_raised_where_it_is_waited_for(error: BaseException) -> None:
    def fail() -> int:
        raise error

    reader = LibvirtReader("test", seconds=PATIENCE_SECONDS)
    with pytest.raises(type(error)):
        reader.read(fail, doing="asking")
    assert reader.read(lambda: 1, doing="asking") == 1


def test_what_hangs_is_left_to_itself_and_not_asked_twice(release: threading.Event) -> None:
    asked = []

    def hang() -> str:
        asked.append(1)
        release.wait()
        return "old"

    reader = LibvirtReader("test", seconds=SHORT)
    for _ in range(3):
        with pytest.raises(HypervisorUnavailableError, match="While looking at vda, libvirt did not answer within"):
            reader.read(hang, doing="looking at vda")
    assert asked == [1]


def test_what_comes_late_is_not_taken_for_an_answer(release: threading.Event) -> None:
    reader = LibvirtReader("test", seconds=SHORT)
    ended = threading.Event()

    def hang() -> str:
        release.wait()
        ended.set()
        return "old"

    with pytest.raises(HypervisorUnavailableError):
        reader.read(hang, doing="asking")
    release.set()
    until(ended.is_set)
    assert reader.read(lambda: "new", doing="asking") == "new"


def test_an_act_is_waited_for_and_told_of(release: threading.Event) -> None:
    told: list[str] = []

    def note(error: HypervisorUnavailableError) -> None:
        told.append(error.message)
        if len(told) == 2:
            release.set()

    def hang() -> str:
        release.wait()
        return "done"

    assert act(hang, doing="pivoting vda", on_wait=note, seconds=SHORT) == "done"
    assert len(told) >= 2
    assert told[0].startswith("While pivoting vda, libvirt did not answer within")


def test_who_waits_for_an_act_may_stop(release: threading.Event) -> None:
    def stop(_: HypervisorUnavailableError) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        act(release.wait, doing="pivoting vda", on_wait=stop, seconds=SHORT)


def test_an_act_that_fails_raises_what_it_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        act(fail, doing="pivoting vda", on_wait=lambda _: None)
