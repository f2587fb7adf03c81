"""How many qemu-img processes run at once on the node: each takes memory, and more of them copy no faster.

A process that is stopped but cannot end, as its storage does not answer, counts until it has ended.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from diskmigration import clock
from diskmigration.agent.storage.long_command import KeepOn, StoppedError

DEFAULT_LIMIT = 8
LOWEST_LIMIT = 2
"""One place is kept from copies: what is done in a moment, and what puts a disk in order, must not wait for hours."""
QUIET_SECONDS = 10.0
"""A process that has done nothing for so long makes room: its storage may hang, and other storage must not wait."""
_CHECK_SECONDS = 0.2


@dataclass(frozen=True)
class Work:
    """What one process works on.

    `volumes` are those by which its migration is known, and `folders` those of all that it opens: volumes in the same
    folders are on the same storage. A copy may take hours. One that keeps to a bandwidth sleeps for up to
    `pause_seconds` between two portions.
    """

    volumes: frozenset[Path]
    folders: frozenset[Path]
    is_copy: bool = False
    pause_seconds: float = 0.0


@dataclass(frozen=True)
class Running:
    """A process that runs, and when it was last seen to do something, in seconds."""

    work: Work
    beat_at: float

    def is_active(self, now: float) -> bool:
        """Return whether it has done something not long ago."""
        return now - self.beat_at <= QUIET_SECONDS + self.work.pause_seconds


def may_begin(work: Work, running: Collection[Running], *, limit: int, now: float) -> bool:
    """Return whether one more process may begin.

    The limit holds for those that do something, and for all on the same storage, also where they hang.
    """
    if sum(other.work.folders == work.folders for other in running) >= limit:
        return False
    active = [other for other in running if other.is_active(now)]
    copies = sum(other.work.is_copy for other in active)
    if work.is_copy and copies >= limit - 1:
        return False
    return len(active) < limit


@dataclass(frozen=True)
class Wait:
    """Work of a migration that waits; `is_idle` tells that nothing else of the migration runs."""

    since: datetime
    limit: int
    is_idle: bool

    @property
    def what(self) -> str:
        """Return what the user reads of it, beside since when."""
        return (
            "Waiting for other work on the node to end, as the agent runs at most "
            f"{self.limit} qemu-img processes at once (--qemu-img-processes),"
        )


class Place:
    """The place of one process among those that run. Thread-safe."""

    def __init__(self, work: Work, free: Callable[["Place"], None]) -> None:
        self.work = work
        self.beat_at = time.monotonic()
        self._free = free

    def beat(self) -> None:
        """Record that the process has done something."""
        self.beat_at = time.monotonic()

    def free(self) -> None:
        """Record that the process has ended, or has not begun."""
        self._free(self)


@dataclass(eq=False)
class _Waiter:
    work: Work
    since: datetime
    is_waiting: bool = False


class ProcessLimit:
    """Admits processes, in the order in which they were asked for. Thread-safe."""

    def __init__(self, limit: int) -> None:
        """`limit` is LOWEST_LIMIT or more."""
        self._limit = limit
        self._changed = threading.Condition()
        self._places: list[Place] = []
        self._waiters: list[_Waiter] = []

    def set(self, limit: int) -> None:
        """Change the limit; what runs goes on."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def take(self, work: Work, keep_on: KeepOn) -> Place:
        """Wait for a place and return it. The caller frees it.

        Raises:
            StoppedError: `keep_on` said no.
        """
        waiter = _Waiter(work, clock.now())
        with self._changed:
            self._waiters.append(waiter)
        try:
            while (place := self._try(waiter)) is None:
                # May take long itself, so the others do not wait for the answer.
                if not keep_on():
                    raise StoppedError
            return place
        finally:
            with self._changed:
                self._waiters.remove(waiter)
                self._changed.notify_all()

    def wait_of(self, volumes: Iterable[Path]) -> Wait | None:
        """Return since when work on one of the volumes waits, or None."""
        wanted = frozenset(volumes)
        with self._changed:
            waiting = [waiter.since for waiter in self._waiters if waiter.work.volumes & wanted]
            runs = any(place.work.volumes & wanted for place in self._places)
            return Wait(min(waiting), self._limit, is_idle=not runs) if waiting else None

    def running(self) -> int:
        """Return how many processes run."""
        with self._changed:
            return len(self._places)

    def waiting(self) -> int:
        """Return how many processes are waited for."""
        with self._changed:
            return len(self._waiters)

    def _try(self, waiter: _Waiter) -> Place | None:
        with self._changed:
            if not self._is_next(waiter):
                waiter.is_waiting = True
                self._changed.wait(_CHECK_SECONDS)
                waiter.is_waiting = False
            if not self._is_next(waiter):
                return None
            place = Place(waiter.work, self._free)
            self._places.append(place)
            return place

    def _is_next(self, waiter: _Waiter) -> bool:
        """Under the condition: whether it may begin, and nobody who may begin as well has waited longer."""
        now = time.monotonic()
        running = [Running(place.work, place.beat_at) for place in self._places]
        for other in self._waiters:
            if (other is waiter or other.is_waiting) and may_begin(other.work, running, limit=self._limit, now=now):
                return other is waiter
        return False

    def _free(self, place: Place) -> None:
        with self._changed:
            with suppress(ValueError):
                self._places.remove(place)
            self._changed.notify_all()
