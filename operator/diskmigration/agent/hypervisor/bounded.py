"""Reads of libvirt that may hang, with a bound on how long anybody waits for them.

libvirt asks a QEMU over its monitor and waits without a time-out: one whose main thread stands still holds the call
until it goes on. The call is left to itself then, on a thread of its own, and is the only one until it has ended.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError

_T = TypeVar("_T")

ANSWER_SECONDS = 5.0
"""A QEMU that is only busy, as one that takes a snapshot, answers well within that time."""


class BoundedReader:
    """Reads of one VM, one at a time. Used by one thread."""

    def __init__(self, name: str, *, seconds: float = ANSWER_SECONDS) -> None:
        """`name` is for the threads; a read is waited for so many seconds."""
        self._name = name
        self._seconds = seconds
        self._pending: Future[Any] | None = None

    def read(self, ask: Callable[[], _T], *, doing: str) -> _T:
        """Return what `ask` returns, or raise what it raises. `doing` is for the message.

        Raises:
            HypervisorUnavailableError: there was no answer in time.
        """
        if self._pending is not None:
            # What it brings is old: it is only waited for.
            self._await(self._pending, doing)
        answer: Future[_T] = Future()
        self._pending = answer
        threading.Thread(target=_answer, args=(answer, ask), name=f"read for {self._name}", daemon=True).start()
        self._await(answer, doing)
        return answer.result()

    def _await(self, answer: Future[Any], doing: str) -> None:
        wait([answer], timeout=self._seconds)
        if not answer.done():
            raise HypervisorUnavailableError(
                f"While {doing}, libvirt did not answer within {self._seconds:.0f} s: the VM's QEMU stands still, or "
                "libvirtd does. It is waited for, and nothing that was copied is lost."
            )
        self._pending = None


def _answer(answer: "Future[_T]", ask: Callable[[], _T]) -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
        answer.set_exception(error)
