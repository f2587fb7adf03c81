"""Calls of libvirt that may hang, on threads of their own: a read is waited for only so long, an act is told of.

libvirt asks a QEMU over its monitor and waits without a time-out: one whose main thread stands still holds the call
until it goes on. The call is left to itself then, on a thread of its own, and is the only one until it has ended.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from diskmigration.agent import background
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError

_T = TypeVar("_T")

ANSWER_SECONDS = 5.0
"""A QEMU that is only busy, as one that takes a snapshot, answers well within that time."""


class LibvirtReader:
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
        answer = background.start(ask, name=f"read for {self._name}")
        self._pending = answer
        self._await(answer, doing)
        return answer.result()

    def _await(self, answer: Future[Any], doing: str) -> None:
        if not background.ends_within(answer, self._seconds):
            raise _unanswered(doing, self._seconds)
        self._pending = None


def act(
    call: Callable[[], _T],
    *,
    doing: str,
    on_wait: Callable[[HypervisorUnavailableError], None],
    seconds: float = ANSWER_SECONDS,
) -> _T:
    """Return what `call` returns, or raise what it raises, however long that takes: an act cannot be left to itself.

    `on_wait` is called again and again as long as there is no answer, and may raise; `doing` is for its message.
    """
    answer = background.start(call, name=doing)
    while not background.ends_within(answer, seconds):
        on_wait(_unanswered(doing, seconds))
    return answer.result()


def _unanswered(doing: str, seconds: float) -> HypervisorUnavailableError:
    return HypervisorUnavailableError(
        f"While {doing}, libvirt did not answer within {seconds:.0f} s: the VM's QEMU stands still, or libvirtd does. "
        "It is waited for, and nothing that was copied is lost."
    )
