"""Which Events tell of a change of a migration's status. Pure.

A migration that goes well has three: Scheduled, which the operator records, Pivoted and Succeeded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from diskmigration.api import conditions
from diskmigration.api.conditions import ConditionStatus
from diskmigration.api.disk_migration import ConditionType, DiskMigrationStatus, Phase
from diskmigration.cluster.events import EventType

PIVOTED = "Pivoted"


@dataclass(frozen=True)
class Happening:
    """One Event that is to be recorded."""

    reason: str
    note: str
    event_type: EventType = EventType.NORMAL


def happenings(before: DiskMigrationStatus, after: DiskMigrationStatus) -> Iterator[Happening]:
    """Yield what has happened between the status that was written last and this one."""
    yield from _convergence(before, after)
    if after.pivoted_time is not None and before.pivoted_time is None and after.destination is not None:
        domain = after.destination.storage_domain_name
        yield Happening(PIVOTED, f"The guest writes to the storage domain {domain}, where its disk lives from now on.")
    has_ended = after.phase is not None and after.phase.is_final
    if not has_ended or after.phase is before.phase or after.phase is None:
        return
    note = after.failure.message if after.failure is not None else f"The migration is {after.phase.value}."
    yield Happening(after.phase.value, note, EventType.WARNING if after.phase is Phase.FAILED else EventType.NORMAL)
    yield from _retained(after)


def _retained(status: DiskMigrationStatus) -> Iterator[Happening]:
    for reason, side in (("SourceRetained", status.source), ("DestinationRetained", status.destination)):
        if side is not None and side.retained:
            names = ", ".join(volume.name for volume in side.retained)
            note = f"Kept in the storage domain {side.storage_domain_name}: {names}. {side.retained[0].reason}"
            yield Happening(reason, note)


def _convergence(before: DiskMigrationStatus, after: DiskMigrationStatus) -> Iterator[Happening]:
    now = conditions.find(after.conditions, ConditionType.CONVERGING)
    known = conditions.find(before.conditions, ConditionType.CONVERGING)
    if now is None or (known is not None and known.reason == now.reason):
        return
    if known is None and now.status is ConditionStatus.TRUE:
        # Nobody was told that it was otherwise.
        return
    normal = now.status is ConditionStatus.TRUE
    yield Happening(now.reason, now.message, EventType.NORMAL if normal else EventType.WARNING)
