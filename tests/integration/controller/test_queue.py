"""Limits that are never overshot, and turns that are fair."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from diskmigration.api import names
from tests.integration.controller.conftest import Operator
from tests.integration.controller.world import FINAL, Handle, World, agent_status, disk, machine, ready
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("operator")

LIMIT = 3


def is_active(status: dict[str, Any]) -> bool:
    return bool(status.get("nodeName")) and status.get("phase") not in FINAL


@contextmanager
def watched(world: World) -> Iterator[list[Counter[str]]]:
    """How many were active on each storage domain, at every look; each look is one consistent list."""
    looks: list[Counter[str]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            counts: Counter[str] = Counter()
            for body in world.admin.list(names.DISK_MIGRATIONS):
                status = body.get("status", {})
                if body["metadata"]["namespace"].endswith(f"-{world.tag}") and is_active(status):
                    counts.update((status["source"]["storageDomainName"], status["destination"]["storageDomainName"]))
            looks.append(counts)
            stop.wait(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield looks
    finally:
        stop.set()
        thread.join()


def work_through(world: World, handles: list[Handle], *, seconds: float = 120) -> list[str]:
    """The agents end every active migration as they see it; the names in the order in which they were handed over."""
    order: list[str] = []

    def step() -> bool:
        statuses = world.statuses()
        for handle in handles:
            status = statuses[f"{handle.namespace}/{handle.name}"]
            if is_active(status):
                order.append(handle.name)
                handle.agent_ends()
        return all(status.get("phase") in FINAL for status in statuses.values())

    wait_until(step, "all have ended", seconds=seconds)
    return order


@pytest.mark.nightly
def test_fifty_over_two_domains_never_overshoot_their_limits(world: World, operator: Operator) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=LIMIT)
    for node in ("n1", "n2"):
        world.node(
            node,
            [
                machine(world.name(f"{node}-{way}-{number}"), disks=[disk(domain="src" if way == "to" else "dst")])
                for way in ("to", "from")
                for number in range(13)
            ],
        )
    with watched(world) as looks:
        handles = [
            world.migrate(f"{node}-{way}-{number}", world.name(f"{node}-{way}-{number}"), to=destination)
            for number in range(13)
            for node in ("n1", "n2")
            for way, destination in (("to", "dst"), ("from", "src"))
            if number < 12 or node == "n1"
        ]
        assert len(handles) == 50
        work_through(world, handles)
    assert all(handle.status()["phase"] == "Succeeded" for handle in handles)
    seen = [counts[world.name(name)] for counts in looks for name in ("src", "dst")]
    assert max(seen) == LIMIT


def test_a_namespaces_many_do_not_starve_anothers_one(world: World) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1, allowedNamespaces=["*"])
    owners = [*(["many"] * 7), "few"]
    world.node("n1", [machine(world.name(f"vm-{n}"), owner=world.name(owner)) for n, owner in enumerate(owners)])
    many = [world.migrate("many-0", world.name("vm-0"), namespace="many")]
    # Of those made within one second the uid decides: the first is let go before there is another one.
    many[0].until_phase("Scheduled")
    many += [world.migrate(f"many-{n}", world.name(f"vm-{n}"), namespace="many") for n in range(1, 7)]
    for handle in many[1:]:
        handle.until_accepted("True", "Queued")
    one = world.migrate("one", world.name("vm-7"), namespace="few")
    one.until_accepted("True", "Queued")
    order = work_through(world, [*many, one])
    assert order.index("one") <= 2


def test_a_full_domain_holds_up_no_other(world: World) -> None:
    for name in ("src", "dst", "other"):
        world.domain(name, maxConcurrentMigrations=1)
    world.domain("free", maxConcurrentMigrations=1)
    reports = [ready(name) for name in ("src", "dst", "other", "free")]
    machines = [machine(world.name(f"vm-{n}")) for n in range(3)]
    machines.append(machine(world.name("elsewhere"), disks=[disk(domain="other")]))
    world.node("n1", machines, reports)
    for number in range(3):
        world.migrate(f"m{number}", world.name(f"vm-{number}"))
    wait_until(lambda: sum(is_active(one) for one in world.statuses().values()) == 1, "one of three is active")
    world.migrate("elsewhere", world.name("elsewhere"), to="free").until_phase("Scheduled")


def test_positions_count_down(world: World) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(4)])
    first = world.migrate("m0", world.name("vm-0"))
    first.until_phase("Scheduled")
    waiting = []
    for number in range(1, 4):
        waiting.append(world.migrate(f"m{number}", world.name(f"vm-{number}")))
        waiting[-1].until_accepted("True", "Queued")

    def positions() -> dict[int | None, Handle]:
        return {handle.status().get("queuePosition"): handle for handle in waiting}

    # Of those made within one second the uid decides.
    before = wait_until(lambda: found if set(found := positions()) == {1, 2, 3} else None, "each has its position")
    first.agent_ends()
    before[1].until_phase("Scheduled")
    wait_until(lambda: positions() == {None: before[1], 1: before[2], 2: before[3]}, "they moved up")


def test_a_limit_that_is_raised_lets_more_go(world: World) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(3)])
    for number in range(3):
        world.migrate(f"m{number}", world.name(f"vm-{number}"))
    wait_until(lambda: sum(is_active(one) for one in world.statuses().values()) == 1, "one is active")
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=2)
    wait_until(lambda: sum(is_active(one) for one in world.statuses().values()) == 2, "two are active")


def test_one_that_waits_for_its_cutover_gives_its_place_to_the_next(world: World) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(2)])
    first = world.migrate("m0", world.name("vm-0"), cutover={"policy": "Manual"})
    first.until_phase("Scheduled")
    second = world.migrate("m1", world.name("vm-1"))
    second.until_accepted("True", "Queued")
    first.agent_writes(agent_status(first.status(), "Synchronized"))
    second.until_phase("Scheduled")
