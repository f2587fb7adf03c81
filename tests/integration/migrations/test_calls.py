"""How often the agent asks libvirtd while no disk moves: that grows neither with the VMs nor with those that write."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import threshold_bytes
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Machine
from tests.variants import first_by_day
from tests.waiting import wait_until

MOST_CALLS = 20
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
