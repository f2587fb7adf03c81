"""How often the agent asks libvirtd: while no disk moves, for a move, and for one that waits for its cutover."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import finish, synchronized, threshold_bytes
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Machine
from tests.integration.migrations.stack import Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

MOST_CALLS = 20
MOST_CALLS_BESIDE_A_WORKER = 10
"""In two seconds on a node with one VM."""

LOOK = "virDomainGetBlockJobInfo"
"""Called once for each look of a worker at its disk."""
CALLS_OF_A_LOOK = 4

MOST_CALLS_OF_A_MOVE = 280
MOST_LOOKUPS_OF_A_MOVE = 100
"""The looks aside, and what the node's own reader asks meanwhile: 257 and 83 were measured."""

WINDOWS = 3
_BLOCK_BYTES = 64 * 1024


@contextmanager
def writing(machines: list[Machine]) -> Iterator[Callable[[], int]]:
    """Write to their disks in turn, always where nothing was written yet; returns how often that was done."""
    rounds = 0
    ended = threading.Event()

    def write() -> None:
        nonlocal rounds
        for offset in range(20 * MEBIBYTE, CAPACITY_BYTES, _BLOCK_BYTES):
            for machine in machines:
                if ended.is_set():
                    return
                machine.write(offset=offset, length=_BLOCK_BYTES, pattern=7)
            rounds += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield lambda: rounds
    finally:
        ended.set()
        writer.join()


@pytest.mark.nightly
@pytest.mark.parametrize(("count", "writers"), first_by_day([(10, 4), (40, 8)]))
def test_guests_that_write_cost_no_calls_of_their_own(
    machines: Callable[..., Machine], probes: Probes, count: int, writers: int
) -> None:
    # All of their disks fit into their volumes, so that none is extended.
    made = [machines("loop-a", volume_bytes=CAPACITY_BYTES + 16 * MEBIBYTE) for _ in range(count)]
    with writing(made[:writers]) as rounds:
        wait_until(lambda: rounds() >= 1, "all of them write")
        for machine in made[:writers]:
            wait_until(partial(threshold_bytes, machine, str(machine.volumes[0])), "the agent has looked after it")
        before = rounds()
        rates = [probes.calls_in_two_seconds() for _ in range(WINDOWS)]
        assert rounds() > before
    # Who needs which volumes is read at once of all VMs, twice a minute, so not in each of the windows.
    assert min(rate.total() for rate in rates) <= MOST_CALLS, rates


def test_a_look_at_a_disk_that_waits_for_its_cutover_takes_four_calls(
    stack: Stack, machines: Callable[..., Machine], probes: Probes
) -> None:
    machine = machines("file-a")
    migration = synchronized(stack, machine, "file-b")

    rates = [probes.calls_in_two_seconds() for _ in range(WINDOWS)]

    finish(migration, machine)
    assert any(rate[LOOK] for rate in rates), rates
    assert min(rate.total() - CALLS_OF_A_LOOK * rate[LOOK] for rate in rates) <= MOST_CALLS_BESIDE_A_WORKER, rates


def test_a_move_takes_few_calls(stack: Stack, machines: Callable[..., Machine], probes: Probes) -> None:
    machine = machines("file-a")
    before, began_at = probes.calls(), time.monotonic()

    migration = stack.migrate(machine, "file-b")
    migration.succeed()
    wait_until(lambda: not machine.has_journal(), "the agent is done with it")

    calls, seconds = probes.calls() - before, time.monotonic() - began_at
    beside = seconds * MOST_CALLS / 2
    assert calls.total() - CALLS_OF_A_LOOK * calls[LOOK] <= MOST_CALLS_OF_A_MOVE + beside, calls
    assert calls["virDomainLookupByUUIDString"] - calls[LOOK] <= MOST_LOOKUPS_OF_A_MOVE + beside / 2, calls
