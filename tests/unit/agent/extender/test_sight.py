"""When a look at a VM asks libvirt, and when what was seen before is enough."""

import pytest

from diskmigration.agent.extender.sight import Polled, PollQueue, Sight, is_enough
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.statistics import DomainStatistics

RUNNING, PAUSED_BY_USER, PAUSED_BY_ERROR = (1, 1), (3, 1), (3, 5)


def sight(state: tuple[int, int] | None = RUNNING) -> Sight:
    return Sight(DomainDescription("vm", "vm", ()), DomainStatistics("vm", 1, (), state=state), 10.0, 10.5)


@pytest.mark.parametrize(
    ("seen", "looked_at", "expected"),
    [
        (sight(), None, True),
        (sight(), 9.9, True),
        (sight(PAUSED_BY_USER), 9.9, True),
        (sight(), 10.0, False),
        (sight(), 10.2, False),
        (sight(PAUSED_BY_ERROR), None, False),
        (sight(None), None, False),
        (None, None, False),
    ],
    ids=["first", "newer", "paused by the user", "as old", "older", "paused by an error", "state unknown", "nothing"],
)
def test_what_was_seen_is_enough_if_it_is_newer_than_the_last_look(
    seen: Sight | None, looked_at: float | None, expected: bool
) -> None:
    assert is_enough(seen, looked_at=looked_at) is expected


def test_the_newest_poll_is_taken_and_the_others_are_dropped() -> None:
    polls = PollQueue()
    for number in range(3):
        polls.put(Polled((), number, number))
    assert polls.take(timeout=1) == Polled((), 2, 2)
    assert polls.take(timeout=0) is None
