"""When a migration's status is worth a write. Pure."""

from dataclasses import dataclass
from enum import IntEnum

from diskmigration.api.disk_migration import DiskMigrationStatus, Progress, Side

STATE_SECONDS = 0.3
"""A phase or a condition is written once it has lasted so long: those that pass are one write."""
LAST_STATE_SECONDS = 1.0
"""However soon they pass, one of them is written after this time."""
APART_SECONDS = 0.7
"""Two writes of a migration are this far apart, but for the last one: a move of two seconds has four."""
TEXT_SECONDS = 1.0
LAST_TEXT_SECONDS = 5.0
"""A message is written this often at most in an old migration: it may hold a figure that moves all the time."""
YOUNG_SECONDS = 10.0
"""A user who has just begun a migration looks at it: its figures are written every second."""
FIGURES_SECONDS = 15.0
"""How often figures are written that hardly move."""
AGE_SHARE = 0.2
"""Figures that move are written again after this share of the migration's age."""
MOVED_SHARE = 0.01
"""Less of the whole than this is hardly moving."""
FIGURES_PER_SECOND = 2.0
"""So many writes of figures alone are made for all migrations of a node together."""


class Change(IntEnum):
    """What differs between two statuses, the more urgent the larger."""

    NONE = 0
    FIGURES = 1
    TEXT = 2
    STATE = 3


def change(written: DiskMigrationStatus | None, desired: DiskMigrationStatus) -> Change:
    """Return what would be new in the desired status."""
    if written == desired:
        return Change.NONE
    if written is None or _state(written) != _state(desired):
        return Change.STATE
    return Change.TEXT if _without_figures(written) != _without_figures(desired) else Change.FIGURES


def state_is_due_at(desired: DiskMigrationStatus, *, since: float, changed_at: float, written_at: float) -> float:
    """Return when a state is to be written that came at a time, the first one that was not written `since` another."""
    if desired.phase is not None and desired.phase.is_final:
        return changed_at
    return max(min(changed_at + STATE_SECONDS, since + LAST_STATE_SECONDS), written_at + APART_SECONDS)


def interval(written: DiskMigrationStatus, desired: DiskMigrationStatus, *, age_seconds: float) -> float:
    """Return how long after the last write a status is due that differs in its message or figures, in seconds."""
    kind = change(written, desired)
    if age_seconds < YOUNG_SECONDS:
        return TEXT_SECONDS
    ever_longer = max(TEXT_SECONDS, age_seconds * AGE_SHARE)
    if kind is Change.TEXT:
        return min(ever_longer, LAST_TEXT_SECONDS)
    return min(ever_longer, FIGURES_SECONDS) if _has_moved(written.progress, desired.progress) else FIGURES_SECONDS


@dataclass(frozen=True)
class Budget:
    """What may be spent of a rate, a second's worth at most at once; `left` is as it was `at` a time."""

    per_second: float
    left: float
    at: float

    def refilled(self, now: float) -> "Budget":
        """Return it as it is at that time."""
        left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        return Budget(self.per_second, left, now)

    def spent(self, now: float) -> "Budget":
        """Return it with one taken from it."""
        refilled = self.refilled(now)
        return Budget(self.per_second, refilled.left - 1, now)

    def ready_at(self, now: float) -> float:
        """Return when one can be taken."""
        return now + max(0.0, 1 - self.refilled(now).left) / self.per_second


def is_echo(seen_version: str, written_version: str) -> bool:
    """Return whether an object as it was seen is our own last write, or older than that.

    Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions, which has the versions of
    one kind be integers that grow. Where they are not, only the write itself is an echo.
    """
    if seen_version.isdecimal() and written_version.isdecimal():
        return int(seen_version) <= int(written_version)
    return seen_version == written_version


def _state(status: DiskMigrationStatus) -> tuple[object, ...]:
    states = sorted((found.type, found.status.value, found.reason) for found in status.conditions)
    return (status.phase, states, status.failure)


def _without_figures(status: DiskMigrationStatus) -> DiskMigrationStatus:
    nothing = {"progress": None, "last_progress_time": None, "display": None, "allocated_bytes": None}
    sides = {"source": _without_sizes(status.source), "destination": _without_sizes(status.destination)}
    return status.model_copy(update={**nothing, **sides})


def _without_sizes(side: Side | None) -> Side | None:
    if side is None:
        return None
    zero = {"size_bytes": 0, "allocated_bytes": 0, "extensions": 0}
    return side.model_copy(update={"volumes": tuple(volume.model_copy(update=zero) for volume in side.volumes)})


def _has_moved(written: Progress | None, desired: Progress | None) -> bool:
    if written is None or desired is None:
        return written is not desired
    moved = abs(desired.copied_bytes - written.copied_bytes) + abs(desired.total_bytes - written.total_bytes)
    return moved >= MOVED_SHARE * max(desired.total_bytes, 1)
