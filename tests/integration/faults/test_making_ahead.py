"""While the snapshot is taken, the destination's chain is made: all but the copy of what the guest still writes to."""

from collections.abc import Callable

import pytest

from tests.integration.faults.holds import Holds
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until

SOURCE, DESTINATION = "file-a", "loop-b"


@pytest.fixture
def machine(machines: Callable[..., Machine]) -> Machine:
    return machines(SOURCE, chain=3)


@pytest.fixture
def migration(stack: Stack, holds: Holds, machine: Machine) -> Migration:
    """Held when its snapshot is about to be taken, with what is made ahead."""
    holds.arm("TakeSnapshot.midway")
    migration = stack.migrate(machine, DESTINATION)
    wait_until(lambda: holds.is_reached("TakeSnapshot.midway"), "the snapshot is about to be taken", seconds=60)
    ahead = [made_volume(migration.uid, volume) for volume in ("0", "1", "overlay")]
    wait_until(lambda: stack.domains[DESTINATION].files() == ahead, "the destination's chain is made")
    assert machine.chain()[0][0] == str(machine.volumes[-1])
    return migration


def assert_moved(stack: Stack, migration: Migration) -> None:
    migration.succeed()
    assert stack.domains[DESTINATION].files() == [made_volume(migration.uid, position) for position in range(3)]
    assert stack.domains[SOURCE].files() == []


def test_the_rest_is_made_when_the_guest_writes_elsewhere(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration
) -> None:
    holds.release()
    assert_moved(stack, migration)
    machine.verify()


@pytest.mark.nightly
def test_a_vm_that_is_found_shut_off_needs_no_overlay(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration
) -> None:
    stack.agent.kill()
    stack.host.virsh("destroy", machine.name)
    holds.release()
    stack.agent.start()
    assert_moved(stack, migration)
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


def test_of_one_that_is_cancelled_meanwhile_nothing_is_left(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration
) -> None:
    migration.patch({"cancel": True})
    holds.release()
    migration.wait_for_phase("Cancelled")
    assert stack.domains[DESTINATION].files() == []
    assert sorted(stack.domains[SOURCE].files()) == sorted(path.name for path in machine.volumes)
    machine.verify()
