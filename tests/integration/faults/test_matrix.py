"""Every fault at every moment, in both directions (`make faults`); some of them for each change and each night.

`make nightly` has each fault and each moment at least once, `make test` one for each part that can break.
"""

import itertools
from collections.abc import Callable

import pytest

from testbed.control_plane import ControlPlane
from testbed.programs import Program
from tests.integration.faults.cells import RECOVERY, Cell, machine_for, play
from tests.integration.faults.faults import COLD_FAULTS, FAULTS, World
from tests.integration.faults.holds import Holds
from tests.integration.faults.link import Link
from tests.integration.faults.moments import BACK, COLD, FORWARD
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Stack
from tests.variants import chosen_by_day

DIRECTIONS = [("file-a", "loop-b"), ("loop-b", "file-a")]
MOMENTS = (*FORWARD, *BACK)
STARTED_ON_BLOCK = [
    ("vm-started-and-ended", "CopyCold.midway"),
    ("vm-started", "CopyCold.acted"),
    ("vm-started-and-ended", "PivotCold.before"),
    ("vm-started", "PivotCold.midway"),
    ("vm-started-and-ended", "PivotCold.midway"),
    ("vm-started", "PivotCold.acted"),
]
"""Where nothing keeps a VM from starting while its disk is copied."""
BY_DAY = (
    "agent-killed-TakeSnapshot.before-file-a-to-loop-b",
    "node-unreachable-CopyChain.acted-file-a-to-loop-b",
    "deleted-Pivot.acted-file-a-to-loop-b",
    "libvirtd-killed-Finish.acted-file-a-to-loop-b",
    "vm-destroyed-MergeBack.midway-file-a-to-loop-b",
    "etcd-killed-CopyChain.before-loop-b-to-file-a-cold",
    "vm-renamed-PivotCold.acted-loop-b-to-file-a-cold",
    "domains-deleted-Finish.before-loop-b-to-file-a-cold",
)
"""One for each part that breaks, and what users do to a VM and to a migration."""
OUTAGE_SECONDS = 30.0
SHORT_OUTAGE_SECONDS = 6.0
"""Longer than the agent's Lease is good for here."""


def covering() -> list[Cell]:
    """Each moment with one fault, the next with the next one, so that each fault is there several times."""
    faults, cold_faults = list(FAULTS), list(COLD_FAULTS)
    cells = [
        *(
            Cell(faults[number % len(faults)], moment, *DIRECTIONS[number // 2 % 2])
            for number, moment in enumerate(MOMENTS)
        ),
        *(
            Cell(cold_faults[(number + 4) % len(cold_faults)], moment, *DIRECTIONS[number // 2 % 2], is_cold=True)
            for number, moment in enumerate(COLD)
        ),
        *(Cell(fault, moment, "loop-b", "file-a", is_cold=True) for fault, moment in STARTED_ON_BLOCK),
    ]
    return list(dict.fromkeys(cells))


def whole() -> list[Cell]:
    """Every fault at every moment, in both directions."""
    return [
        *(Cell(*pair, *direction) for direction in DIRECTIONS for pair in itertools.product(FAULTS, MOMENTS)),
        *(
            Cell(*pair, *direction, is_cold=True)
            for direction in DIRECTIONS
            for pair in itertools.product(COLD_FAULTS, COLD)
        ),
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


@pytest.mark.parametrize("cell", chosen_by_day(covering(), lambda cell: str(cell) in BY_DAY), ids=str)
def test_covering(world: Callable[[Machine, float], World], machines: Callable[..., Machine], cell: Cell) -> None:
    play(world(machine_for(machines, cell), SHORT_OUTAGE_SECONDS), cell)


@pytest.mark.faults
@pytest.mark.parametrize("cell", whole(), ids=str)
def test_matrix(
    world: Callable[[Machine, float], World],
    machines: Callable[..., Machine],
    cell: Cell,
    record_property: Callable[[str, object], None],
) -> None:
    recovery = play(world(machine_for(machines, cell), OUTAGE_SECONDS), cell)
    record_property(RECOVERY, str(recovery))
