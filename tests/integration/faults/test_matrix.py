"""Every fault at every moment, in both directions (`make faults`), and some that have each of them (`make test`)."""

from collections.abc import Callable

import pytest

from testbed.control_plane import ControlPlane
from testbed.programs import Program
from tests.integration.faults.cells import RECOVERY, Cell, machine_on, play
from tests.integration.faults.faults import FAULTS, World
from tests.integration.faults.holds import Holds
from tests.integration.faults.link import Link
from tests.integration.faults.moments import BACK, FORWARD
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Stack

DIRECTIONS = [("file-a", "loop-b"), ("loop-b", "file-a")]
MOMENTS = (*FORWARD, *BACK)
OUTAGE_SECONDS = 30.0
SHORT_OUTAGE_SECONDS = 6.0
"""Longer than the agent's Lease is good for here."""


def covering() -> list[tuple[str, str, tuple[str, str]]]:
    """Each moment with one fault, the next with the next one, so that each fault is there several times."""
    faults = list(FAULTS)
    return [
        (faults[number % len(faults)], moment, DIRECTIONS[number // 2 % 2]) for number, moment in enumerate(MOMENTS)
    ]


@pytest.fixture
def world(
    stack: Stack,
    own_control_plane: ControlPlane,
    operator: Program,
    link: Link,
    holds: Holds,
) -> Callable[[Machine, float], World]:
    """All that can break, around a VM."""
    return lambda machine, outage: World(stack, own_control_plane, operator, link, holds, machine, outage)


@pytest.mark.parametrize(
    ("fault", "moment", "direction"),
    covering(),
    ids=lambda value: "-to-".join(value) if type(value) is tuple else value,
)
def test_covering(
    world: Callable[[Machine, float], World],
    machines: Callable[..., Machine],
    fault: str,
    moment: str,
    direction: tuple[str, str],
) -> None:
    source, destination = direction
    play(world(machine_on(machines, source), SHORT_OUTAGE_SECONDS), Cell(fault, moment, source, destination))


@pytest.mark.faults
@pytest.mark.parametrize("direction", DIRECTIONS, ids="-to-".join)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_matrix(
    world: Callable[[Machine, float], World],
    machines: Callable[..., Machine],
    fault: str,
    moment: str,
    direction: tuple[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    source, destination = direction
    recovery = play(world(machine_on(machines, source), OUTAGE_SECONDS), Cell(fault, moment, source, destination))
    record_property(RECOVERY, str(recovery))
