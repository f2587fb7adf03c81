"""Run a call that may hang on a thread that nothing else uses until the call has returned.

Threads are used again: a migration makes hundreds of such calls, and most return sooner than a new thread starts.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")

IDLE_SECONDS = 10.0
"""How long a thread waits for its next call before it ends."""


def start(call: Callable[[], _T], *, name: str) -> "Future[_T]":
    """Return at once what will hold the call's result or error. The process does not wait for it at its end.

    `name` is the thread's until the call has returned. Not to be used within `access.acting_as`, as a new thread would
    keep that user.
    """
    outcome: Future[_T] = Future()
    with _guard:
        idle = _idle.pop() if _idle else None
    thread = idle if idle is not None else _Thread()
    thread.name = name
    thread.inbox.put(_Work(call, outcome))
    if idle is None:
        thread.start()
    return outcome


def ends_within(outcome: "Future[Any]", seconds: float) -> bool:
    """Wait so long for the call's end, and return whether it has come. concurrent.futures.wait takes twice the time."""
    try:
        outcome.exception(seconds)
    except TimeoutError:
        # The call's own error is returned, and not raised.
        return False
    return True


@dataclass(frozen=True)
class _Work:
    call: Callable[[], Any]
    outcome: "Future[Any]"


class _Thread(threading.Thread):
    """Takes one call after the other."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.inbox: SimpleQueue[_Work] = SimpleQueue()

    def run(self) -> None:
        while (work := self._next()) is not None:
            self._do(work)
            # The thread must not keep what the call and its result hold until the next call.
            del work

    def _do(self, work: _Work) -> None:
        try:
            result = work.call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
            self._rest()
            work.outcome.set_exception(error)
        else:
            self._rest()
            work.outcome.set_result(result)

    def _rest(self) -> None:
        # Before the outcome is told: whoever waits for it may start the next call at once.
        self.name = "idle"
        with _guard:
            _idle.append(self)

    def _next(self) -> _Work | None:
        try:
            return self.inbox.get(timeout=IDLE_SECONDS)
        except Empty:
            with _guard:
                if self in _idle:
                    _idle.remove(self)
                    return None
        # `start` has just taken this thread.
        return self.inbox.get()


def _forget_threads() -> None:
    """A child process has none of its parent's threads, and nobody in it who would release the lock."""
    global _guard  # noqa: PLW0603 - it is the child's own from here on
    _guard = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget_threads)

_guard = threading.Lock()
_idle: list[_Thread] = []
"""The one that has returned last is used next, so that those that are not needed any more end."""
