"""The statuses that the operator writes. Pure.

Until it hands a migration over, the operator owns the whole status, and each of these is the whole of it: with
server-side apply, what one leaves out is removed. After that the agent owns it, and `delegated` has all that stays the
operator's: without the rest, the next apply would remove what the agent has not yet written.
"""

from datetime import datetime
from typing import Any

from diskmigration.api.conditions import Condition, ConditionStatus, conditions_of, find
from diskmigration.api.disk_migration import ConditionType, DiskMigrationStatus, Estimate, Failure, Phase
from diskmigration.api.errors import Reason
from diskmigration.api.quantity import human_readable
from diskmigration.controller.lanes import lane_of
from diskmigration.controller.placement_outcome import Outcome, Placement, Refusal
from diskmigration.controller.records import Migration
from diskmigration.controller.throughput import Throughput

QUEUED = "Queued"
SCHEDULED = "Scheduled"
SUSPENDED = "Suspended"

_HELD = " It is held by spec.suspend; set that to false to let it start."
_ESTIMATE_TOLERANCE = 0.1
_KEEPS_TURN = " It keeps its turn, and goes on by itself when this has passed."


def held(migration: Migration, outcome: Outcome, throughput: Throughput, now: datetime) -> DiskMigrationStatus:
    """Held by `suspend`, with what would become of it. As with a Job, its time starts again when it is let go.

    Accepted is Unknown also where it would be refused: once it is let go it has the whole grace.
    """
    source, destination = migration.status.source, migration.status.destination
    estimate = None
    if isinstance(outcome, Refusal):
        reason, message = outcome.reason.value, f"{outcome.message}{_HELD}"
    else:
        reason, source, destination = SUSPENDED, outcome.source, outcome.destination
        estimate = _estimate(migration.status.estimate, outcome, throughput)
        message = f"{_would_do(outcome, estimate)}{_HELD}"
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        phase=Phase.PENDING,
        conditions=_active(migration, ConditionStatus.UNKNOWN, reason, message, now),
        estimate=estimate,
        source=source,
        destination=destination,
    )


def _estimate(before: Estimate | None, placement: Placement, throughput: Throughput) -> Estimate:
    size = placement.needed_bytes
    # The guest writes all the time, and each byte more is not worth a write.
    if before is not None and abs(before.bytes - size) <= size * _ESTIMATE_TOLERANCE:
        size = before.bytes
    return Estimate(bytes=size, seconds=throughput.seconds_for(lane_of(placement), size))


def _would_do(placement: Placement, estimate: Estimate) -> str:
    source, destination = lane_of(placement)
    if placement.moves_nothing:
        return f"There is nothing to move: the disk is in the StorageDomain {source}."
    time = "" if estimate.seconds is None else f", which takes {estimate.seconds} s at the rate of the last such moves"
    return (
        f"The agent on node {placement.node} would copy {human_readable(estimate.bytes)} from the StorageDomain "
        f"{source} to {destination}{time}."
    )


def refused(migration: Migration, refusal: Refusal, now: datetime) -> DiskMigrationStatus:
    """Refused as things are, never accepted so far, and looked at again when they change."""
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        phase=Phase.PENDING,
        conditions=_active(migration, ConditionStatus.FALSE, refusal.reason.value, refusal.message, now),
    )


def waiting(migration: Migration, refusal: Refusal, now: datetime) -> DiskMigrationStatus:
    """Accepted once, and waiting until what it is refused for now has passed: only its deadline ends it.

    `lastTransitionTime` of Accepted says since when.
    """
    status = migration.status
    source, destination = refusal.sides or (status.source, status.destination)
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        phase=Phase.PENDING,
        conditions=_active(
            migration, ConditionStatus.FALSE, refusal.reason.value, _waiting_for(migration, refusal), now
        ),
        start_time=status.start_time or now,
        source=source,
        destination=destination,
    )


def _waiting_for(migration: Migration, refusal: Refusal) -> str:
    before = find(migration.status.conditions, ConditionType.ACCEPTED)
    is_same = before is not None and before.reason == refusal.reason.value and before.message.endswith(_KEEPS_TURN)
    if before is not None and is_same and refusal.reason is Reason.DESTINATION_FULL:
        # The free bytes change all the time, and each of those who wait for them would be written again.
        return before.message
    return f"{refusal.message}{_KEEPS_TURN}"


def queued(migration: Migration, placement: Placement, position: int, now: datetime) -> DiskMigrationStatus:
    """Accepted, and waiting for a place in both of its storage domains."""
    source, destination = lane_of(placement)
    message = f"Waits for a place among the concurrent migrations of StorageDomains {source} and {destination}."
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        phase=Phase.PENDING,
        conditions=_active(migration, ConditionStatus.TRUE, QUEUED, message, now),
        start_time=migration.status.start_time or now,
        queue_position=position,
        source=placement.source,
        destination=placement.destination,
    )


def scheduled(migration: Migration, placement: Placement, now: datetime) -> DiskMigrationStatus:
    """Handed to the agent of its node."""
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        node_name=placement.node,
        phase=Phase.SCHEDULED,
        conditions=_active(migration, ConditionStatus.TRUE, SCHEDULED, _handed_to(placement.node), now),
        start_time=migration.status.start_time or now,
        source=placement.source,
        destination=placement.destination,
    )


