"""A call that may hang has a thread to itself until it has returned, and no call waits for another one's."""

import multiprocessing
import threading
import weakref

import pytest

from diskmigration.agent import background
from tests.unit.agent.waiting import PATIENCE_SECONDS


def thread_of(name: str) -> int:
    return background.start(threading.get_ident, name=name).result(PATIENCE_SECONDS)


def test_a_thread_that_has_returned_takes_the_next_call() -> None:
    assert len({thread_of(f"call {number}") for number in range(50)}) == 1


def test_calls_that_hang_hold_up_no_other() -> None:
    release = threading.Event()
    hanging = [background.start(release.wait, name="hangs") for _ in range(30)]
    assert [thread.name for thread in threading.enumerate()].count("hangs") == 30
    answering = [background.start(threading.get_ident, name="answers") for _ in range(30)]
    assert all(answer.result(PATIENCE_SECONDS) for answer in answering)
    assert not any(background.ends_within(call, 0.0) for call in hanging)
    release.set()
    assert all(background.ends_within(call, PATIENCE_SECONDS) for call in hanging)
    assert "hangs" not in [thread.name for thread in threading.enumerate()]


def test_a_child_process_has_threads_of_its_own() -> None:
    thread_of("before the fork")
    child = multiprocessing.get_context("fork").Process(target=thread_of, args=("in the child",))
    child.start()
    child.join(PATIENCE_SECONDS)
    assert child.exitcode == 0


def test_a_call_that_fails_ends_no_thread() -> None:
    def fails() -> None:
        raise TimeoutError("of the call itself")

    first = thread_of("works")
    failing = background.start(fails, name="fails")
    assert background.ends_within(failing, PATIENCE_SECONDS)
    with pytest.raises(TimeoutError, match="of the call itself"):
        failing.result()
    assert thread_of("works again") == first


def test_threads_that_are_not_needed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.01)
    release = threading.Event()
    calls = [background.start(release.wait, name="one of many") for _ in range(30)]
    many = [thread for thread in threading.enumerate() if thread.name == "one of many"]
    assert len(many) == 30
    release.set()
    for call in calls:
        call.result(PATIENCE_SECONDS)
    for thread in many:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    # One that ends takes no call with it.
    assert all(thread_of("next") for _ in range(100))


def test_an_idle_thread_keeps_nothing_of_its_last_call() -> None:
    class Large:
        """What a call returns."""

    is_gone = threading.Event()
    outcome = background.start(Large, name="large")
    weakref.finalize(outcome.result(PATIENCE_SECONDS), is_gone.set)
    del outcome
    assert is_gone.wait(background.IDLE_SECONDS / 2)
