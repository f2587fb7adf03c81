"""A VM on block storage that starts while its XML comes to name the copy: no write is lost, or both sides are kept."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.faults.holds import Holds
from tests.integration.hosts import needs_own_dev
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

pytestmark = needs_own_dev

Machines = Callable[..., Machine]

SOURCE, DESTINATION = "loop-b", "file-a"


def start(machine: Machine) -> None:
    machine.host.virsh("start", machine.name, "--paused")


def destroy(machine: Machine) -> None:
    machine.host.virsh("destroy", machine.name)


def run_and_write(machine: Machine) -> None:
    start(machine)
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)
    destroy(machine)


@pytest.fixture
def machine(machines: Machines) -> Machine:
    return machines(SOURCE, start=False)


@pytest.fixture
def migration(stack: Stack, holds: Holds, machine: Machine) -> Migration:
    """Held when the copy was found to be whole, just before the XML is changed."""
    holds.arm("PivotCold.midway")
    holds.arm("PivotCold.acted")
    migration = stack.migrate(machine, DESTINATION)
    wait_until(lambda: holds.is_reached("PivotCold.midway"), "the XML is about to be changed", seconds=60)
    return migration


def copy_of(stack: Stack, migration: Migration) -> Path:
    return stack.domains[DESTINATION].path(made_volume(migration.uid, 0))


def assert_moved(stack: Stack, machine: Machine, migration: Migration) -> None:
    assert migration.succeed()["attempts"] == 1
    if machine.state() == "shut off":
        start(machine)
    assert [path for path, _ in machine.chain()] == [str(copy_of(stack, migration))]
    assert machine.chain(inactive=True)[0] == machine.chain()[0]
    assert stack.domains[SOURCE].files() == []
    machine.verify()


def test_what_a_vm_wrote_that_started_with_the_old_xml_is_copied_again(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration
) -> None:
    run_and_write(machine)
    holds.release()
    assert_moved(stack, machine, migration)


@pytest.mark.nightly
def test_an_agent_that_dies_before_it_has_proven_the_change_leaves_that_to_the_next_one(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration
) -> None:
    run_and_write(machine)
    holds.release_one("PivotCold.midway")
    wait_until(lambda: holds.is_reached("PivotCold.acted"), "the XML names the copy")
    assert machine.chain(inactive=True)[0][0] == str(copy_of(stack, migration))
    stack.agent.kill()
    holds.release()
    stack.agent.start()
    assert_moved(stack, machine, migration)


@pytest.mark.nightly
def test_a_change_that_nobody_disturbed_is_proven_by_the_next_agent(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration
) -> None:
    holds.release_one("PivotCold.midway")
    wait_until(lambda: holds.is_reached("PivotCold.acted"), "the XML names the copy")
    stack.agent.kill()
    start(machine)
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)
    holds.release()
    stack.agent.start()
    assert_moved(stack, machine, migration)


@pytest.mark.parametrize("dies", first_by_day([True, False]), ids=["agent-dies", "agent-lives"])
@pytest.mark.parametrize("ends", first_by_day([False, True]), ids=["running", "shut-off"])
def test_where_the_vm_ran_on_both_sides_both_are_kept(
    stack: Stack, holds: Holds, machine: Machine, migration: Migration, *, ends: bool, dies: bool
) -> None:
    [source], copy = machine.volumes, copy_of(stack, migration)
    run_and_write(machine)
    holds.release_one("PivotCold.midway")
    wait_until(lambda: holds.is_reached("PivotCold.acted"), "the XML names the copy")
    if dies:
        stack.agent.kill()
    start(machine)
    machine.write(offset=70 * MEBIBYTE, length=MEBIBYTE, pattern=70)
    if ends:
        destroy(machine)
    holds.release()
    if dies:
        stack.agent.start()

    failure = migration.wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "VirtualMachineStopped"
    assert str(source) in failure["message"]
    assert str(copy) in failure["message"]
    assert copy.exists()
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    if not ends:
        destroy(machine)
    # The one has what was written before, the other what was written after.
    del machine.written[70 * MEBIBYTE]
    machine.set_source(str(source), "block")
    start(machine)
    machine.verify()
    destroy(machine)
    machine.written[70 * MEBIBYTE] = (MEBIBYTE, 70)
    del machine.written[60 * MEBIBYTE]
    machine.set_source(str(copy), "file")
    start(machine)
    machine.verify()


@pytest.mark.parametrize("ends", first_by_day([False, True]), ids=["running", "shut-off"])
@pytest.mark.parametrize("rolls_back", first_by_day([False, True]), ids=["at-the-destination", "back"])
def test_a_vm_that_starts_in_the_midst_of_a_merge_on_block_storage_loses_nothing(
    stack: Stack, holds: Holds, block: Domain, machines: Machines, *, rolls_back: bool, ends: bool
) -> None:
    """The merge is made with the VM off: it ended when the copy was in step."""
    source, destination = (block, stack.domains["file-a"]) if rolls_back else (stack.domains["file-a"], block)
    machine = machines(source, chain=2)
    moment = "MergeBack.acted" if rolls_back else "Merge.acted"
    migration = stack.migrate(machine, destination.name, cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)
    destroy(machine)
    holds.arm(moment)
    migration.patch({"cancel": True} if rolls_back else {"cutover": {"policy": "Automatic"}})
    wait_until(lambda: holds.is_reached(moment), "it is merged, and the XML is as it was", seconds=60)
    start(machine)
    machine.write(offset=70 * MEBIBYTE, length=MEBIBYTE, pattern=70)
    if ends:
        destroy(machine)
    holds.release()
    if not ends:
        wait_until(lambda: "Shut the VM down" in migration.condition("Succeeded")["message"], "it asks for its end")
        machine.write(offset=80 * MEBIBYTE, length=MEBIBYTE, pattern=80)
        destroy(machine)
    migration.wait_for_phase("Cancelled" if rolls_back else "Succeeded")
    start(machine)
    machine.verify()
    assert len(machine.chain()) == 2
