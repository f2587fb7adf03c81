"""A QEMU that hangs costs its own VM: others are extended and moved, the agent lives, and all goes on after it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import has_grown_in_time
from tests.integration.migrations.hangs import (
    Hang,
    copied_bytes,
    held_monitors,
    most_workers_taken,
    silent,
    stopped_qemus,
    synchronized,
    told,
)
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Migration, Stack, storage_domain
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

CALLS_OF_OTHERS = 3
"""Workers of libvirtd that answer somebody at any moment, or let one call wait for VMs that are known to hang."""


@pytest.fixture
def many_at_once(stack: Stack) -> Iterator[None]:
    """Let more migrations run at once than the tests have."""
    domains = [stack.domains[name] for name in ("loop-a", "file-b")]
    for domain in domains:
        stack.apply(storage_domain(domain, maxConcurrentMigrations=16))
    yield
    for domain in domains:
        stack.apply(storage_domain(domain))


def says_since_when(migration: Migration) -> bool:
    """Whether it says that it waits for an answer."""
    return "This has lasted since" in told(migration)


VARIANTS: list[Any] = [
    pytest.param(stopped_qemus, 8, id="stopped-qemus"),
    pytest.param(held_monitors, 8, id="held-monitors"),
    pytest.param(stopped_qemus, 13, id="most-stopped-qemus"),
    pytest.param(stopped_qemus, 1, id="stopped-qemu"),
    pytest.param(held_monitors, 1, id="held-monitor"),
]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("many_at_once")
@pytest.mark.parametrize(("cause", "count"), first_by_day(VARIANTS))
def test_vms_that_do_not_answer_cost_themselves_alone(
    stack: Stack, machines: Machines, probes: Probes, cause: Hang, count: int
) -> None:
    hanging = [machines("loop-a", volume_bytes=32 * MEBIBYTE) for _ in range(count)]
    early, late = (machines("loop-a", volume_bytes=16 * MEBIBYTE) for _ in range(2))
    moving = machines("file-a")
    with cause(stack.host, hanging) as hang:
        moves = [synchronized(stack, machine) for machine in hanging]
        for move in moves:
            move.wait_for_phase("Synchronized", seconds=120)
        copied = [copied_bytes(move) for move in moves]

        with hang():
            has_grown_in_time(early, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            stack.migrate(moving, "file-b").succeed()
            wait_until(lambda: {vm.uuid for vm in hanging} <= silent(stack), "the node says so", seconds=60)
            assert silent(stack).isdisjoint({early.uuid, late.uuid, moving.uuid})
            for move in moves:
                wait_until(partial(says_since_when, move), "each migration says so", seconds=60)
            has_grown_in_time(late, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            wait_until(
                lambda: most_workers_taken(stack.host) <= count + CALLS_OF_OTHERS, "one call waits for each", seconds=60
            )
            assert probes.is_live(), probes.ask("livez")
            assert probes.is_ready(), probes.ask("readyz")

        wait_until(lambda: not silent(stack), "they answer again", seconds=60)
        for move, before in zip(moves, copied, strict=True):
            move.patch({"cutover": {"policy": "Automatic"}})
            status = move.succeed(seconds=120)
            assert status["attempts"] == 1
            assert status["progress"]["copiedBytes"] >= before
    for machine in (*hanging, early, late, moving):
        machine.verify()


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_many_qemus_that_hang_keep_no_other_from_being_polled(stack: Stack, machines: Machines, probes: Probes) -> None:
    hanging = [machines("file-a") for _ in range(14)]
    other = machines("loop-a", volume_bytes=16 * MEBIBYTE)
    with stopped_qemus(stack.host, hanging) as hang:
        with hang():
            wait_until(lambda: {vm.uuid for vm in hanging} <= silent(stack), "the node says so", seconds=90)
            polled = probes.calls()["virConnectGetAllDomainStats"]
            has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            wait_until(
                lambda: probes.calls()["virConnectGetAllDomainStats"] >= polled + 3, "the others are polled", seconds=15
            )
            wait_until(lambda: other.uuid not in silent(stack), "the other one answers", seconds=15)
            assert probes.is_live(), probes.ask("livez")
            assert probes.is_ready(), probes.ask("readyz")
        wait_until(lambda: not silent(stack), "they answer again", seconds=60)
    other.verify()


@pytest.mark.parametrize("cause", first_by_day([held_monitors, stopped_qemus]))
def test_an_agent_that_starts_while_a_qemu_hangs_serves_the_others(
    stack: Stack, machines: Machines, probes: Probes, cause: Hang
) -> None:
    hanging = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    other, moving = machines("loop-a", volume_bytes=16 * MEBIBYTE), machines("file-a")
    with cause(stack.host, [hanging]) as hang:
        move = synchronized(stack, hanging)
        move.wait_for_phase("Synchronized", seconds=120)
        with hang():
            wait_until(lambda: hanging.uuid in silent(stack), "the node says so", seconds=60)
            stack.agent.kill()
            stack.agent.start()
            has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
            wait_until(probes.is_ready, "the agent is ready", seconds=60)
            stack.migrate(moving, "file-b").succeed()
            wait_until(lambda: hanging.uuid in silent(stack), "the node says so again", seconds=60)
            assert silent(stack).isdisjoint({other.uuid, moving.uuid})
            assert probes.is_live(), probes.ask("livez")
        wait_until(lambda: not silent(stack), "it answers again", seconds=60)
        move.patch({"cutover": {"policy": "Automatic"}})
        assert move.succeed(seconds=120)["attempts"] == 1
    for machine in (hanging, other, moving):
        machine.verify()
