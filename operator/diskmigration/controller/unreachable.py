"""What is told of a migration whose node's agent is away. Pure.

The agent may still be at work, cut off from the API server, so the operator says that it knows nothing, and ends
nothing: phase, progress and failure stay as the agent left them. The conditions that the operator takes over are the
agent's again as soon as that writes its status.
"""

from datetime import datetime

from diskmigration.api.conditions import Condition, ConditionStatus, condition, find, is_true
from diskmigration.api.disk_migration import ConditionType, DiskMigrationStatus, Phase
from diskmigration.api.errors import Reason
from diskmigration.controller import deadlines, migration_status
from diskmigration.controller.records import Migration

_FOR_GOOD = "Should the node never come back, delete the Node object"
_TAKEN_OVER = {
    ConditionType.SUCCEEDED: ConditionStatus.UNKNOWN,
    ConditionType.READY: ConditionStatus.UNKNOWN,
}


def is_told(migration: Migration) -> bool:
    """Return whether the status says that the agent is away, and the agent has not written over it."""
    ready = find(migration.status.conditions, ConditionType.READY)
    return ready is not None and ready.reason == Reason.AGENT_UNREACHABLE.value


def status(migration: Migration, now: datetime) -> DiskMigrationStatus:
    """Return the operator's part of the status, with what is told of an agent that is away.

    From the deadline on Stalled is True, so that nobody waits any longer. Reconciling is False then, and where the
    agent has left it Stalled: kstatus goes by the first of the two that is True.
    """
    message = _message(migration, now)
    is_late = _is_late(migration, now)
    is_stalled = is_late or is_true(migration.status.conditions, ConditionType.STALLED)
    reconciling = ConditionStatus.FALSE if is_stalled else ConditionStatus.TRUE
    states = {**_TAKEN_OVER, ConditionType.RECONCILING: reconciling}
    made = [_condition(migration, kind, value, message, now) for kind, value in states.items()]
    if is_late:
        late = Reason.DEADLINE_EXCEEDED
        made.append(_condition(migration, ConditionType.STALLED, ConditionStatus.TRUE, message, now, reason=late))
    return _with(migration_status.delegated(migration, now), made)


def status_after(migration: Migration, now: datetime) -> DiskMigrationStatus:
    """Return the operator's part for an agent that is back: what it was told stays until it has written its own.

    Without that the conditions would be gone for a moment, and a user would take the migration for another.
    """
    if migration.status.phase is Phase.SCHEDULED:
        return migration_status.delegated(migration, now)
    told = (Reason.AGENT_UNREACHABLE.value, Reason.DEADLINE_EXCEEDED.value)
    kinds = (*_TAKEN_OVER, ConditionType.RECONCILING, ConditionType.STALLED)
    kept = [one for kind in kinds if (one := find(migration.status.conditions, kind)) and one.reason in told]
    return _with(migration_status.delegated(migration, now), kept)


def deletion_waits(node: str) -> str:
    """Return the message of a deletion that waits for an agent that is away."""
    return (
        f"The deletion waits for the agent on node {node} to clean up, and that agent does not renew its Lease. Check "
        f"its pod. {_FOR_GOOD}."
    )


def released_without_clean_up(node: str, uid: str) -> str:
    """Return the message of a deletion that ends although nobody has cleaned up."""
    return (
        f"Node {node} is gone, so its agent cannot clean up. If its storage lives on, volumes whose names contain "
        f"{uid} may be left on it."
    )


def _message(migration: Migration, now: datetime) -> str:
    node = migration.status.node_name or ""
    if migration.is_deleting:
        return deletion_waits(node)
    if _is_late(migration, now):
        seconds = migration.spec.active_deadline_seconds if migration.spec is not None else None
        return (
            f"activeDeadlineSeconds ({seconds}) are over, and the agent on node {node}, which alone can end the "
            "migration, does not renew its Lease. It will when it is back, unless the disk is on the destination by "
            f"then. Check its pod. {_FOR_GOOD}, then this DiskMigration."
        )
    return (
        f"The agent on node {node} does not renew its Lease, so nobody knows how far it is. Check its pod. "
        f"The migration goes on when it is back. {_FOR_GOOD}, then this DiskMigration."
    )


def _is_late(migration: Migration, now: datetime) -> bool:
    left = deadlines.seconds_to_deadline(migration, now)
    return left is not None and left <= 0


def _condition(
    migration: Migration,
    kind: ConditionType,
    value: ConditionStatus,
    message: str,
    now: datetime,
    *,
    reason: Reason = Reason.AGENT_UNREACHABLE,
) -> Condition:
    return condition(
        migration.status.conditions,
        kind.value,
        value,
        reason=reason.value,
        message=message,
        generation=migration.metadata.generation,
        now=now,
    )


def _with(part: DiskMigrationStatus, made: list[Condition]) -> DiskMigrationStatus:
    kinds = {one.type for one in made}
    kept = [one for one in part.conditions if one.type not in kinds]
    return part.model_copy(update={"conditions": (*kept, *made)})
