"""Reads that are made again and again, and are slow at times: a slow one is answered by what came of the one before it.

lvm2 may take many seconds on a storage that is busy, and that storage answers all the same. How long reads took lately
tells a slow one from one that hangs.
"""

import threading
import time
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError

_T = TypeVar("_T")

_SLOW_FACTOR = 3.0
"""A read that takes more times as long as the slowest one of late hangs."""
MOST_SECONDS = 60.0
"""A read that takes longer hangs in any case."""
_LATE_SECONDS = 300.0
"""For how long a slow read is remembered: between two that ask lvm2 there are others that a kept report answers."""


@dataclass(frozen=True)
class _Ended:
    """The outcome of the last read, and the time of the slowest recent one."""

    outcome: "Future[Any]"
    slowest_seconds: float
    slowest_at: float


class RepeatedReads:
    """Thread-safe."""

    def __init__(self, name: str) -> None:
        """`name` is that of the threads."""
        self._reads = BoundedReads(name)
        self._guard = threading.Lock()
        self._ended: dict[Hashable, _Ended] = {}

    def read(self, key: Hashable, call: Callable[[], _T], *, seconds: float) -> _T:
        """Return what the call returns, or raise what it raises.

        Where that takes longer than so many seconds, it is what came of the last call by that key.

        Raises:
            NoAnswerError: the call hangs, by the time that those before it took, or there was none.
        """
        try:
            return self._reads.read(key, partial(self._run, key, call), seconds=seconds)
        except NoAnswerError as error:
            with self._guard:
                ended = self._ended.get(key)
            if ended is None or error.seconds > min(_SLOW_FACTOR * ended.slowest_seconds, MOST_SECONDS):
                raise
            before: _T = ended.outcome.result()
            return before

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Forget what came of the calls by all other keys."""
        with self._guard:
            self._ended = {key: ended for key, ended in self._ended.items() if key in keys}

    def _run(self, key: Hashable, call: Callable[[], _T]) -> _T:
        began_at = time.monotonic()
        outcome: Future[_T] = Future()
        try:
            outcome.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is raised for whoever reads
            outcome.set_exception(error)
        self._note_end(key, outcome, time.monotonic() - began_at)
        return outcome.result()

    def _note_end(self, key: Hashable, outcome: "Future[Any]", seconds: float) -> None:
        now = time.monotonic()
        # One that took longer hung, and says nothing of how slow the storage is.
        took = seconds if seconds <= MOST_SECONDS else 0.0
        with self._guard:
            before = self._ended.get(key)
            if before is None or took >= before.slowest_seconds or now - before.slowest_at > _LATE_SECONDS:
                self._ended[key] = _Ended(outcome, took, now)
            else:
                self._ended[key] = replace(before, outcome=outcome)
