"""One piece of work of a VM runs at a time, none is lost, and newer work replaces what waits."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.mailbox import Mailbox
from tests.unit.agent.waiting import PATIENCE_SECONDS, until


class Queue(Executor):
    """Runs nothing before it is told to. It refuses `refusals` times, and keeps what it refused, as Python's does."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.calls: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *_: Any, **__: Any) -> Future[Any]:
        self.calls.append(fn)
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("can't start new thread")
        return Future()

    def run_all(self) -> None:
        while self.calls:
            self.calls.pop(0)()


posts = st.lists(st.tuples(st.sampled_from("abc"), st.integers(), st.booleans(), st.booleans()))


@given(posts)
def test_of_each_key_one_piece_runs_urgent_ones_first(wanted: list[tuple[str, int, bool, bool]]) -> None:
    queue, done = Queue(), list[tuple[str, int]]()
    mailbox = Mailbox("vm", queue)
    expected: list[tuple[str, int]] = []
    for key, number, is_urgent, replaces in wanted:
        mailbox.post(key, lambda piece=(key, number): done.append(piece), is_urgent=is_urgent, replaces=replaces)  # type: ignore[misc]  # bound now
        if replaces or key not in dict(expected):
            others = [piece for piece in expected if piece[0] != key]
            expected = [(key, number), *others] if is_urgent else [*others, (key, number)]
    queue.run_all()
    assert done == expected
    assert mailbox.is_idle


@given(st.integers(0, 3), st.integers(1, 5))
def test_no_work_is_lost_where_no_thread_can_be_started(refusals: int, count: int) -> None:
    queue, done = Queue(refusals), list[int]()
    mailbox = Mailbox("vm", queue)
    for number in range(refusals + count):
        mailbox.post(str(number), lambda number=number: done.append(number))  # type: ignore[misc]  # bound now
    queue.run_all()
    assert done == list(range(refusals + count))
    assert mailbox.is_idle


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_two_pieces_never_run_at_the_same_time(executor: ThreadPoolExecutor) -> None:
    mailbox = Mailbox("vm", executor)
    is_running, may_end, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        is_running.set()
        assert may_end.wait(PATIENCE_SECONDS)
        order.append("first")

    mailbox.post("a", first)
    assert is_running.wait(PATIENCE_SECONDS)
    mailbox.post("a", lambda: order.append("second"))
    # Whoever would run it beside the first one has had its turn by then.
    executor.submit(lambda: None).result(PATIENCE_SECONDS)
    assert order == []
    assert not mailbox.is_idle
    may_end.set()
    until(lambda: mailbox.is_idle)
    assert order == ["first", "second"]


def test_work_that_fails_does_not_end_the_rest(executor: ThreadPoolExecutor) -> None:
    mailbox, is_done = Mailbox("vm", executor), threading.Event()

    def fail() -> None:
        raise OSError("no")

    mailbox.post("a", fail)
    mailbox.post("b", is_done.set)
    assert is_done.wait(PATIENCE_SECONDS)
