"""etcd is restored from a backup, with lower resourceVersions than the operator has seen."""

from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane
from tests.integration.controller.conftest import Operator
from tests.integration.controller.world import World, machine


@pytest.mark.nightly
def test_the_operator_ends_and_sees_what_is_there_when_it_is_started_again(
    world: World, mortal: Operator, control_plane: ControlPlane, tmp_path: Path
) -> None:
    for name in ("src", "dst"):
        world.domain(name, maxConcurrentMigrations=1)
    world.node("n1", [machine(world.name(f"vm-{n}")) for n in range(3)])
    mortal.start("--relist-seconds=2")
    first = world.migrate("first", world.name("vm-0"))
    first.until_phase("Scheduled")
    second = world.migrate("second", world.name("vm-1"))
    second.until_accepted("True", "Queued")
    control_plane.back_up(tmp_path / "backup")

    first.agent_ends()
    second.until_phase("Scheduled")
    lost = world.migrate("lost", world.name("vm-2"))
    lost.until_accepted("True", "Queued")
    control_plane.restore(tmp_path / "backup")
    assert first.status()["phase"] == "Scheduled"
    assert lost.body() is None

    # A list of all objects takes 2 % of its time at most.
    assert mortal.wait(seconds=120) == 1
    assert "restored from a backup" in str(mortal.log()[-1])
    mortal.start()
    assert (first.status()["phase"], second.status()["phase"]) == ("Scheduled", "Pending")
    first.agent_ends()
    second.until_phase("Scheduled")
    second.agent_ends()
    world.migrate("lost", world.name("vm-2")).until_phase("Scheduled")
