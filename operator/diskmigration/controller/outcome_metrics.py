"""What the migrations' courses tell: how long each phase took, how each ended, and how fast it copied.

The times are those at which this operator saw the phases change. Of a phase that it did not see begin, as it has just
started, nothing is counted.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diskmigration.api.conditions import find
from diskmigration.api.disk_migration import ConditionType, DiskMigrationStatus, Phase, read_status
from diskmigration.api.errors import Reason
from diskmigration.controller import metrics
from diskmigration.controller.lanes import lane_between
from diskmigration.controller.records import Migration
from diskmigration.controller.throughput import Copied, Throughput

_COPYING = frozenset({Phase.COPYING_CHAIN, Phase.REPLICATING})
_REASONS = frozenset(reason.value for reason in Reason)
_OTHER = "Other"
"""The label of a reason that is none of the documented ones: whoever may write a status could make up as many."""


@dataclass(frozen=True, slots=True)
class _Course:
    """Where one migration is. `since` is None where its phase was not seen to begin."""

    phase: Phase
    since: float | None
    copying_seconds: float = 0.0
    is_whole: bool = True


class OutcomeMetrics:
    """Not thread-safe: one event loop owns it."""

    def __init__(self, throughput: Throughput, clock: Callable[[], float] = time.monotonic) -> None:
        """`throughput` is told of the moves that end well."""
        self._throughput = throughput
        self._clock = clock
        self._courses: dict[str, _Course] = {}

    def observe(self, before: Migration | None, after: Migration, status: Mapping[str, Any]) -> None:
        """Take in a migration as it was and as it is; `status` is the whole one."""
        uid = after.uid
        course = self._courses.get(uid)
        phase = after.status.phase
        if phase is None or (course is None and after.is_final and before is None):
            return
        now = self._clock()
        if course is None:
            course = _Course(phase, now if before is not None else None)
        if course.phase is not phase:
            course = self._changed(course, phase, now)
        self._courses[uid] = course
        if after.is_final:
            self._ended(self._courses.pop(uid), after.status, status)

    def forget(self, uid: str) -> None:
        """Take in that a migration is deleted."""
        self._courses.pop(uid, None)

    def _changed(self, course: _Course, phase: Phase, now: float) -> _Course:
        copying = course.copying_seconds
        is_whole = course.is_whole
        if course.since is not None:
            seconds = now - course.since
            metrics.PHASE_SECONDS.labels(course.phase.value).observe(seconds)
            copying += seconds if course.phase in _COPYING else 0.0
        elif course.phase in _COPYING:
            is_whole = False
        return replace(course, phase=phase, since=now, copying_seconds=copying, is_whole=is_whole)

    def _ended(self, course: _Course, status: DiskMigrationStatus, body: Mapping[str, Any]) -> None:
        metrics.ENDED.labels(course.phase.value, _reason_of(status)).inc()
        if course.phase is not Phase.SUCCEEDED or status.source is None or status.destination is None:
            return
        total = _copied_bytes(body)
        metrics.MOVED_BYTES.labels(status.destination.storage_domain_name).inc(total)
        if course.is_whole:
            lane = lane_between(status.source, status.destination)
            self._throughput.note(lane, Copied(total, course.copying_seconds))


def _copied_bytes(status: Mapping[str, Any]) -> int:
    progress = read_status({"progress": status.get("progress")}).progress
    return max(progress.copied_bytes, 0) if progress is not None else 0


def _reason_of(status: DiskMigrationStatus) -> str:
    succeeded = find(status.conditions, ConditionType.SUCCEEDED)
    reason = succeeded.reason if succeeded is not None else ""
    return reason if reason in _REASONS else _OTHER
