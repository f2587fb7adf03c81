"""Which process may begin: so many at once, none for ever behind a storage that hangs, nothing small behind copies."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage import process_limit
from diskmigration.agent.storage.long_command import StoppedError, always
from diskmigration.agent.storage.process_limit import QUIET_SECONDS, ProcessLimit, Running, Wait, Work, may_begin
from tests.unit.agent.waiting import PATIENCE_SECONDS, until

NOW = 1000.0
QUIET = NOW - QUIET_SECONDS - 1
FOLDERS = [Path("/a"), Path("/b"), Path("/c")]

works = st.builds(
    lambda folders, is_copy: Work(frozenset(folder / "v" for folder in folders), frozenset(folders), is_copy),
    st.sets(st.sampled_from(FOLDERS), min_size=1),
    st.booleans(),
)
limits = st.integers(process_limit.LOWEST_LIMIT, 5)


def work(*folders: str, volume: str = "v", is_copy: bool = False) -> Work:
    paths = [Path(folder) for folder in folders]
    return Work(frozenset(path / volume for path in paths), frozenset(paths), is_copy)


@given(st.lists(st.tuples(works, st.booleans()), max_size=40), limits)
def test_the_number_is_bounded_whatever_hangs(asked: list[tuple[Work, bool]], limit: int) -> None:
    running: list[Running] = []
    for one, hangs in asked:
        if may_begin(one, running, limit=limit, now=NOW):
            running.append(Running(one, QUIET if hangs else NOW))
    active = [each for each in running if each.beat_at == NOW]
    assert len(active) <= limit
    assert sum(each.work.is_copy for each in active) <= limit - 1
    for folders in {each.work.folders for each in running}:
        assert sum(each.work.folders == folders for each in running) <= limit


@given(st.lists(works, max_size=40), works, limits)
def test_what_hangs_elsewhere_keeps_nobody(hanging: list[Work], one: Work, limit: int) -> None:
    running = [Running(each, QUIET) for each in hanging if each.folders != one.folders]
    assert may_begin(one, running, limit=limit, now=NOW)


@given(st.lists(works, max_size=40), works, limits)
def test_copies_alone_never_keep_what_is_small(asked: list[Work], one: Work, limit: int) -> None:
    running: list[Running] = []
    for each in asked:
        copy = Work(each.volumes, each.folders, is_copy=True)
        if copy.folders != one.folders and may_begin(copy, running, limit=limit, now=NOW):
            running.append(Running(copy, NOW))
    assert may_begin(Work(one.volumes, one.folders), running, limit=limit, now=NOW)


def test_one_that_keeps_to_a_bandwidth_may_sleep() -> None:
    sleeping = Work(frozenset(), frozenset(FOLDERS), is_copy=True, pause_seconds=NOW)
    assert not may_begin(work("/a", is_copy=True), [Running(sleeping, QUIET)], limit=2, now=NOW)


def taken_in_thread(processes: ProcessLimit, one: Work, began: Callable[[], None]) -> threading.Thread:
    def take() -> None:
        place = processes.take(one, always)
        began()
        place.free()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def test_who_waits_longest_is_next() -> None:
    processes = ProcessLimit(2)
    places = [processes.take(work("/a", volume="first"), always), processes.take(work("/b"), always)]
    order: list[int] = []
    threads = []
    for number in range(4):
        queued = work("/c", volume=str(number))
        threads.append(taken_in_thread(processes, queued, partial(order.append, number)))
        until(partial(processes.wait_of, queued.volumes))
    assert (processes.running(), processes.waiting()) == (2, 4)
    # With one place alone they begin one after the other.
    places[0].free()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert order == [0, 1, 2, 3]
    assert (processes.running(), processes.waiting()) == (1, 0)


def test_what_may_not_begin_yet_keeps_nobody_behind_it() -> None:
    processes = ProcessLimit(2)
    copy = processes.take(work("/a", is_copy=True), always)
    began = threading.Event()
    waiting = work("/b", volume="waits", is_copy=True)
    thread = taken_in_thread(processes, waiting, began.set)
    until(partial(processes.wait_of, waiting.volumes))
    processes.take(work("/b", volume="small"), always).free()
    assert not began.is_set()
    copy.free()
    thread.join(PATIENCE_SECONDS)
    assert began.is_set()


def test_who_is_stopped_does_not_wait() -> None:
    processes = ProcessLimit(2)
    for volume in ("1", "2"):
        processes.take(work("/a", volume=volume), always)
    answers = iter([True, True, False])
    with pytest.raises(StoppedError):
        processes.take(work("/b"), lambda: next(answers))
    assert (processes.running(), processes.waiting()) == (2, 0)


def test_one_whose_answer_takes_long_keeps_nobody() -> None:
    """Whether work is still wanted may be a question to a libvirtd that does not answer."""
    processes = ProcessLimit(2)
    places = [processes.take(work("/a", volume=volume), always) for volume in ("1", "2")]
    is_asked, may_answer = threading.Event(), threading.Event()

    def hang() -> bool:
        is_asked.set()
        return may_answer.wait()

    hanging = threading.Thread(target=lambda: processes.take(work("/b"), hang), daemon=True)
    hanging.start()
    assert is_asked.wait(PATIENCE_SECONDS)
    places[0].free()
    processes.take(work("/c"), always).free()
    may_answer.set()
    hanging.join(PATIENCE_SECONDS)
    assert (processes.running(), processes.waiting()) == (2, 0)


@pytest.mark.parametrize("runs_too", [True, False])
def test_a_wait_is_told_with_its_begin(*, runs_too: bool) -> None:
    processes = ProcessLimit(2)
    mine = Path("/a/mine")
    for volume in ("mine" if runs_too else "another", "other"):
        processes.take(work("/a", volume=volume), always)
    assert processes.wait_of([mine]) is None
    told: list[Wait | None] = []

    def note_and_stop() -> bool:
        told.append(processes.wait_of([mine, Path("/a/more")]))
        return False

    with pytest.raises(StoppedError):
        processes.take(work("/a", volume="mine"), note_and_stop)
    assert processes.wait_of([mine]) is None
    assert told[0] is not None
    assert told[0].is_idle is not runs_too
    assert datetime.now(UTC) - told[0].since < timedelta(seconds=PATIENCE_SECONDS)
    assert "at most 2 qemu-img processes" in told[0].what


def test_a_place_is_given_back_once() -> None:
    processes = ProcessLimit(2)
    first, _ = (processes.take(work("/a", volume=volume), always) for volume in ("1", "2"))
    first.free()
    first.free()
    assert processes.running() == 1


def test_a_higher_limit_holds_at_once() -> None:
    processes = ProcessLimit(2)
    for volume in ("1", "2"):
        processes.take(work("/a", volume=volume), always)
    began = threading.Event()
    thread = taken_in_thread(processes, work("/b"), began.set)
    processes.set(3)
    thread.join(PATIENCE_SECONDS)
    assert began.is_set()
