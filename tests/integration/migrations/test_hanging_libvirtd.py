"""A libvirtd that hangs is told and waited for: guests run on, nothing is copied twice, and all goes on after it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from testbed.libvirt_host import LibvirtHost
from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import has_grown_in_time
from tests.integration.migrations.hangs import copied_bytes, told
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

SLOW = "1Mi"
PHASES: list[Any] = [
    pytest.param({"bandwidth": SLOW, "strategy": "Direct"}, 1, "Replicating", id="Replicating"),
    pytest.param({"bandwidth": SLOW}, 2, "CopyingChain", id="CopyingChain"),
    pytest.param({"cutover": {"policy": "Manual"}}, 2, "Synchronized", id="Synchronized"),
]
"""What holds a migration in each phase, and of how many volumes its chain is."""
LET_GO = {"bandwidth": None, "cutover": {"policy": "Automatic"}}


@contextmanager
def frozen(host: LibvirtHost) -> Iterator[None]:
    """SIGSTOP libvirtd for the block."""
    host.freeze_daemon()
    try:
        yield
    finally:
        host.thaw_daemon()


def is_unready(stack: Stack) -> bool:
    """Whether the node's LibvirtHost says that libvirtd does not answer."""
    conditions = stack.host_object()["status"]["conditions"]
    return any(found["type"] == "Ready" and found["status"] == "False" for found in conditions)


@pytest.mark.parametrize(("spec", "chain", "phase"), first_by_day(PHASES))
def test_a_libvirtd_that_hangs_is_told_and_waited_for(
    stack: Stack, machines: Machines, probes: Probes, spec: dict[str, Any], chain: int, phase: str
) -> None:
    moved, other = machines("file-a", chain=chain), machines("loop-a", volume_bytes=16 * MEBIBYTE)
    migration = stack.migrate(moved, "file-b", **spec)
    migration.wait_for_phase(phase)
    copied = copied_bytes(migration)
    with frozen(stack.host):
        # What is copied without libvirt goes on.
        migration.patch(LET_GO)
        wait_until(partial(is_unready, stack), "the node says so", seconds=60)
        wait_until(lambda: "This has lasted since" in told(migration), "the migration says so", seconds=60)
        assert migration.status()["attempts"] == 1
        assert copied_bytes(migration) >= copied
        assert not probes.is_ready()
        assert probes.is_live(), probes.ask("livez")
        copied = copied_bytes(migration)
    wait_until(probes.is_ready, "libvirtd answers again", seconds=60)
    has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
    assert migration.succeed()["attempts"] == 1
    assert copied_bytes(migration) >= copied
    assert_moved(stack, moved, "file-a", "file-b", migration.uid, length=chain)
    for machine in (moved, other):
        machine.verify()
