"""A lock for which urgent waiters do not queue: one command at a time changes a volume group."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PriorityLock:
    """A lock that urgent waiters get before all others: a guest runs full while an extension waits. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_taken = False
        self._urgent_waiting = 0

    @contextmanager
    def take(self, *, urgent: bool = False) -> Iterator[None]:
        """Hold the lock for the block."""
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
        """Wait until nobody has the lock, and return whether that came within so many seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._is_taken, timeout)
