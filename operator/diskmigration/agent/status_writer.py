"""Writes the status of DiskMigrations, behind the data path: nothing that copies, extends or pivots waits for it."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from diskmigration.agent import status_pacing as pacing
from diskmigration.agent.migration_events import happenings
from diskmigration.agent.status_pacing import Budget, Change
from diskmigration.api.disk_migration import ConditionType, DiskMigration, DiskMigrationStatus
from diskmigration.api.names import AGENT_FIELD_MANAGER, DISK_MIGRATIONS, GROUP
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError, ObjectGoneError, RefusedError
from diskmigration.cluster.events import EventRecorder, Reporter
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 5.0
"""How long one waits at most whose write the API server did not take; one at first."""

FAILED_SECONDS = 30.0
"""How long one waits whose write failed for no reason that the API server gave."""

TURN_SECONDS = 10.0
"""Idle, it still looks so often."""


@dataclass
class _Entry:
    """`told` is the status up to which Events were recorded.

    `seen` is the newest object that came while a status was being written, whose version is not known yet.
    """

    migration: DiskMigration
    wanted: DiskMigrationStatus
    began_at: float = field(default_factory=time.monotonic)
    written: DiskMigrationStatus | None = None
    told: DiskMigrationStatus | None = None
    written_at: float = 0.0
    version: str = ""
    is_writing: bool = False
    seen: DiskMigration | None = None
    failures: int = 0
    retry_at: float = 0.0
    is_gone: bool = False

    def due_at(self, now: float, budget: Budget) -> float:
        """Return when what is wanted is to be written."""
        seconds = pacing.interval(self.written, self.wanted, age_seconds=now - self.began_at)
        due = max(self.retry_at, self.written_at + seconds)
        if pacing.change(self.written, self.wanted) is Change.FIGURES:
            due = max(due, budget.ready_at(now))
        return due


class StatusWriter:
    """One thread for all migrations of the node. The newest status wins; one that was not written is written later."""

    def __init__(
        self, cluster: Cluster, *, node_name: str, on_gone: Callable[[str], None], on_turn: Callable[[], None]
    ) -> None:
        """`on_gone` is told the uid of an object that is not there any more, `on_turn` that the thread goes on."""
        self._cluster = cluster
        self._on_turn = on_turn
        self._events = EventRecorder(cluster, Reporter(controller=f"{GROUP}/agent", instance=node_name))
        self._on_gone = on_gone
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._budget = Budget(pacing.FIGURES_PER_SECOND, pacing.FIGURES_PER_SECOND, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._events.start()
        self._thread.start()

    def show(self, migration: DiskMigration, status: DiskMigrationStatus) -> None:
        """Have the status written soon; return at once."""
        with self._changed:
            entry = self._entries.get(migration.metadata.uid)
            if entry is None:
                self._entries[migration.metadata.uid] = _Entry(migration, status)
            else:
                entry.wanted = status
            self._changed.notify_all()

    def compare(self, migration: DiskMigration) -> None:
        """Have the status written again if the object, as it is now, says something else: somebody edited it."""
        with self._changed:
            entry = self._entries.get(migration.metadata.uid)
            if entry is None:
                return
            if entry.is_writing:
                entry.seen = migration
            else:
                self._compare(entry, migration)

    def _compare(self, entry: _Entry, migration: DiskMigration) -> None:
        """Under the lock."""
        if entry.written is None or pacing.is_echo(migration.metadata.resource_version, entry.version):
            return
        if _gist(migration.status) != _gist(entry.written):
            entry.written = None
            self._changed.notify_all()

    def is_settled(self, uid: str) -> bool:
        """Whether the newest status was taken by the API server, or its object is gone."""
        with self._changed:
            entry = self._entries.get(uid)
            return entry is None or entry.is_gone or entry.written == entry.wanted

    def wait_until_settled(self, uid: str, *, timeout: float) -> bool:
        """Waits for `is_settled`, at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_settled(uid), timeout)

    def forget(self, uid: str) -> None:
        """Drops the migration."""
        with self._changed:
            self._entries.pop(uid, None)

    def _run(self) -> None:
        while True:
            with surviving("the thread that writes statuses"):
                self._write(self._next())

    def _write(self, entry: _Entry) -> None:
        """Write the newest status of one migration."""
        status = entry.wanted
        version, retry_seconds = "", 0.0
        try:
            version = self._apply(entry, status)
        except ObjectGoneError:
            entry.is_gone = True
            self._on_gone(entry.migration.metadata.uid)
        except ClusterError as error:
            level = logging.ERROR if isinstance(error, RefusedError) else logging.WARNING
            _log.log(level, "status not written", extra={"migration": entry.migration.key, "error": str(error)})
            doubled = min(RETRY_SECONDS * 2.0 ** min(entry.failures, 8), LAST_RETRY_SECONDS)
            retry_seconds = doubled * random.uniform(0.5, 1.0)  # noqa: S311 - many agents are spread by it
        except Exception:  # noqa: BLE001 - a status that cannot be written must not keep the others from being written
            retry_seconds = FAILED_SECONDS
            _log.exception("status not written", extra={"migration": entry.migration.key})
        with self._changed:
            self._note(entry, status, version, retry_seconds)
            self._changed.notify_all()
        if version:
            self._tell(entry, status)

    def _note(self, entry: _Entry, status: DiskMigrationStatus, version: str, retry_seconds: float) -> None:
        """Take in how a write ended, under the lock. Without a version it was not taken."""
        now = time.monotonic()
        entry.is_writing = False
        entry.failures = entry.failures + 1 if retry_seconds else 0
        entry.retry_at = now + retry_seconds
        if version:
            if pacing.change(entry.written, status) is Change.FIGURES:
                self._budget = self._budget.spent(now)
            entry.written, entry.written_at, entry.version = status, now, version
        seen, entry.seen = entry.seen, None
        if seen is not None:
            self._compare(entry, seen)

    def _apply(self, entry: _Entry, status: DiskMigrationStatus) -> str:
        """Write the status, and return the object's resourceVersion."""
        body = self._cluster.apply_status(
            DISK_MIGRATIONS,
            entry.migration.metadata.name,
            _agents_part(status).to_wire(),
            namespace=entry.migration.metadata.namespace,
            uid=entry.migration.metadata.uid,
            field_manager=AGENT_FIELD_MANAGER,
            seen_version=entry.migration.metadata.resource_version,
        )
        return str(body["metadata"]["resourceVersion"])

    def _tell(self, entry: _Entry, status: DiskMigrationStatus) -> None:
        """Record what has happened, so that `kubectl describe` tells the story."""
        before, entry.told = entry.told or entry.migration.status, status
        for happening in happenings(before, status):
            self._events.record(
                DISK_MIGRATIONS,
                entry.migration.metadata,
                reason=happening.reason,
                note=happening.note,
                action="Migrate",
                event_type=happening.event_type,
            )

    def _next(self) -> _Entry:
        """Return the next entry that is due, waiting until there is one."""
        with self._changed:
            while True:
                self._on_turn()
                now = time.monotonic()
                pending = [e for e in self._entries.values() if e.written != e.wanted and not e.is_gone]
                times = [(entry.due_at(now, self._budget), entry) for entry in pending]
                due = [(at, entry) for at, entry in times if at <= now]
                if due:
                    _, entry = min(due, key=lambda pair: pair[0])
                    entry.is_writing = True
                    return entry
                self._changed.wait(min((at - now for at, _ in times), default=TURN_SECONDS))


def _gist(status: DiskMigrationStatus) -> tuple[object, ...]:
    """What programs and people go by, of what the agent writes."""
    accepted = ConditionType.ACCEPTED.value
    states = sorted((each.type, each.status.value) for each in status.conditions if each.type != accepted)
    return (status.phase, states)


def _agents_part(status: DiskMigrationStatus) -> DiskMigrationStatus:
    """Without what the operator alone writes; startTime is kept, as its first owner does not repeat it."""
    return status.model_copy(update={"node_name": None, "queue_position": None})
