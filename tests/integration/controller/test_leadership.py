"""Two operators, of which one works: killed, told to end, or frozen, the other goes on where it was."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diskmigration.api import names
from testbed.control_plane import ControlPlane
from tests.integration.controller.conftest import Operator
from tests.integration.controller.test_queue import LIMIT, is_active, watched, work_through
from tests.integration.controller.world import World, machine
from tests.integration.freezing import frozen_api_server
from tests.waiting import wait_until

DURATION_SECONDS = 6
TERMS = (
    "--leader-elect",
    f"--leader-duration-seconds={DURATION_SECONDS}",
    "--leader-renew-deadline-seconds=4",
    "--leader-retry-seconds=0.5",
)


class Pair:
    """Two operators, the first of which leads."""

    def __init__(self, control_plane: ControlPlane, directory: Path) -> None:
        self._control_plane = control_plane
        self.first = Operator(control_plane, directory / "first.log")
        self.second = Operator(control_plane, directory / "second.log")
        self.first.start(*TERMS)
        wait_until(lambda: leads(self.first), "the first leads")
        self.second.start(*TERMS)
        assert not leads(self.second)

    def holder(self) -> str:
        """Who holds the Lease."""
        return self._control_plane.kubectl(
            "get",
            "lease",
            names.LEADER_LEASE,
            f"--namespace={names.SYSTEM_NAMESPACE}",
            "--output=jsonpath={.spec.holderIdentity}",
        )


def leads(operator: Operator) -> bool:
    """What it tells Prometheus."""
    return "diskmigration_leader 1.0" in operator.get("metrics")


@pytest.fixture
def pair(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(control_plane, tmp_path)
    try:
        yield made
    finally:
        made.first.kill()
        made.second.kill()


def active(world: World) -> list[dict[str, Any]]:
    return [status for status in world.statuses().values() if is_active(status)]


def queue_of(world: World, count: int) -> list[Any]:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=LIMIT)
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(count)])
    return [world.migrate(f"m{n}", world.name(f"vm-{n}")) for n in range(count)]


def test_a_leader_that_is_killed_is_followed_and_nothing_is_lost(world: World, pair: Pair) -> None:
    with watched(world) as looks:
        handles = queue_of(world, 10)
        wait_until(lambda: len(active(world)) == LIMIT, "every place is taken")
        pair.first.kill()
        wait_until(lambda: leads(pair.second), "the second leads", seconds=DURATION_SECONDS + 10)
        work_through(world, handles)
    assert max(counts[world.name("dst")] for counts in looks) == LIMIT
    assert {handle.status()["phase"] for handle in handles} == {"Succeeded"}


@pytest.mark.nightly
def test_a_leader_that_is_told_to_end_makes_way_at_once(world: World, pair: Pair) -> None:
    handles = queue_of(world, 2)
    for handle in handles:
        handle.until_phase("Scheduled")
    before = pair.holder()
    assert pair.first.stop() == 0
    assert pair.holder() != before
    wait_until(lambda: leads(pair.second), "the second leads", seconds=DURATION_SECONDS - 1)


@pytest.mark.nightly
def test_one_that_stands_by_and_is_told_to_end_disturbs_nobody(pair: Pair) -> None:
    before = pair.holder()
    assert pair.second.stop() == 0
    assert [line for line in pair.second.log() if line["level"] != "INFO"] == []
    assert pair.holder() == before
    assert leads(pair.first)


def test_a_leader_that_gets_no_answer_ends_in_time(world: World, pair: Pair, control_plane: ControlPlane) -> None:
    world.domain("src")
    with frozen_api_server(control_plane):
        begun = time.monotonic()
        assert pair.first.wait() == 1
        # Before another might lead, were it only this one that got no answer.
        assert time.monotonic() - begun < DURATION_SECONDS
        assert "another operator may lead now" in str(pair.first.log()[-1]["message"])
        wait_until(lambda: not pair.second.is_ready(), "the second says that it cannot work")
        assert pair.second.is_live()
        assert not leads(pair.second)
    wait_until(lambda: leads(pair.second), "the second leads")
    wait_until(pair.second.is_ready, "the second is ready")


@pytest.mark.nightly
def test_one_that_stands_by_is_ready_and_hands_over_nothing(world: World, pair: Pair) -> None:
    pair.first.freeze()
    try:
        assert pair.second.is_live()
        assert pair.second.is_ready()
        handles = queue_of(world, 1)
        assert handles[0].status().get("nodeName") is None
        wait_until(lambda: leads(pair.second), "the second leads", seconds=DURATION_SECONDS + 10)
        handles[0].until_phase("Scheduled")
    finally:
        # It held places in state that are old: it must end without a word to the API server.
        assert pair.first.thaw() == 1
    wait_until(lambda: leads(pair.second), "the second leads still")
    assert "another operator may lead now" in str(pair.first.log()[-1]["message"])
