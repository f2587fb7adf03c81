"""Writes the status of DiskMigrations, behind the data path: nothing that copies, extends or pivots waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from diskmigration.api import conditions
from diskmigration.api.conditions import ConditionStatus
from diskmigration.api.disk_migration import ConditionType, DiskMigration, DiskMigrationStatus, Phase
from diskmigration.api.names import AGENT_FIELD_MANAGER, DISK_MIGRATIONS, GROUP
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError, ObjectGoneError, RefusedError
from diskmigration.cluster.events import EventType, Reporter, record_event
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
"""At most one write a migration in this time, unless its phase has changed."""

FAILED_SECONDS = 30.0
"""How long one waits whose write failed for no reason that the API server gave."""

TURN_SECONDS = 10.0
"""Idle, it still looks so often."""


@dataclass
class _Entry:
    migration: DiskMigration
    wanted: DiskMigrationStatus
    written: DiskMigrationStatus | None = None
    not_before: float = 0.0
    is_gone: bool = False


class StatusWriter:
    """One thread for all migrations of the node. The newest status wins; one that was not written is written later."""

    def __init__(
        self, cluster: Cluster, *, node_name: str, on_gone: Callable[[str], None], on_turn: Callable[[], None]
    ) -> None:
        """`on_gone` is told the uid of an object that is not there any more, `on_turn` that the thread goes on."""
        self._cluster = cluster
        self._on_turn = on_turn
        self._reporter = Reporter(controller=f"{GROUP}/agent", instance=node_name)
        self._on_gone = on_gone
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Starts writing."""
        self._thread.start()

    def show(self, migration: DiskMigration, status: DiskMigrationStatus) -> None:
        """Has the status written soon; returns at once."""
        with self._changed:
            entry = self._entries.get(migration.metadata.uid)
            if entry is None:
                self._entries[migration.metadata.uid] = _Entry(migration, status)
            else:
                if entry.wanted.phase is not status.phase:
                    entry.not_before = 0.0
                entry.wanted = status
            self._changed.notify_all()

    def compare(self, migration: DiskMigration) -> None:
        """Has the status written again if the object, as it is now, says something else: somebody edited it."""
        with self._changed:
            entry = self._entries.get(migration.metadata.uid)
            if entry is None or entry.written is None or _gist(migration.status) == _gist(entry.written):
                return
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
        interval = INTERVAL_SECONDS
        try:
            self._apply(entry, status)
        except ObjectGoneError:
            entry.is_gone = True
            self._on_gone(entry.migration.metadata.uid)
        except ClusterError as error:
            level = logging.ERROR if isinstance(error, RefusedError) else logging.WARNING
            _log.log(level, "status not written", extra={"migration": entry.migration.key, "error": str(error)})
        except Exception:  # noqa: BLE001 - a status that cannot be written must not keep the others from being written
            interval = FAILED_SECONDS
            _log.exception("status not written", extra={"migration": entry.migration.key})
        else:
            self._tell(entry, status)
            entry.written = status
        with self._changed:
            # A phase that was entered while this was being written waits for nothing.
            if entry.wanted.phase is status.phase:
                entry.not_before = time.monotonic() + interval
            self._changed.notify_all()

    def _apply(self, entry: _Entry, status: DiskMigrationStatus) -> None:
        self._cluster.apply_status(
            DISK_MIGRATIONS,
            entry.migration.metadata.name,
            _agents_part(status).to_wire(),
            namespace=entry.migration.metadata.namespace,
            uid=entry.migration.metadata.uid,
            field_manager=AGENT_FIELD_MANAGER,
            seen_version=entry.migration.metadata.resource_version,
        )

    def _tell(self, entry: _Entry, status: DiskMigrationStatus) -> None:
        """Records an Event for each phase, so that `kubectl describe` tells the story."""
        self._tell_of_convergence(entry, status)
        if status.phase is None or (entry.written is not None and entry.written.phase is status.phase):
            return
        record_event(
            self._cluster,
            self._reporter,
            DISK_MIGRATIONS,
            entry.migration.metadata,
            reason=status.phase.value,
            note=status.failure.message if status.failure is not None else f"The migration is {status.phase.value}.",
            action="Migrate",
            event_type=EventType.WARNING if status.phase is Phase.FAILED else EventType.NORMAL,
        )
        if status.phase.is_final:
            self._tell_of_retained(entry, status)

    def _tell_of_retained(self, entry: _Entry, status: DiskMigrationStatus) -> None:
        sides = (("SourceRetained", status.source), ("DestinationRetained", status.destination))
        for reason, side in sides:
            if side is not None and side.retained:
                names = ", ".join(volume.name for volume in side.retained)
                record_event(
                    self._cluster,
                    self._reporter,
                    DISK_MIGRATIONS,
                    entry.migration.metadata,
                    reason=reason,
                    note=f"Kept in the storage domain {side.storage_domain}: {names}. {side.retained[0].reason}",
                    action="Migrate",
                )

    def _tell_of_convergence(self, entry: _Entry, status: DiskMigrationStatus) -> None:
        said = conditions.find(status.conditions, ConditionType.CONVERGING)
        before = entry.written or entry.migration.status
        known = conditions.find(before.conditions, ConditionType.CONVERGING)
        if said is None or (known is not None and known.reason == said.reason):
            return
        record_event(
            self._cluster,
            self._reporter,
            DISK_MIGRATIONS,
            entry.migration.metadata,
            reason=said.reason,
            note=said.message,
            action="Migrate",
            event_type=EventType.NORMAL if said.status is ConditionStatus.TRUE else EventType.WARNING,
        )

    def _next(self) -> _Entry:
        """The next entry that is due, waiting until there is one."""
        with self._changed:
            while True:
                self._on_turn()
                pending = [e for e in self._entries.values() if e.written != e.wanted and not e.is_gone]
                now = time.monotonic()
                due = [entry for entry in pending if entry.not_before <= now]
                if due:
                    return min(due, key=lambda entry: entry.not_before)
                self._changed.wait(min((entry.not_before - now for entry in pending), default=TURN_SECONDS))


def _gist(status: DiskMigrationStatus) -> tuple[object, ...]:
    """What programs and people go by, of what the agent writes."""
    accepted = ConditionType.ACCEPTED.value
    states = sorted((each.type, each.status.value) for each in status.conditions if each.type != accepted)
    return (status.phase, states)


def _agents_part(status: DiskMigrationStatus) -> DiskMigrationStatus:
    """Without what the operator alone writes; startTime is kept, as its first owner does not repeat it."""
    return status.model_copy(update={"node_name": None, "queue_position": None})
