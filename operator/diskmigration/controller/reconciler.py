"""One step for one object: look at what is known, decide, write at most what is missing, take in the answer.

Level-triggered: nothing here knows why it was called. A step that fails half-way is made again from the beginning.
"""

import logging
from collections.abc import Callable
from datetime import datetime

from diskmigration import clock
from diskmigration.api import names
from diskmigration.api.disk_migration import DiskMigrationStatus, Phase
from diskmigration.api.errors import Reason
from diskmigration.api.model import ObjectMeta
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ConflictError, ObjectGoneError, RefusedError
from diskmigration.cluster.events import Event, EventRecorder, EventType
from diskmigration.controller import deadlines, migration_status, unreachable, validation
from diskmigration.controller.migration_cache import Finished
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.records import Migration
from diskmigration.controller.request import Request
from diskmigration.controller.state import ControllerState

_log = logging.getLogger(__name__)

AGENT_RECHECK_SECONDS = 15.0


class Reconciler:
    """The steps. Requests are awaited, and after each the object may be another: the next step looks again."""

    def __init__(
        self,
        cluster: Cluster,
        state: ControllerState,
        events: EventRecorder,
        *,
        request: Request,
        look_again: Callable[[str, float], None],
        acceptance_grace_seconds: float,
    ) -> None:
        """`look_again` has a migration looked at after so many seconds, if nothing wakes it before."""
        self._cluster = cluster
        self._state = state
        self._scheduler = state.scheduler
        self._events = events
        self._request = request
        self._look_again = look_again
        self._grace_seconds = acceptance_grace_seconds
        self._told_of_waiting: set[str] = set()
        self._told_unreachable: set[str] = set()
        self._unanswered: set[str] = set()

    async def reconcile_migration(self, key: str) -> None:
        """One step for a DiskMigration.

        Raises:
            ClusterError: the step could not be made; make it again.
        """
        finished = self._state.migrations.finished.get(key)
        if finished is not None:
            await self._tidy(key, finished)
            return
        migration = self._state.migrations.active.get(key)
        if migration is not None and migration.uid in self._unanswered:
            await self._read_again(migration.metadata)
            migration = self._state.migrations.active.get(key)
        if migration is None:
            return
        if migration.is_delegated:
            await self._accompany(migration)
        elif migration.is_deleting:
            self._scheduler.withdraw(migration)
            await self._remove_finalizer(migration.metadata)
        else:
            await self._decide(migration)

    async def _decide(self, migration: Migration) -> None:
        """Before it is handed over: refuse it, hold it, queue it, or hand it over."""
        now = _now()
        spec = migration.spec
        if spec is not None and spec.cancel:
            await self._conclude(migration, migration_status.cancelled(migration, now))
            return
        refusal = validation.refusal_of(migration)
        if spec is None or refusal is not None:
            await self._refuse(migration, refusal or validation.unreadable(migration), now)
            return
        if spec.suspend:
            self._scheduler.withdraw(migration)
            outcome = self._scheduler.judge(migration)
            if not (isinstance(outcome, Refusal) and outcome.is_provisional):
                await self._write(migration, migration_status.held(migration, outcome, self._state.throughput, now))
            return
        left = deadlines.seconds_to_deadline(migration, now)
        if left is not None and left <= 0:
            message = migration_status.not_started_in_time(migration, spec.active_deadline_seconds or 0)
            await self._conclude(migration, migration_status.failed(migration, Reason.DEADLINE_EXCEEDED, message, now))
            return
        match self._scheduler.judge(migration):
            case Refusal() as refusal:
                await self._refuse(migration, refusal, now)
            case Placement() as placement:
                await self._queue_or_hand_over(migration, placement, now)
        if left is not None:
            self._look_again(migration.key, left)

    async def _refuse(self, migration: Migration, refusal: Refusal, now: datetime) -> None:
        left = deadlines.seconds_to_giving_up(migration, refusal, self._grace_seconds, now)
        if left is not None and left <= 0:
            await self._conclude(migration, migration_status.failed(migration, refusal.reason, refusal.message, now))
        elif left is not None:
            self._scheduler.withdraw(migration)
            await self._write(migration, migration_status.refused(migration, refusal, now))
            self._look_again(migration.key, left)
        else:
            self._scheduler.set_aside(migration, refusal)
            if refusal.is_provisional:
                return
            await self._write(migration, migration_status.waiting(migration, refusal, now))

    async def _queue_or_hand_over(self, migration: Migration, placement: Placement, now: datetime) -> None:
        if not self._scheduler.ask_for_place(migration, placement):
            position = self._scheduler.position(migration)
            if position is not None:
                await self._write(migration, migration_status.queued(migration, placement, position, now))
            return
        if not migration.has_finalizer:
            # Before the node is written, as from then on there is something to clean up; and not before that, so that
            # whatever only waits can be deleted although no operator runs.
            body = await self._request(
                self._cluster.add_finalizer, names.DISK_MIGRATIONS, migration.metadata, names.FINALIZER
            )
            self._state.observe_migration(body)
            await self.reconcile_migration(migration.key)
            return
        self._unanswered.add(migration.uid)
        try:
            await self._write(migration, migration_status.scheduled(migration, placement, now))
        except (ConflictError, ObjectGoneError, RefusedError):
            self._unanswered.discard(migration.uid)
            raise
        self._unanswered.discard(migration.uid)
        _log.info("handed over", extra={"migration": migration.key, "phase": "Scheduled", "node": placement.node})
        self._tell(
            migration.metadata,
            reason=migration_status.SCHEDULED,
            note=f"Handed to the agent on node {placement.node}",
            action="Schedule",
        )

    async def _read_again(self, metadata: ObjectMeta) -> None:
        """Take in a migration as it is: the answer to its hand-over was lost.

        It may be its agent's already. Without this, its place would be given to another where it is refused now.
        """
        body = await self._request(self._cluster.get, names.DISK_MIGRATIONS, metadata.name, metadata.namespace)
        self._unanswered.discard(metadata.uid)
        if body is None:
            self._state.forget_migration(f"{metadata.namespace}/{metadata.name}", metadata.uid)
        else:
            self._state.observe_migration(body)

    async def _conclude(self, migration: Migration, status: DiskMigrationStatus) -> None:
        """Ends a migration that no agent has seen."""
        await self._write(migration, status)
        succeeded = status.conditions[0]
        phase = status.phase or Phase.FAILED
        extra = {"migration": migration.key, "phase": phase.value, "reason": succeeded.reason}
        _log.info("ended without being handed over", extra=extra)
        self._tell(
            migration.metadata,
            reason=succeeded.reason,
            note=succeeded.message,
            action="Refuse" if phase is Phase.FAILED else "Conclude",
            event_type=EventType.WARNING if phase is Phase.FAILED else EventType.NORMAL,
        )

    async def _accompany(self, migration: Migration) -> None:
        """After it is handed over: keep Accepted current, say if its agent is away, and have its deletion end."""
        if migration.spec is not None:
            await self._write_part(migration, _now())
        if migration.is_deleting:
            await self._await_agent(migration)

    async def _write_part(self, migration: Migration, now: datetime) -> None:
        """Write the operator's part of a status that is the agent's otherwise."""
        away = self._state.inventory.is_away(migration.status.node_name or "")
        is_told = unreachable.is_told(migration)
        # An agent that writes over it is at work although its Lease is old: it is told once in such a time.
        tells = away and (is_told or migration.uid not in self._told_unreachable)
        if tells:
            wanted = unreachable.status(migration, now)
        elif is_told:
            wanted = unreachable.status_after(migration, now)
        else:
            wanted = migration_status.delegated(migration, now)
        # Until the agent takes over, the phase is in it, and must not fall on the agent's first. Nor must what is told
        # of its absence fall on what it has written meanwhile.
        is_locked = tells or is_told or migration.status.phase is Phase.SCHEDULED
        await self._write(migration, wanted, is_whole=False, is_locked=is_locked)
        if tells:
            self._told_unreachable.add(migration.uid)
        elif not away:
            self._told_unreachable.discard(migration.uid)
        left = deadlines.seconds_to_deadline(migration, now)
        if tells and left is not None and left > 0:
            self._look_again(migration.key, left)

    async def _await_agent(self, migration: Migration) -> None:
        """A deletion waits for the agent to clean up; unless its node is gone, then nobody will."""
        node = migration.status.node_name or ""
        self._look_again(migration.key, AGENT_RECHECK_SECONDS)
        if not self._state.inventory.is_away(node):
            self._told_of_waiting.discard(migration.uid)
            return
        if await self._request(self._cluster.get_node, node) is None:
            self._tell(
                migration.metadata,
                reason="ReleasedWithoutCleanUp",
                note=unreachable.released_without_clean_up(node, migration.uid),
                action="Release",
                event_type=EventType.WARNING,
            )
            await self._remove_finalizer(migration.metadata)
        elif migration.uid not in self._told_of_waiting:
            self._told_of_waiting.add(migration.uid)
            _log.warning("a deletion waits for an agent", extra={"migration": migration.key, "node": node})
            self._tell(
                migration.metadata,
                reason="WaitingForAgent",
                note=unreachable.deletion_waits(node),
                action="Wait",
                event_type=EventType.WARNING,
            )

    def _tell(
        self, metadata: ObjectMeta, *, reason: str, note: str, action: str, event_type: EventType = EventType.NORMAL
    ) -> None:
        self._events.record(Event(names.DISK_MIGRATIONS, metadata, reason, note, action, event_type))

    async def _tidy(self, key: str, finished: Finished) -> None:
        """After it has ended: nothing holds its deletion any more, its spec is observed, and its TTL deletes it."""
        if names.FINALIZER in finished.metadata.finalizers:
            await self._remove_finalizer(finished.metadata)
            return
        if not finished.is_observed:
            # Without it, a GitOps tool would wait for a change to take effect that has nothing to change.
            body = await self._request(self._cluster.observe_generation, names.DISK_MIGRATIONS, finished.metadata)
            self._state.observe_migration(body)
            return
        left = deadlines.seconds_to_removal(finished.completed, finished.ttl_seconds, _now())
        if left is None or finished.metadata.deletion_timestamp is not None:
            return
        if left > 0:
            self._look_again(key, left)
            return
        metadata = finished.metadata
        await self._request(
            self._cluster.delete, names.DISK_MIGRATIONS, metadata.name, metadata.namespace, uid=metadata.uid
        )
        _log.info("deleted after its TTL", extra={"migration": key})

    async def _remove_finalizer(self, metadata: ObjectMeta) -> None:
        if names.FINALIZER not in metadata.finalizers:
            return
        body = await self._request(self._cluster.remove_finalizer, names.DISK_MIGRATIONS, metadata, names.FINALIZER)
        self._told_of_waiting.discard(metadata.uid)
        self._told_unreachable.discard(metadata.uid)
        key = f"{metadata.namespace}/{metadata.name}"
        if body is None or (metadata.deletion_timestamp is not None and not body["metadata"].get("finalizers")):
            self._state.forget_migration(key, metadata.uid)
        else:
            self._state.observe_migration(body)

    async def _write(
        self, migration: Migration, wanted: DiskMigrationStatus, *, is_whole: bool = True, is_locked: bool = True
    ) -> None:
        """Writes a status if it differs. Locked, it lands only on the object that the decision was made on."""
        if not migration_status.differs(migration.status, wanted, is_whole=is_whole):
            return
        metadata = migration.metadata
        body = await self._request(
            self._cluster.apply_status,
            names.DISK_MIGRATIONS,
            metadata.name,
            migration_status.to_wire(wanted),
            namespace=metadata.namespace,
            uid=metadata.uid,
            field_manager=names.OPERATOR_FIELD_MANAGER,
            resource_version=metadata.resource_version if is_locked else "",
        )
        self._state.observe_migration(body)


def _now() -> datetime:
    """To the second, as times are written: what was written and what is wanted compare equal."""
    return clock.now().replace(microsecond=0)
