"""Writes the status of DiskMigrations, behind the data path: nothing that copies, extends or pivots waits for it."""

import logging
import threading
import time
from collections.abc import Callable

from diskmigration.agent.status_queue import Entry, StatusQueue
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus
from diskmigration.api.names import AGENT_FIELD_MANAGER, DISK_MIGRATIONS, GROUP
from diskmigration.backoff import Backoff
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError, ObjectGoneError, RefusedError
from diskmigration.cluster.events import Event, EventRecorder, Reporter
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

BACKOFF = Backoff(first_seconds=1.0, longest_seconds=5.0)
"""How long one waits at most whose write the API server did not take; one at first."""

FAILED_SECONDS = 30.0
"""How long one waits whose write failed for no reason that the API server gave."""

TURN_SECONDS = 10.0
"""Idle, it still looks so often."""


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
        self._queue = StatusQueue(time.monotonic())
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._events.start()
        self._thread.start()

    def show(self, migration: DiskMigration, status: DiskMigrationStatus) -> None:
        """Have the status written soon; return at once."""
        with self._changed:
            self._queue.want(migration, status, time.monotonic())
            self._changed.notify_all()

    def compare(self, migration: DiskMigration) -> None:
        """Have the status written again if the object, as it is now, says something else: somebody edited it."""
        with self._changed:
            self._queue.compare(migration)
            self._changed.notify_all()

    def is_settled(self, uid: str) -> bool:
        """Return whether the API server has taken the newest status, or the object is gone."""
        with self._changed:
            return self._queue.is_settled(uid)

    def wait_until_settled(self, uid: str, *, timeout: float) -> bool:
        """Wait for `is_settled`, at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._queue.is_settled(uid), timeout)

    def forget(self, uid: str) -> None:
        """Drop the migration."""
        with self._changed:
            self._queue.forget(uid)

    def _run(self) -> None:
        while True:
            with surviving("the thread that writes statuses"):
                self._write(self._next())

    def _write(self, entry: Entry) -> None:
        """Write the newest status of one migration."""
        status = entry.desired
        version, retry_seconds = "", 0.0
        try:
            version = self._apply(entry, status)
        except ObjectGoneError:
            entry.is_gone = True
            self._on_gone(entry.migration.metadata.uid)
        except ClusterError as error:
            level = logging.ERROR if isinstance(error, RefusedError) else logging.WARNING
            _log.log(level, "status not written", extra={"migration": entry.migration.key, "error": str(error)})
            # Many agents wait at the same time.
            retry_seconds = BACKOFF.spread_seconds(entry.failures + 1)
        except Exception:  # noqa: BLE001 - a status that cannot be written must not keep the others from being written
            retry_seconds = FAILED_SECONDS
            _log.exception("status not written", extra={"migration": entry.migration.key})
        with self._changed:
            self._queue.end(entry, status, time.monotonic(), version=version, retry_seconds=retry_seconds)
            self._changed.notify_all()
        if version:
            self._tell(entry, status)

    def _apply(self, entry: Entry, status: DiskMigrationStatus) -> str:
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

    def _tell(self, entry: Entry, status: DiskMigrationStatus) -> None:
        """Record what has happened, so that `kubectl describe` tells the story."""
        for happening in entry.happenings(status):
            self._events.record(
                Event(
                    DISK_MIGRATIONS,
                    entry.migration.metadata,
                    reason=happening.reason,
                    note=happening.note,
                    action="Migrate",
                    event_type=happening.event_type,
                )
            )

    def _next(self) -> Entry:
        """Return the next entry that is due, waiting until there is one."""
        with self._changed:
            while True:
                self._on_turn()
                now = time.monotonic()
                if (entry := self._queue.begin(now)) is not None:
                    return entry
                due_at = self._queue.due_at(now)
                self._changed.wait(TURN_SECONDS if due_at is None else min(due_at - now, TURN_SECONDS))


def _agents_part(status: DiskMigrationStatus) -> DiskMigrationStatus:
    """Without what the operator alone writes; startTime is kept, as its first owner does not repeat it."""
    return status.model_copy(update={"node_name": None, "queue_position": None})
