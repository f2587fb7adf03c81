"""A report of lvm2 that is asked for by many, read by one at a time, and kept for a while."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from diskmigration.api.errors import MigrationError

_FAILURE_SECONDS = 10.0
_SLOW_FACTOR = 2.0
"""A report is kept for as many times as long as lvm2 took for it: one that is slow is not read for each volume."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Read(Generic[_T]):
    report: _T
    asked_at: float
    seconds: float


class KeptReport(Generic[_T]):
    """Thread-safe."""

    def __init__(self, read: Callable[[], _T]) -> None:
        """`read` raises MigrationError where lvm2 fails, or does not answer in time."""
        self._read = read
        self._guard = threading.Lock()
        self._kept: _Read[_T] | None = None
        self._failed: tuple[float, MigrationError] | None = None
        self._changes = 0

    def get(self, max_age_seconds: float) -> _T:
        """Return the report as it was no longer ago than that, or a few times as long as lvm2 takes for it.

        With an age of 0 it is read now.

        Raises:
            MigrationError: see `read`.
        """
        with self._guard:
            now = time.monotonic()
            kept = self._kept
            if (
                max_age_seconds
                and kept is not None
                and now - kept.asked_at < max(max_age_seconds, _SLOW_FACTOR * kept.seconds)
            ):
                return kept.report
            # A group that does not answer is not asked again for each of its volumes that is to be shown.
            if max_age_seconds and self._failed is not None and now - self._failed[0] < _FAILURE_SECONDS:
                raise MigrationError(self._failed[1].reason, self._failed[1].message)
            changes = self._changes
            try:
                found = self._read()
            except MigrationError as error:
                self._failed = (time.monotonic(), error)
                raise
            self._failed = None
            if changes == self._changes:
                self._kept = _Read(found, now, time.monotonic() - now)
            return found

    def forget(self) -> None:
        """Read it anew the next time: the group has changed."""
        self._changes += 1
        self._kept = None