def delegated(migration: Migration, now: datetime) -> DiskMigrationStatus:
    """What stays the operator's once a migration is handed over: the same values as before, Accepted renewed.

    As long as the agent has not taken over, the phase and the other conditions are the operator's too. The agent may
    say in them what it waits for before its first step: that is kept.
    """
    status = migration.status
    message = _handed_to(status.node_name or "")
    if status.phase is Phase.SCHEDULED:
        conditions = _active(migration, ConditionStatus.TRUE, SCHEDULED, message, now)
        return DiskMigrationStatus(
            observed_generation=migration.metadata.generation,
            node_name=status.node_name,
            phase=status.phase,
            conditions=tuple(_with_words_of_agent(migration, one) for one in conditions),
            start_time=status.start_time,
            source=status.source,
            destination=status.destination,
        )
    return DiskMigrationStatus(
        node_name=status.node_name,
        conditions=_all(migration, {ConditionType.ACCEPTED: ConditionStatus.TRUE}, SCHEDULED, message, now),
        start_time=status.start_time,
        source=status.source,
        destination=status.destination,
    )


def _with_words_of_agent(migration: Migration, made: Condition) -> Condition:
    shown = find(migration.status.conditions, made.type)
    is_agents = made.type != ConditionType.ACCEPTED and shown is not None and shown.reason == SCHEDULED
    return made.model_copy(update={"message": shown.message}) if is_agents and shown is not None else made


def failed(migration: Migration, reason: Reason, message: str, now: datetime) -> DiskMigrationStatus:
    """Ended before anything was touched: refused for good, or out of time."""
    is_refusal = reason is not Reason.DEADLINE_EXCEEDED
    accepted = ConditionStatus.FALSE if is_refusal else _accepted_before(migration)
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        phase=Phase.FAILED,
        conditions=_ended_badly(migration, accepted, reason.value, message, now),
        start_time=migration.status.start_time,
        completion_time=now,
        source=migration.status.source,
        destination=migration.status.destination,
        failure=Failure(reason=reason, message=message, phase=Phase.PENDING),
    )


def cancelled(migration: Migration, now: datetime) -> DiskMigrationStatus:
    """Cancelled before anything was touched."""
    message = "Cancelled by spec.cancel before it started; nothing was touched."
    return DiskMigrationStatus(
        observed_generation=migration.metadata.generation,
        phase=Phase.CANCELLED,
        conditions=_ended_badly(migration, _accepted_before(migration), Reason.CANCELLED.value, message, now),
        start_time=migration.status.start_time,
        completion_time=now,
        source=migration.status.source,
        destination=migration.status.destination,
    )


_COMPARED = (
    "observed_generation",
    "node_name",
    "phase",
    "start_time",
    "completion_time",
    "queue_position",
    "estimate",
    "source",
    "destination",
)


def differs(now: DiskMigrationStatus, wanted: DiskMigrationStatus, *, is_whole: bool) -> bool:
    """Whether writing `wanted` would change anything; the whole status also says what is not to be there."""
    names = _COMPARED if is_whole else tuple(name for name in _COMPARED if name in wanted.model_fields_set)
    if any(getattr(now, name) != getattr(wanted, name) for name in names):
        return True
    return any(find(now.conditions, one.type) != one for one in wanted.conditions)


def not_started_in_time(migration: Migration, deadline_seconds: int) -> str:
    """Return the message of one whose deadline passed before it was handed over."""
    accepted = find(migration.status.conditions, ConditionType.ACCEPTED)
    what = f"It did not start within activeDeadlineSeconds ({deadline_seconds}); nothing was touched."
    if accepted is not None and accepted.status is ConditionStatus.FALSE:
        return f"{what} It waited last for this: {accepted.message.removesuffix(_KEEPS_TURN)}"
    return f"{what} Allow it more time, or let fewer migrations wait before it."


def to_wire(status: DiskMigrationStatus) -> dict[str, Any]:
    """Only what was said: a default that is written would become the operator's, and take the agent's value away."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)


def _handed_to(node: str) -> str:
    return f"Handed to the agent on node {node}."


def _accepted_before(migration: Migration) -> ConditionStatus:
    before = find(migration.status.conditions, ConditionType.ACCEPTED)
    return before.status if before is not None else ConditionStatus.UNKNOWN


def _active(
    migration: Migration, accepted: ConditionStatus, reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    states: dict[str, ConditionStatus | bool] = {
        ConditionType.ACCEPTED: accepted,
        ConditionType.SUCCEEDED: ConditionStatus.UNKNOWN,
        ConditionType.READY: ConditionStatus.FALSE,
        ConditionType.RECONCILING: ConditionStatus.TRUE,
        ConditionType.STALLED: ConditionStatus.FALSE,
    }
    return _all(migration, states, reason, message, now)


def _ended_badly(
    migration: Migration, accepted: ConditionStatus, reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    states: dict[str, ConditionStatus | bool] = {
        ConditionType.ACCEPTED: accepted,
        ConditionType.SUCCEEDED: ConditionStatus.FALSE,
        ConditionType.READY: ConditionStatus.FALSE,
        ConditionType.RECONCILING: ConditionStatus.FALSE,
        ConditionType.STALLED: ConditionStatus.TRUE,
    }
    return _all(migration, states, reason, message, now)


def _all(
    migration: Migration, states: dict[str, ConditionStatus | bool], reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    return conditions_of(
        migration.status.conditions,
        states,
        reason=reason,
        message=message,
        generation=migration.metadata.generation,
        now=now,
    )
