"""metav1.Condition: how programs read an object's state."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from diskmigration.api.model import Model, Time


class ConditionStatus(StrEnum):
    """True, False, or Unknown while it is not decided."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One observation of an object, with the generation it was made of."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: Time


def find(conditions: Iterable[Condition], condition_type: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def is_true(conditions: Iterable[Condition], condition_type: str) -> bool:
    """Whether the condition of that type is there and True."""
    found = find(conditions, condition_type)
    return found is not None and found.status is ConditionStatus.TRUE


def condition(
    before: Iterable[Condition],
    condition_type: str,
    status: ConditionStatus | bool,  # noqa: FBT001 - True and False are the condition's own values
    *,
    reason: str,
    message: str = "",
    generation: int | None,
    now: datetime,
) -> Condition:
    """The new condition of a type: its transition time is kept from before while the status stays the same."""
    value = ConditionStatus(str(status)) if isinstance(status, bool) else status
    old = find(before, condition_type)
    since = old.last_transition_time if old is not None and old.status is value else now
    return Condition(
        type=condition_type,
        status=value,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=since,
    )


def conditions_of(
    before: Iterable[Condition],
    states: Mapping[str, ConditionStatus | bool],
    *,
    reason: str,
    message: str,
    generation: int | None,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return a condition of each type, all with the same reason and message; see `condition`."""
    known = tuple(before)
    return tuple(
        condition(known, str(kind), status, reason=reason, message=message, generation=generation, now=now)
        for kind, status in states.items()
    )
