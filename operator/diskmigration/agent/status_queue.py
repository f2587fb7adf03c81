"""Which status is to be written next, and when. Pure: it makes no request and reads no clock."""

from collections.abc import Iterator
from dataclasses import dataclass

from diskmigration.agent import status_pacing as pacing
from diskmigration.agent.migration_events import Happening, happenings
from diskmigration.agent.status_pacing import Budget, Change
from diskmigration.api.disk_migration import ConditionType, DiskMigration, DiskMigrationStatus


@dataclass
class Entry:
    """One migration's status as it is `desired` and as it was `written` last, with the resourceVersion of that write.

    The desired phase and conditions came at `changed_at`, the first ones that were not written at `unwritten_since`.
    `is_edited` tells that somebody else has written over it. `recorded` is the status up to which Events were recorded.
    `seen` is the newest object that came during a write, whose version is not known before its end.
    """

    migration: DiskMigration
    desired: DiskMigrationStatus
    began_at: float
    changed_at: float = 0.0
    unwritten_since: float = 0.0
    written: DiskMigrationStatus | None = None
    written_at: float = 0.0
    version: str = ""
    recorded: DiskMigrationStatus | None = None
    is_edited: bool = False
    is_writing: bool = False
    seen: DiskMigration | None = None
    failures: int = 0
    retry_at: float = 0.0
    is_gone: bool = False

    @property
    def is_settled(self) -> bool:
        """Return whether nothing is to be written."""
        return self.is_gone or (self.written == self.desired and not self.is_edited)

    def due_at(self, now: float, budget: Budget) -> float:
        """Return when the desired status is to be written."""
        if self.written is None:
            return self.retry_at
        kind = pacing.change(self.written, self.desired)
        if kind is Change.STATE:
            due = pacing.state_is_due_at(
                self.desired, since=self.unwritten_since, changed_at=self.changed_at, written_at=self.written_at
            )
        else:
            due = self.written_at + pacing.interval(self.written, self.desired, age_seconds=now - self.began_at)
        if kind is Change.FIGURES:
            due = max(due, budget.ready_at(now))
        if self.is_edited:
            # Not at once: whoever edits it again and again would be answered as often.
            due = min(due, self.written_at + pacing.TEXT_SECONDS)
        return max(due, self.retry_at)

    def want(self, status: DiskMigrationStatus, now: float) -> None:
        """Take in the newest status."""
        if pacing.change(self.desired, status) is Change.STATE:
            self.changed_at = now
            if pacing.change(self.written, self.desired) is not Change.STATE:
                self.unwritten_since = now
        self.desired = status

    def compare(self, migration: DiskMigration) -> None:
        """Take in the object as it is now: one that says something else is written again, as somebody edited it."""
        if self.is_writing:
            self.seen = migration
        elif self.written is not None and not pacing.is_echo(migration.metadata.resource_version, self.version):
            self.is_edited = self.is_edited or _gist(migration.status) != _gist(self.written)

    def happenings(self, status: DiskMigrationStatus) -> Iterator[Happening]:
        """Return what has happened since the last status of which Events told."""
        before, self.recorded = self.recorded or self.migration.status, status
        return happenings(before, status)


class StatusQueue:
    """The statuses of all migrations of a node. Its caller sees to it that one thread uses it at a time."""

    def __init__(self, now: float) -> None:
        """Start with no status."""
        self._entries: dict[str, Entry] = {}
        self._budget = Budget(pacing.FIGURES_PER_SECOND, pacing.FIGURES_PER_SECOND, now)

    def want(self, migration: DiskMigration, status: DiskMigrationStatus, now: float) -> None:
        """Take in the newest status of a migration."""
        entry = self._entries.get(migration.metadata.uid)
        if entry is None:
            self._entries[migration.metadata.uid] = Entry(migration, status, began_at=now)
        else:
            entry.want(status, now)

    def compare(self, migration: DiskMigration) -> None:
        """Take in an object as it is now; see Entry."""
        if (entry := self._entries.get(migration.metadata.uid)) is not None:
            entry.compare(migration)

    def is_settled(self, uid: str) -> bool:
        """Return whether the API server has taken the newest status, or the object is gone."""
        entry = self._entries.get(uid)
        return entry is None or entry.is_settled

    def forget(self, uid: str) -> None:
        """Drop the migration."""
        self._entries.pop(uid, None)

    def due_at(self, now: float) -> float | None:
        """Return when the next status is to be written; None where there is none."""
        return min((entry.due_at(now, self._budget) for entry in self._pending()), default=None)

    def begin(self, now: float) -> Entry | None:
        """Return the migration whose status is to be written now, if there is one; `end` is called after the write."""
        due = [(at, entry) for entry in self._pending() if (at := entry.due_at(now, self._budget)) <= now]
        if not due:
            return None
        # Those that wait for the budget are due at one time: the one that was written longest ago is next.
        _, entry = min(due, key=lambda pair: (pair[0], pair[1].written_at))
        entry.is_writing = True
        return entry

    def end(
        self, entry: Entry, status: DiskMigrationStatus, now: float, *, version: str = "", retry_seconds: float = 0.0
    ) -> None:
        """Take in how a write ended. Without a version the API server did not take it."""
        entry.is_writing = False
        entry.failures = entry.failures + 1 if retry_seconds else 0
        entry.retry_at = now + retry_seconds
        if version:
            if pacing.change(entry.written, status) is Change.FIGURES:
                self._budget = self._budget.spent(now)
            entry.written, entry.written_at, entry.version = status, now, version
            entry.is_edited = False
            # What came during the write is the first that is not written.
            entry.unwritten_since = entry.changed_at
        seen, entry.seen = entry.seen, None
        if seen is not None:
            entry.compare(seen)

    def _pending(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if not entry.is_settled]


def _gist(status: DiskMigrationStatus) -> tuple[object, ...]:
    """Return what programs and people go by, of what the agent writes."""
    accepted = ConditionType.ACCEPTED.value
    states = sorted((found.type, found.status.value) for found in status.conditions if found.type != accepted)
    return (status.phase, states)
