"""One command at a time that changes a volume group: the urgent ones first."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PriorityLock:
    """A lock of which the urgent waiters come before all others: a guest runs full while an extension waits."""

    def __init__(self) -> None:
        """Nobody has it."""
        self._condition = threading.Condition()
        self._is_taken = False
        self._urgent_waiting = 0

    @contextmanager
    def take(self, *, urgent: bool = False) -> Iterator[None]:
        """Holds the turn."""
        with self._condition:
            self._urgent_waiting += urgent
            try:
                self._condition.wait_for(lambda: not self._is_taken and (urgent or not self._urgent_waiting))
            finally:
                self._urgent_waiting -= urgent
            self._is_taken = True
        try:
            yield
        finally:
            with self._condition:
                self._is_taken = False
                self._condition.notify_all()

    def wait_until_free(self, *, timeout: float) -> bool:
        """Whether nobody has it, within that many seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._is_taken, timeout)
