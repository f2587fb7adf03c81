"""Reads that may never return, as a mount whose server is away lets them wait for ever.

Each has a thread of its own until it returns. One that does not return in time keeps its thread, and nothing else.
"""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from diskmigration import clock
from diskmigration.agent import background
from diskmigration.api.model import rfc3339

_T = TypeVar("_T")


class NoAnswerError(Exception):
    """A read did not return in time. `since` is when it began, `seconds` ago."""

    def __init__(self, since: datetime, seconds: float) -> None:
        """The read goes on."""
        super().__init__(f"nothing has come since {rfc3339(since)}")
        self.since = since
        self.seconds = seconds


@dataclass(frozen=True)
class _Pending:
    begun_at: float
    since: datetime
    future: "Future[Any]"


class BoundedReads:
    """Thread-safe. What is being read by one key is not read a second time meanwhile: a hang costs one thread."""

    def __init__(self, name: str) -> None:
        """`name` is that of the threads."""
        self._name = name
        self._guard = threading.Lock()
        self._pending: dict[Hashable, _Pending] = {}

    def read(self, key: Hashable, call: Callable[[], _T], *, seconds: float) -> _T:
        """Return what the call returns, or raise what it raises.

        Raises:
            NoAnswerError: it has not returned within so many seconds, or an earlier one by that key has not.
        """
        while True:
            with self._guard:
                earlier = self._pending.get(key)
                own = earlier or self._begin(key, call)
            left = own.begun_at + seconds - time.monotonic()
            if not background.ends_within(own.future, max(left, 0.0)):
                raise NoAnswerError(own.since, time.monotonic() - own.begun_at)
            # What was read before it was asked for may have changed since: it is read again.
            if earlier is None:
                result: _T = own.future.result()
                return result

    def _begin(self, key: Hashable, call: Callable[[], Any]) -> _Pending:
        """Under the guard, so that the read cannot end before it is noted."""
        future = background.start(partial(self._run, key, call), name=self._name)
        self._pending[key] = _Pending(time.monotonic(), clock.now(), future)
        return self._pending[key]

    def _run(self, key: Hashable, call: Callable[[], Any]) -> Any:
        try:
            return call()
        finally:
            with self._guard:
                del self._pending[key]
